"""Builds frames.c; only the header of sharena is needed, nothing is linked."""

from setuptools import Extension, setup

import sharena

setup(
    name="frames",
    ext_modules=[Extension("frames", ["frames.c"], include_dirs=[sharena.get_include()])],
)
