"""shmem_as_ndarray: every kind of object that multiprocessing.sharedctypes makes."""

import ctypes
import gc
import multiprocessing

import numpy as np
import pytest

import sharena

NATIVE = {
    ctypes.c_bool: np.bool_,
    ctypes.c_char: "S1",
    ctypes.c_wchar: "U1",
    ctypes.c_byte: np.byte,
    ctypes.c_ubyte: np.ubyte,
    ctypes.c_short: np.short,
    ctypes.c_ushort: np.ushort,
    ctypes.c_int: np.intc,
    ctypes.c_uint: np.uintc,
    ctypes.c_long: np.dtype("l"),
    ctypes.c_ulong: np.dtype("L"),
    ctypes.c_longlong: np.longlong,
    ctypes.c_ulonglong: np.ulonglong,
    ctypes.c_size_t: np.uintp,
    ctypes.c_ssize_t: np.intp,
    ctypes.c_int8: np.int8,
    ctypes.c_uint8: np.uint8,
    ctypes.c_int16: np.int16,
    ctypes.c_uint16: np.uint16,
    ctypes.c_int32: np.int32,
    ctypes.c_uint32: np.uint32,
    ctypes.c_int64: np.int64,
    ctypes.c_uint64: np.uint64,
    ctypes.c_float: np.single,
    ctypes.c_double: np.double,
    ctypes.c_longdouble: np.longdouble,
    ctypes.c_void_p: np.uintp,
}
for name, dtype in (
    ("c_float_complex", np.csingle),
    ("c_double_complex", np.cdouble),
    ("c_longdouble_complex", np.clongdouble),
):
    if hasattr(ctypes, name):
        NATIVE[getattr(ctypes, name)] = dtype


@pytest.mark.parametrize("kind", NATIVE, ids=lambda kind: kind.__name__)
def test_scalar_types_keep_size_and_sign(kind):
    a = sharena.shmem_as_ndarray(multiprocessing.RawArray(kind, 3))
    assert a.dtype == np.dtype(NATIVE[kind])
    assert a.dtype.itemsize == ctypes.sizeof(kind)
    assert a.shape == (3,)


@pytest.mark.parametrize("code", "cubBhHiIlLqQfd")
def test_type_codes(code):
    x = multiprocessing.RawArray(code, 2)
    assert sharena.shmem_as_ndarray(x).itemsize == ctypes.sizeof(x) // 2


@pytest.mark.parametrize("order", ["__ctype_be__", "__ctype_le__"])
@pytest.mark.parametrize(
    "kind", [ctypes.c_int16, ctypes.c_uint32, ctypes.c_longlong, ctypes.c_double]
)
def test_byte_order_is_that_of_the_type(kind, order):
    x = multiprocessing.RawArray(getattr(kind, order), 2)
    x[1] = 258
    a = sharena.shmem_as_ndarray(x)
    assert a[1] == 258
    a[0] = 513
    assert x[0] == 513


def test_negative_and_large_values_survive():
    x = multiprocessing.RawArray(ctypes.c_int8, [-1, 1])
    y = multiprocessing.RawArray(ctypes.c_uint64, [2**64 - 1])
    assert sharena.shmem_as_ndarray(x).tolist() == [-1, 1]
    assert sharena.shmem_as_ndarray(y).tolist() == [2**64 - 1]


@pytest.mark.parametrize("lock", [True, False, multiprocessing.RLock()])
def test_arrays_with_and_without_lock(lock):
    x = multiprocessing.Array("d", [1.0, 2.0], lock=lock)
    a = sharena.shmem_as_ndarray(x)
    a[0] = 7.0
    assert x[0] == 7.0
    x[1] = 8.0
    assert a.tolist() == [7.0, 8.0]


@pytest.mark.parametrize("lock", [True, False])
def test_values_have_no_axes(lock):
    x = multiprocessing.Value("h", -5, lock=lock)
    a = sharena.shmem_as_ndarray(x)
    assert a.shape == ()
    assert a == -5
    a[()] = 6
    assert x.value == 6


def test_raw_value():
    x = multiprocessing.RawValue(ctypes.c_wchar, "é")
    a = sharena.shmem_as_ndarray(x)
    assert a[()] == "é"


def test_characters():
    x = multiprocessing.Array("c", b"shared")
    a = sharena.shmem_as_ndarray(x)
    a[0] = b"S"
    assert x.value == b"Shared"


def test_nested_arrays_have_more_axes():
    x = multiprocessing.RawArray(ctypes.c_int * 3 * 2, 4)
    a = sharena.shmem_as_ndarray(x)
    assert a.shape == (4, 2, 3)
    a[...] = np.arange(24).reshape(4, 2, 3)
    assert x[3][1][2] == 23
    assert x[1][0][1] == 7


def test_empty_arrays():
    for x in (multiprocessing.RawArray("d", 0), multiprocessing.RawArray(ctypes.c_int * 0, 3)):
        a = sharena.shmem_as_ndarray(x)
        assert a.size == 0
        assert a.ndim == (1 if a.dtype == np.double else 2)


def test_derived_scalar_types():
    class Metres(ctypes.c_double):
        pass

    a = sharena.shmem_as_ndarray(multiprocessing.RawArray(Metres, 2))
    assert a.dtype == np.double


def test_the_array_keeps_the_memory():
    a = sharena.shmem_as_ndarray(multiprocessing.Array("q", [3] * 1000))
    gc.collect()
    others = [multiprocessing.RawArray("q", [9] * 1000) for _ in range(8)]
    assert (a == 3).all()
    del others


class Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_int)]


class Either(ctypes.Union):
    _fields_ = [("x", ctypes.c_int)]


@pytest.mark.parametrize(
    ("x", "named"),
    [
        (multiprocessing.RawArray(Point, 2), "Point"),
        (multiprocessing.Value(Point), "Point"),
        (multiprocessing.RawArray(Point * 2, 2), "Point"),
        (multiprocessing.RawValue(Either), "Either"),
        (multiprocessing.RawArray(ctypes.POINTER(ctypes.c_int), 2), "LP_c_int"),
        (ctypes.pointer(ctypes.c_int()), "LP_c_int"),
        (multiprocessing.RawArray(ctypes.c_char_p, 1), "c_char_p"),
        (multiprocessing.RawArray(ctypes.c_wchar_p, 1), "c_wchar_p"),
        (multiprocessing.RawArray(ctypes.py_object, 1), "py_object"),
        (ctypes.CFUNCTYPE(None)(), "CFunctionType"),
        (np.zeros(3), "numpy.ndarray"),
        ([1.0, 2.0], "list"),
        (None, "NoneType"),
    ],
)
def test_everything_else_is_a_type_error_that_names_it(x, named):
    with pytest.raises(TypeError, match=named):
        sharena.shmem_as_ndarray(x)


def test_children_write_and_the_parent_sees(run_program, method):
    run_program("sharedctypes.py", method)
