"""shmem_as_ndarray and get_lock: objects of multiprocessing, SharedMemory, ctypes.

test_ctypes_dtypes.py looks at the dtypes of structures.
"""

import ctypes
import gc
import multiprocessing
import multiprocessing.shared_memory
import weakref

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


class Point(ctypes.Structure):
    _fields_ = (("x", ctypes.c_int), ("y", ctypes.c_double))


class Named(ctypes.Structure):
    """Its fields have the names of what a synchronized object has."""

    _fields_ = (("get_obj", ctypes.c_int), ("get_lock", ctypes.c_int))


def test_structures():
    x = multiprocessing.Array(Point, 3)
    a = sharena.shmem_as_ndarray(x)
    assert a.shape == (3,)
    a["y"] = [1, 2, 3]
    x[1].x = 7
    assert [point.y for point in x] == [1, 2, 3]
    assert a["x"].tolist() == [0, 7, 0]


@pytest.mark.parametrize("lock", [True, False])
def test_a_structure_alone_has_no_axes(lock):
    x = multiprocessing.Value(Point, 3, 4.5, lock=lock)
    a = sharena.shmem_as_ndarray(x)
    assert a.shape == ()
    assert a.tolist() == (3, 4.5)
    a["x"] = 8
    assert x.x == 8


def test_fields_may_have_any_name():
    x = multiprocessing.Value(Named, 1, 2)
    assert sharena.shmem_as_ndarray(x).tolist() == (1, 2)
    assert sharena.get_lock(x) is x._lock


def test_plain_ctypes():
    x = (Point * 2)((1, 2.0))
    a = sharena.shmem_as_ndarray(x)
    a[1] = (3, 4.0)
    assert (x[1].x, x[1].y) == (3, 4.0)
    assert sharena.shmem_as_ndarray(ctypes.c_int(5))[()] == 5
    assert sharena.shmem_as_ndarray(x[1])["x"] == 3


@pytest.mark.parametrize(
    "make",
    [
        lambda: multiprocessing.Array("q", [3] * 1000),
        lambda: multiprocessing.RawArray("q", [3] * 1000),
        lambda: (ctypes.c_int64 * 1000)(*[3] * 1000),
        lambda: ctypes.pointer((ctypes.c_int64 * 1000)(*[3] * 1000)).contents,
        lambda: (ctypes.c_int64 * 1000 * 2)(*[(ctypes.c_int64 * 1000)(*[3] * 1000)] * 2)[1],
    ],
)
def test_the_array_keeps_the_memory(make):
    x = make()
    whole, part = sharena.shmem_as_ndarray(x), sharena.shmem_as_ndarray(x, offset=80)
    del x
    gc.collect()
    others = [multiprocessing.RawArray("q", [9] * 1000) for _ in range(8)]
    assert (whole == 3).all()
    assert (part == 3).all()
    assert part.size == 990
    del others


def test_the_memory_goes_with_the_array():
    x = multiprocessing.RawArray("q", 10)
    gone = weakref.ref(x._wrapper)
    a = sharena.shmem_as_ndarray(x, dtype="f4")[3:]
    del x
    gc.collect()
    assert gone() is not None
    del a
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("x", "named"),
    [
        (multiprocessing.RawArray(ctypes.c_void_p, 2), "c_void_p"),
        (multiprocessing.RawArray(ctypes.POINTER(ctypes.c_int), 2), "LP_c_int"),
        (ctypes.pointer(ctypes.c_int()), "LP_c_int"),
        (multiprocessing.RawArray(ctypes.c_char_p, 1), "c_char_p"),
        (multiprocessing.RawArray(ctypes.c_wchar_p, 1), "c_wchar_p"),
        (multiprocessing.RawArray(ctypes.py_object, 1), "py_object"),
        (ctypes.CFUNCTYPE(None)(), "CFunctionType"),
        (Point, "PyCStructType"),
        (np.zeros(3), "numpy.ndarray"),
        (memoryview(b"12345678"), "memoryview"),
        ([1.0, 2.0], "list"),
        (None, "NoneType"),
    ],
)
def test_everything_else_is_a_type_error_that_names_it(x, named):
    with pytest.raises(TypeError, match=named):
        sharena.shmem_as_ndarray(x)


