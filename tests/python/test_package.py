"""What `import sharena` offers, and what it says where it cannot work."""

import ctypes
import os
import sys
from pathlib import Path

import pytest

import sharena
from sharena import _core

PROGRAM = "again.py"
NOT_LINUX = "import sys; sys.platform = 'darwin'; import sharena"
IMPORTED = "import sys, sharena; print(*sys.modules)"


def test_every_public_name_is_there_and_documented():
    assert sorted(sharena.__all__) == sharena.__all__
    for name in sharena.__all__:
        assert getattr(sharena, name).__doc__, name


def test_errors_fit_into_pythons_own():
    for name in sharena.__all__:
        kind = getattr(sharena, name)
        if name.endswith("Error"):
            assert issubclass(kind, sharena.SharenaError)
    assert issubclass(sharena.HeapFullError, MemoryError)
    assert issubclass(sharena.HeapNotFoundError, FileNotFoundError)


def test_other_systems_are_told_what_is_supported(run_python):
    done = run_python("-c", NOT_LINUX)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: sharena runs on 64-bit Linux")
    assert "darwin" in last


def test_no_other_library_is_imported(run_python):
    modules = set(run_python("-c", IMPORTED).stdout.split())
    assert "numpy" in modules
    assert not modules & {"pandas", "scipy", "loky", "joblib", "skimage", "PIL"}
    assert "sharena.demo" not in modules


def test_the_environment_names_the_default_heap():
    assert os.environ["SHARENA_HEAP"]
    assert sharena.Heap.default() is sharena.Heap.default()


def test_descendants_join_the_same_heap(run_python):
    text = "import sharena; print(sharena.Heap.default().uuid)"
    here = sharena.Heap.default().uuid
    inherited = {"SHARENA_HEAP": os.environ["SHARENA_HEAP"]}
    assert run_python("-c", text, env=inherited).stdout.strip() == here
    assert run_python("-c", text).stdout.strip() != here


def test_a_heap_that_is_gone_is_replaced(run_python):
    text = "import sharena; print(sharena.ones(3).sum())"
    gone = {"SHARENA_HEAP": f"{'f' * 32}:{os.getpid()}:0"}
    done = run_python("-c", text, env=gone)
    assert done.stdout.strip() == "3.0", done.stderr


def test_imported_again(run_program, case):
    run_program(PROGRAM, case, env={"SHARENA_WARN_BYVALUE": "1MiB"})


def test_the_header_is_where_get_include_says():
    assert (Path(sharena.get_include()) / "sharena" / "sharena.h").is_file()


@pytest.mark.skipif(sys.version_info < (3, 13), reason="Py_mod_gil is of Python 3.13")
def test_the_extension_declares_that_it_needs_no_gil():
    """Reads the slots of its PyModuleDef, as a free-threaded interpreter does."""

    class Slot(ctypes.Structure):
        _fields_ = (("number", ctypes.c_int), ("value", ctypes.c_void_p))

    class Definition(ctypes.Structure):
        _fields_ = (
            ("object", ctypes.c_byte * object.__basicsize__),  # twice as large without a GIL
            ("base", ctypes.c_void_p * 3),
            ("name", ctypes.c_char_p),
            ("doc", ctypes.c_char_p),
            ("size", ctypes.c_ssize_t),
            ("methods", ctypes.c_void_p),
            ("slots", ctypes.POINTER(Slot)),
        )

    init = ctypes.PyDLL(_core.__file__).PyInit__core
    init.restype = ctypes.POINTER(Definition)
    slots = init().contents.slots
    found = {}
    for i in range(20):
        if slots[i].number == 0:
            break
        found[slots[i].number] = slots[i].value
    py_mod_gil, py_mod_gil_not_used = 4, 1
    assert found[py_mod_gil] == py_mod_gil_not_used
