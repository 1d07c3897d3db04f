"""sharena_py.h: the examples build and run, the table behind it, what is refused."""

import ctypes
import gc
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sharena

EXAMPLES = Path(__file__).parents[2] / "examples"
HEADER = "sharena/sharena_py.h"


def build(directory):
    """Run setup.py there, with the compiler's warnings as errors."""
    pytest.importorskip("setuptools")
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=directory,
        env={**os.environ, "CFLAGS": "-Wall -Wextra -Werror"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


@pytest.fixture(scope="module")
def c_example(tmp_path_factory):
    directory = tmp_path_factory.mktemp("examples") / "c"
    shutil.copytree(EXAMPLES / "c_extension", directory)
    return build(directory)


def test_the_example_in_c(run_python, c_example):
    done = run_python("use.py", cwd=c_example, env={"PYTHONMALLOC": "debug"})
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "(480, 320) frames lent: 1",
        "frames lent: 0",
        "shared: True last mean: 255",
        "doubled by another process: 510",
    ]


def test_the_example_in_cython(run_python, tmp_path):
    pytest.importorskip("Cython")
    directory = tmp_path / "cython"
    shutil.copytree(EXAMPLES / "cython_extension", directory)
    done = run_python("use.py", cwd=build(directory), env={"PYTHONMALLOC": "debug"})
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "[ 1.  3.  9. 27. 81.] shared: True",
        "the same memory: True",
        "freed: 0 sum: 10.0",
        "freed: 1",
    ]