FLAT = ctypes.c_int16 * 8


def test_flat_buffers_have_any_shape_and_dtype():
    x = multiprocessing.Array("h", range(8))
    view = sharena.shmem_as_ndarray
    assert view(x, shape=(2, 4)).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert view(x, shape=3, offset=4).tolist() == [2, 3, 4]
    assert view(x, offset=12).tolist() == [6, 7]
    assert view(x, shape=()).tolist() == 0
    assert view(x, shape=4, strides=4).tolist() == [0, 2, 4, 6]
    assert view(x, shape=[2, 2], strides=[2, -4], offset=8).tolist() == [[4, 2], [5, 3]]
    assert view(x, shape=(2, 8), strides=(0, 2)).tolist() == [list(range(8))] * 2
    assert view(x, dtype="u1").tolist() == list(np.arange(8, dtype="i2").tobytes())
    assert view(x, dtype="<i4", shape=2, offset=2).tolist() == [0x20001, 0x40003]
    assert view(x, shape=(0, 5), offset=16).shape == (0, 5)
    view(x, dtype=np.int8, offset=15)[0] = 1
    assert x[7] == 263


def test_a_ctypes_type_as_dtype_is_read_as_ctypes_does():
    class Derived(Point):
        _fields_ = (("z", ctypes.c_int.__ctype_be__),)

    x = multiprocessing.RawArray("B", bytes(Derived(1, 2.5, 3)) * 2)
    a = sharena.shmem_as_ndarray(x, dtype=Derived)
    assert a.tolist() == [(1, 2.5, 3)] * 2
    assert sharena.shmem_as_ndarray(x, dtype=ctypes.c_int.__ctype_be__, offset=16)[0] == 3


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"offset": 17}, ValueError, "offset=17 is outside x, which has 16 bytes"),
        ({"offset": -1}, ValueError, "offset=-1 is outside"),
        ({"offset": 1.5}, TypeError, "offset must be an int"),
        ({"offset": 1}, ValueError, "15 bytes of x after offset .* give shape="),
        ({"dtype": "f8", "offset": 4}, ValueError, "give shape="),
        ({"dtype": [], "offset": 4}, ValueError, "give shape="),
        ({"shape": 9}, ValueError, "takes bytes 0 to 18 of x, which has 16"),
        ({"shape": 8, "offset": 2}, ValueError, "bytes 2 to 18"),
        ({"shape": (2, -1)}, ValueError, "negative length"),
        ({"shape": 2.0}, TypeError, "shape must be an int"),
        ({"shape": "8"}, TypeError, "shape must be an int"),
        ({"shape": (1,) * 70}, ValueError, "cannot view x with shape"),
        ({"shape": 2**62, "strides": 0}, ValueError, "cannot view x with shape"),
        ({"strides": 2}, ValueError, "strides= needs shape="),
        ({"shape": (2, 2), "strides": 2}, ValueError, "differ in length"),
        ({"shape": 2, "strides": 16}, ValueError, "bytes 0 to 18"),
        ({"shape": 2, "strides": -2}, ValueError, "bytes -2 to 2"),
        ({"shape": (3, 2), "strides": (6, 4)}, ValueError, "bytes 0 to 18"),
        ({"shape": 2, "strides": 2.5}, TypeError, "strides must be"),
        ({"shape": 2, "strides": 2**70}, ValueError, "takes bytes"),
        ({"dtype": object}, TypeError, "references to objects"),
        ({"dtype": [("a", "i4"), ("b", object)]}, TypeError, "references to objects"),
        ({"dtype": "nonsense"}, TypeError, "dtype='nonsense' is no dtype"),
        ({"dtype": "S"}, TypeError, "no size.*such as S8"),
        ({"dtype": ("i2", (2,))}, TypeError, "shape of its own"),
        ({"dtype": FLAT}, TypeError, "give its element type"),
        ({"dtype": ctypes.c_void_p}, TypeError, "a pointer means nothing"),
        ({"dtype": ctypes.py_object}, TypeError, "Python object"),
    ],
)
def test_bounds_of_flat_buffers(options, error, message):
    for x in (FLAT(), multiprocessing.RawArray("h", 8)):
        with pytest.raises(error, match=message):
            sharena.shmem_as_ndarray(x, **options)


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="StringDType is of NumPy 2")
def test_string_dtype_is_refused():
    with pytest.raises(TypeError, match="references to objects"):
        sharena.shmem_as_ndarray(FLAT(), dtype=np.dtypes.StringDType())


