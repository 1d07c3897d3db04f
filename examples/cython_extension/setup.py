"""Builds moments.pyx; sharena's declarations for Cython are found in the installed package."""

from Cython.Build import cythonize
from setuptools import Extension, setup

import sharena

moments = Extension("moments", ["moments.pyx"], include_dirs=[sharena.get_include()])
setup(name="moments", ext_modules=cythonize([moments]))