@pytest.mark.parametrize("language", ["c", "c++"])
def test_the_header_stands_alone(tmp_path, language):
    compiler = {"c": ["cc", "-std=c11"], "c++": ["c++", "-std=c++11"]}[language]
    source = tmp_path / "user"
    source.write_text(f"#include <{HEADER}>\n", encoding="utf-8")
    import sysconfig

    python = sysconfig.get_paths()["include"]
    command = [*compiler, "-x", language, "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    try:
        subprocess.run(
            [*command, f"-I{sharena.get_include()}", f"-isystem{python}", source], check=True
        )
    except FileNotFoundError:
        pytest.skip(f"no {compiler[0]} here")


# ---- a package that does not fit ----

WITHOUT = """
import sys, types
package, core = types.ModuleType("sharena"), types.ModuleType("sharena._core")
sys.modules["sharena"], sys.modules["sharena._core"] = package, core
{}
import frames
"""
OLDER = """
import ctypes
table = (ctypes.c_uint32 * 2)({}, {})
name = ctypes.c_char_p({!r})
new = ctypes.pythonapi.PyCapsule_New
new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
core._C_API = new(ctypes.addressof(table), name, None)
"""
CAPSULE = b"sharena._core._C_API"
UPGRADE = "needs version 1 of sharena's C API, and the installed sharena has 0; upgrade sharena"
MISFITS = {
    "without": (WITHOUT.format(""), UPGRADE),
    "older": (WITHOUT.format(OLDER.format(0, 8, CAPSULE)), UPGRADE),
    "shorter": (WITHOUT.format(OLDER.format(1, 8, CAPSULE)), "sharena has 1; upgrade sharena"),
    "renamed": (WITHOUT.format(OLDER.format(1, 999, b"other")), UPGRADE),
    "no capsule": (WITHOUT.format("core._C_API = 3"), UPGRADE),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_package_that_does_not_fit_is_refused(run_python, c_example, misfit):
    program, words = MISFITS[misfit]
    done = run_python("-c", program, cwd=c_example)
    assert done.returncode == 1, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("ImportError: this extension needs")
    assert words in done.stderr


def test_a_missing_package_is_missing(run_python, c_example):
    """Without the packages of site, among them sharena."""
    done = run_python("-S", "-c", "import frames", cwd=c_example)
    assert done.returncode == 1
    assert "ModuleNotFoundError: No module named 'sharena'" in done.stderr


def test_a_newer_extension_is_refused(run_python, tmp_path, c_example):
    """As if this were the older package: the header has one more function."""
    include = tmp_path / "include"
    shutil.copytree(sharena.get_include(), include)
    header = include / HEADER
    text = header.read_text(encoding="utf-8")
    newer = re.sub(r"(#define SHARENA_PY_VERSION) 1\b", r"\1 2", text)
    newer = newer.replace("} sharena_py_api;", "    void (*more)(void);\n} sharena_py_api;")
    assert len(newer) > len(text)
    header.write_text(newer, encoding="utf-8")
    directory = tmp_path / "c"
    shutil.copytree(EXAMPLES / "c_extension", directory)
    setup = (directory / "setup.py").read_text(encoding="utf-8")
    setup = setup.replace("sharena.get_include()", repr(str(include)))
    (directory / "setup.py").write_text(setup, encoding="utf-8")
    done = run_python("-c", "import frames", cwd=build(directory))
    assert done.returncode == 1
    assert "ImportError" in done.stderr
    assert "needs version 2 of sharena's C API, and the installed sharena has 1" in done.stderr


# ---- the table ----

Dims = ctypes.POINTER(ctypes.c_ssize_t)
Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
Object, Size = ctypes.py_object, ctypes.c_ssize_t
# py_object can't be NULL as an argument: the address of an object, or None
Borrowed = ctypes.c_void_p


class Table(ctypes.Structure):
    """Version 1 of sharena_py_api: what compiled extensions rely on."""

    _fields_ = (
        ("version", ctypes.c_uint32),
        ("size_bytes", ctypes.c_uint32),
        (
            "new_array",
            ctypes.PYFUNCTYPE(Object, Borrowed, Borrowed, ctypes.c_int, Dims, ctypes.c_uint),
        ),
        (
            "wrap",
            ctypes.PYFUNCTYPE(
                *(Object, ctypes.c_void_p, Borrowed, ctypes.c_int, Dims, Dims, ctypes.c_uint),
                *(Destructor, ctypes.c_void_p, Borrowed),
            ),
        ),
        ("handle", ctypes.PYFUNCTYPE(Object, Borrowed, ctypes.c_uint)),
        ("attach", ctypes.PYFUNCTYPE(Object, Borrowed)),
        ("is_shared", ctypes.PYFUNCTYPE(ctypes.c_int, Borrowed)),
    )


@pytest.fixture(scope="module")
def table():
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [Object, ctypes.c_char_p]
    return Table.from_address(get(sharena._core._C_API, CAPSULE))


def dims(*sizes):
    return (ctypes.c_ssize_t * len(sizes))(*sizes)


ZERO, FORTRAN, READONLY, GIL = 1, 2, 4, 8


def test_the_table_is_of_this_version(table):
    text = (Path(sharena.get_include()) / HEADER).read_text(encoding="utf-8")
    assert f"#define SHARENA_PY_VERSION {table.version}\n" in text
    assert table.size_bytes >= ctypes.sizeof(Table)


def test_new_arrays(table):
    a = table.new_array(None, None, 2, dims(3, 4), ZERO)
    assert (a.shape, a.dtype) == ((3, 4), np.dtype("f8"))
    assert not a.any()
    assert sharena.is_shared(a)
    dtype = np.dtype([("a", "i2"), ("b", "f4")])
    b = table.new_array(id(None), id(dtype), 2, dims(3, 4), FORTRAN)
    assert b.dtype == dtype
    assert b.flags.f_contiguous
    assert not b.flags.c_contiguous
    c = table.new_array(None, id("u1"), 0, None, ZERO)
    assert (c.shape, c.dtype) == ((), np.dtype("u1"))
    with sharena.Heap.create() as heap:
        d = table.new_array(id(heap), None, 1, dims(5), 0)
        assert heap.stats().blocks == 1
        del d


class Freed:
    """Memory, and a destructor in C that notes its arguments."""

    def __init__(self):
        self.calls = []
        self.destructor = Destructor(
            lambda address, context: self.calls.append((address, context))
        )
        self.buffer = (ctypes.c_double * 32)(*range(32))
        self.address = ctypes.addressof(self.buffer)


@pytest.mark.parametrize("flags", [0, GIL])
def test_wrapped_memory(table, flags):
    memory = Freed()
    owner = object()
    owned = sys.getrefcount(owner)
    a = table.wrap(
        *(memory.address, None, 2, dims(4, 4), dims(64, 16), flags),
        *(memory.destructor, 77, id(owner)),
    )
    assert a.tolist() == [[8 * i + 2 * j for j in range(4)] for i in range(4)]
    assert a.flags.writeable
    assert sys.getrefcount(owner) == owned + 1
    view = a[1:]
    del a
    gc.collect()
    assert not memory.calls
    del view
    assert memory.calls == [(memory.address, 77)]
    assert sys.getrefcount(owner) == owned


def test_wrapped_memory_that_is_read_only(table):
    memory = Freed()
    a = table.wrap(
        memory.address, None, 1, dims(4), None, READONLY, memory.destructor, None, None
    )
    with pytest.raises(ValueError, match="WRITEABLE"):
        a.flags.writeable = True
    del a
    assert memory.calls == [(memory.address, None)]


def test_wrapped_memory_that_nobody_frees(table):
    memory = Freed()
    a = table.wrap(memory.address, None, 1, dims(4), None, 0, Destructor(), None, None)
    assert a.tolist() == [0, 1, 2, 3]


def test_handles(table):
    a = sharena.array(np.arange(6.0))
    handle = table.handle(id(a), 2)
    for _ in range(2):
        b = table.attach(id(handle))
        assert b.ctypes.data == a.ctypes.data
    assert not sharena.Heap.default().tickets()
    private = np.ones(3)
    assert [table.is_shared(id(x)) for x in (a, private, None)] == [1, 0, 0]


OBJECT, NO_HANDLE = "object", b"handle"  # the table below has their addresses only
BAD = [  # error, words, of which function, its arguments
    (ValueError, "nd, dims", "new_array", (None, None, -1, dims(3), 0)),
    (ValueError, "nd, dims", "new_array", (None, None, 65, dims(3), 0)),
    (ValueError, "nd, dims.*NULL", "new_array", (None, None, 1, None, 0)),
    (ValueError, "negative", "new_array", (None, None, 1, dims(-3), 0)),
    (ValueError, "too big", "new_array", (None, None, 2, dims(1 << 40, 1 << 40), 0)),
    (ValueError, "flags: 4", "new_array", (None, None, 1, dims(3), READONLY)),
    (TypeError, "heap must", "new_array", (id(sharena), None, 1, dims(3), 0)),
    (TypeError, "dtype", "new_array", (None, id(OBJECT), 1, dims(3), 0)),
    (ValueError, "nd, dims", "wrap", (None, -1, dims(3), None, 0)),
    (ValueError, "nd, dims.*NULL", "wrap", (None, 1, None, None, 0)),
    (ValueError, "shape: .*negative", "wrap", (None, 1, dims(-3), None, 0)),
    (ValueError, "shape: .*address space", "wrap", (None, 2, dims(1 << 40, 1 << 40), None, 0)),
    (ValueError, "strides: 3", "wrap", (None, 1, dims(3), dims(3), 0)),
    (ValueError, "flags: 1 ", "wrap", (None, 1, dims(3), None, ZERO)),
    (TypeError, "dtype: .*references", "wrap", (id(OBJECT), 1, dims(3), None, 0)),
    (TypeError, "NULL", "handle", (None, 1)),
    (ValueError, "uses", "handle", (id(sharena), 0)),
    (TypeError, "handle", "handle", (id(sharena), 1)),
    (TypeError, "NULL", "attach", (None,)),
    (TypeError, "bytes-like", "attach", (id(sharena),)),
    (ValueError, "no handle", "attach", (id(NO_HANDLE),)),
    (TypeError, "NULL", "is_shared", (None,)),
]


@pytest.mark.parametrize("bad", BAD, ids=[f"{i}-{bad[2]}" for i, bad in enumerate(BAD)])
def test_bad_input(table, bad):
    error, words, name, arguments = bad
    memory = Freed()
    if name == "wrap":
        arguments = (memory.address, *arguments, memory.destructor, None, None)
    with pytest.raises(error, match=words):
        getattr(table, name)(*arguments)
    assert not memory.calls


def test_no_memory_to_wrap(table):
    memory = Freed()
    with pytest.raises(ValueError, match="address: NULL"):
        table.wrap(None, None, 1, dims(3), None, 0, memory.destructor, None, None)
    assert not memory.calls