@pytest.mark.parametrize("options", [{"dtype": "u1"}, {"shape": 1}, {"offset": 1}])
@pytest.mark.parametrize("x", [Point(), ctypes.c_int(), (Point * 2)(), (ctypes.c_int * 2 * 2)()])
def test_options_are_for_flat_buffers(x, options):
    with pytest.raises(TypeError, match=r"flat buffers.*not for .*(Point|c_int)"):
        sharena.shmem_as_ndarray(x, **options)


@pytest.fixture
def memory():
    memory = multiprocessing.shared_memory.SharedMemory(create=True, size=64)
    yield memory
    gc.collect()
    memory.close()
    memory.unlink()


def test_shared_memory(memory):
    a = sharena.shmem_as_ndarray(memory)
    assert a.dtype == np.uint8
    assert a.shape == (memory.size,)
    assert a.flags.writeable
    sharena.shmem_as_ndarray(memory, dtype="f8", shape=(2, 3), offset=8)[1, 2] = 2.5
    assert memory.buf[48:56] == np.float64(2.5).tobytes()
    assert sharena.shmem_as_ndarray(memory, dtype=Point).shape == (4,)
    assert sharena.shmem_as_ndarray(memory, dtype="i4", shape=4, strides=-4, offset=12).sum() == 0
    with pytest.raises(ValueError, match="takes bytes 0 to 65"):
        sharena.shmem_as_ndarray(memory, shape=65)


@pytest.mark.parametrize("options", [{}, {"dtype": "f8", "shape": 3, "offset": 8}])
def test_shared_memory_cannot_be_closed_under_an_array(memory, options):
    a = sharena.shmem_as_ndarray(memory, **options)
    part = a[1:]
    del a
    with pytest.raises(BufferError, match="exported pointers exist"):
        memory.close()
    part[:] = 7
    assert (part == 7).all()
    with pytest.raises(ValueError, match="closed SharedMemory"):
        sharena.shmem_as_ndarray(memory)
    del part
    memory.close()


def test_an_array_keeps_its_shared_memory(run_python):
    """Quietly: a SharedMemory that is collected closes itself, and complains if it can't."""
    program = """
import gc, sys, weakref
from multiprocessing.shared_memory import SharedMemory
import sharena
memory = SharedMemory(create=True, size=1 << 20)
memory.unlink()
gone = weakref.ref(memory)
first, second = sharena.shmem_as_ndarray(memory), sharena.shmem_as_ndarray(memory, dtype="f8")
del memory
gc.collect()
first[:] = 1
assert second.view("u1").all()
del first
gc.collect()
second[-1] = 2
assert gone() is not None
del second
gc.collect()
assert gone() is None
memory = SharedMemory(create=True, size=8)
memory.unlink()
kept = sharena.shmem_as_ndarray(memory)  # both are there when the interpreter ends
"""
    done = run_python("-c", program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_locks():
    lock = multiprocessing.Lock()
    assert sharena.get_lock(multiprocessing.Array("d", 2, lock=lock)) is lock
    x = multiprocessing.Value("d")
    assert sharena.get_lock(x) is x.get_lock()

    class Like:
        def get_lock(self):
            return lock

    assert sharena.get_lock(Like()) is lock


@pytest.mark.parametrize(
    ("x", "named"),
    [
        (multiprocessing.RawArray("d", 2), "c_double_Array_2"),
        (multiprocessing.Value("d", lock=False), "c_double"),
        (multiprocessing.Value(Named, lock=False), "Named"),
        (sharena.shmem_as_ndarray(multiprocessing.Array("d", 2)), "numpy.ndarray"),
        (multiprocessing.sharedctypes.SynchronizedBase, "type"),
        (None, "NoneType"),
    ],
)
def test_what_has_no_lock_is_named(x, named):
    with pytest.raises(TypeError, match=f"{named} has no lock"):
        sharena.get_lock(x)


def test_children_write_and_the_parent_sees(run_program, method):
    run_program("sharedctypes.py", method)
