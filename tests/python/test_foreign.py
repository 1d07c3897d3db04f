"""Arrays over foreign memory: what they look like, and what they refuse.

How the memory is freed is in test_foreign_free.py.
"""

import ctypes
import pickle
import sys
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest

import sharena

PAGE = 4096


class Memory:
    """Bytes at a page's start, and whose they are."""

    def __init__(self, size=PAGE):
        self.buffer = (ctypes.c_ubyte * (size + PAGE))()
        self.address = -(-ctypes.addressof(self.buffer) // PAGE) * PAGE

    def array(self, shape, dtype="f8", at=0, **options):
        options.setdefault("owner", self)
        return sharena.from_address(self.address + at, shape, dtype, **options)


@pytest.fixture
def memory():
    return Memory()


def test_it_is_the_memory_and_no_copy(memory):
    a = memory.array(3, "u1")
    ctypes.memset(memory.address, 7, 3)
    assert a.tolist() == [7, 7, 7]
    a[1] = 9
    assert ctypes.string_at(memory.address, 3) == bytes([7, 9, 7])
    assert type(a) is np.ndarray
    assert a.ctypes.data == memory.address
    assert not a.flags.owndata


DTYPES = ["?", "i1", "<u4", ">f8", "c16", "g", "U3", "S5", "V7", "M8[ns]", "m8[D]", "e"]
DTYPES += [[("a", "i1"), ("b", "f8")], np.dtype([("a", "i1"), ("b", "f8")], align=True)]
DTYPES += [("i4", (2, 3)), [("m", "f4", (2, 2))], None, np.float32, int]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), 4, (2, 3), (0, 3), (3, 0), (1, 1, 2)], ids=str)
def test_it_looks_as_numpys_own(memory, dtype, shape):
    a = memory.array(shape, dtype)
    offset = memory.address - ctypes.addressof(memory.buffer)
    like = np.ndarray(shape, np.dtype(dtype), memory.buffer, offset)
    for name in ("shape", "dtype", "strides", "nbytes"):
        assert getattr(a, name) == getattr(like, name), name
    assert str(a.flags) == str(like.flags)


LAYOUTS = [  # offset, shape, strides, bytes before element 0, bytes from it on
    (80, 5, -8, 32, 8),
    (80, 5, 16, 0, 72),
    (800, (3, 4), (-32, 8), 64, 32),
    (800, (4, 3), (8, 32), 0, 96),
    (8, (1000, 2), (0, 8), 0, 16),
    (8, (1, 2), (1 << 40, 8), 0, 16),
    (8, (), (), 0, 8),
    (160, (2, 3, 4), (-80, 24, -8), 80 + 24, 48 + 8),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_strides(memory, layout):
    at, shape, strides, before, after = layout
    whole = memory.array(PAGE // 8)
    whole[:] = np.arange(PAGE // 8)
    a = memory.array(shape, at=at, strides=strides)
    assert a.strides == (strides if isinstance(strides, tuple) else (strides,))
    view = np.lib.stride_tricks.as_strided(whole[at // 8 :], a.shape, a.strides)
    assert (a == view).all()
    with memoryview(a.base) as reached:  # what may be written through the base
        assert reached.nbytes == before + after
        start = np.frombuffer(reached, "u1").ctypes.data
    assert start == memory.address + at - before


def test_strides_of_sub_arrays(memory):
    memory.array(PAGE // 4, "i4")[:] = np.arange(PAGE // 4)
    a = memory.array(2, ("i4", (2,)), strides=16)
    assert a.dtype == "i4"
    assert a.tolist() == [[0, 1], [4, 5]]


def test_packed_data_by_a_packed_dtype(memory):
    memory.array(PAGE, "u1")[1:9] = np.frombuffer(np.float64(2.5).tobytes(), "u1")
    a = memory.array(1, [("x", "f8")], at=1)["x"]
    assert a[0] == 2.5
    assert not a.flags.aligned


def test_nothing_at_address_0():
    a = sharena.from_address(0, (0, 3), "f8")
    assert a.shape == (0, 3)
    assert a.sum() == 0
    assert not a.flags.owndata
    assert "0 bytes" in repr(a.base)


def test_an_int_of_any_class(memory):
    class Index:
        def __index__(self):
            return memory.address

    memory.array(2)[:] = [1.5, 2.5]
    for address in (np.uint64(memory.address), Index()):
        a = sharena.from_address(address, np.int64(2), "f8", owner=memory)
        assert a.tolist() == [1.5, 2.5]


# ---- read-only ----


def test_readonly_stays_so(memory):
    a = memory.array(3, readonly=True)
    assert not a.flags.writeable
    for view in (a, a[1:], a.view("u1"), np.asarray(a)):
        with pytest.raises(ValueError, match="WRITEABLE"):
            view.flags.writeable = True
    with pytest.raises(ValueError, match="read-only"):
        a[0] = 1
    assert memoryview(a.base).readonly
    assert "read-only" in repr(a.base)


def test_a_writable_one_can_be_locked_and_unlocked(memory):
    a = memory.array(3)
    view = a[:]
    view.flags.writeable = False
    view.flags.writeable = True
    view[0] = 1
    assert a[0] == 1


# ---- owners, references ----


def test_the_owner_is_kept(memory):
    references = sys.getrefcount(memory)
    a = memory.array(4)
    view = a[::2]
    assert sys.getrefcount(memory) == references + 1
    del a
    assert sys.getrefcount(memory) == references + 1
    del view
    assert sys.getrefcount(memory) == references


def test_no_owner(memory):
    a = memory.array(4, owner=None)
    b = sharena.from_address(memory.address, 4, "f8")
    a[:] = 3
    assert (b == 3).all()


def test_nothing_leaks(memory):
    def free(address):
        pass

    dtype = np.dtype([("a", "f4")], align=True)
    before = [sys.getrefcount(x) for x in (dtype, free, memory, None)]
    for _ in range(1000):
        memory.array(3, dtype, free=free, strides=8)
        with pytest.raises(ValueError, match="strides"):
            memory.array(3, dtype, free=free, strides=6)
        with pytest.raises(TypeError, match="free"):
            memory.array(3, dtype, free=())
    after = [sys.getrefcount(x) for x in (dtype, free, memory, None)]
    assert after[:3] == before[:3]
    assert abs(after[3] - before[3]) < 100  # others count, too; None may be immortal


def test_the_type_is_nobodys_to_make():
    kind = sharena._core.Foreign
    with pytest.raises(TypeError):
        kind()
    with pytest.raises(TypeError):
        kind.mine = 3
    with pytest.raises(TypeError):
        type("Mine", (kind,), {})


# ---- with the heap ----


def test_private_memory_travels_by_value(memory):
    a = memory.array(3)
    a[:] = 5
    assert not sharena.is_shared(a)
    with pytest.raises(ValueError, match="not in shared memory"):
        sharena.handle(a)
    back = ForkingPickler.loads(bytes(ForkingPickler.dumps(a)))
    a[:] = 6
    assert (back == 5).all()
    assert (pickle.loads(pickle.dumps(a)) == 6).all()
    shared = sharena.share(a)
    assert sharena.is_shared(shared)
    assert (shared == 6).all()


def test_an_array_over_a_block_is_shared():
    block = sharena.zeros(10)
    a = sharena.from_address(block.ctypes.data + 16, 4, "f8", owner=block)
    del block
    assert sharena.is_shared(a)
    back = sharena.attach(sharena.handle(a))
    a[0] = 3
    assert back[0] == 3


# ---- bad input ----

HERE = object()  # stands for a good address
FREE = "free must be None, a callable, a function pointer of ctypes"
CAPSULE = np._core._multiarray_umath._ARRAY_API if hasattr(np, "_core") else None
BAD = [  # error, words of the message, arguments
    (ValueError, "address: NULL", (0, 3, "f8"), {}),
    (TypeError, "address must be an int, not NoneType, .* NULL", (None, 3, "f8"), {}),
    (TypeError, "address must be an int, not float", (1.5, 3, "f8"), {}),
    (TypeError, "address must be an int, not str", ("4096", 3, "f8"), {}),
    (TypeError, r"address must .* ctypes\.cast", (ctypes.c_void_p(PAGE), 3, "f8"), {}),
    (TypeError, r"address must .* ctypes\.cast", (ctypes.c_char_p(b""), 3, "u1"), {}),
    (TypeError, "address must", (ctypes.CFUNCTYPE(None)(), 3, "u1"), {}),
    (ValueError, "address: .*negative", (-8, 3, "f8"), {}),
    (ValueError, "address: .*too large", (1 << 64, 3, "f8"), {}),
    (ValueError, "address: 0x1001 is no multiple of 8.*packed", (PAGE + 1, 3, "f8"), {}),
    (ValueError, "address: .*multiple of 4", (PAGE + 2, 3, "U1"), {}),
    (ValueError, "address: .*multiple of 4", (PAGE + 2, 3, ("i4", 2)), {}),
    (ValueError, "shape: .*address space", ((1 << 64) - 8, 3, "f8"), {}),
    (ValueError, "shape: dimension 1 is negative: -3", (HERE, (2, -3), "f8"), {}),
    (ValueError, "shape: .*address space", (HERE, (1 << 40, 1 << 40), "f8"), {}),
    (ValueError, "shape: .*address space", (HERE, (1 << 40, 0, 1 << 40), "f8"), {}),
    (ValueError, "shape: .*address space", (HERE, 1 << 60, "f8"), {}),
    (ValueError, "shape: ", (HERE, 1 << 63, "u1"), {}),
    (ValueError, "shape: ", (HERE, [1] * 70, "u1"), {}),
    (TypeError, "shape: ", (HERE, "three", "f8"), {}),
    (TypeError, "shape: ", (HERE, (2, 1.5), "f8"), {}),
    (TypeError, "shape: ", (HERE, object(), "f8"), {}),
    (TypeError, "dtype: .*not understood", (HERE, 3, "nope"), {}),
    (TypeError, "dtype: ", (HERE, 3, 17), {}),
    (TypeError, "dtype: .*references to Python objects", (HERE, 3, object), {}),
    (TypeError, "dtype: .*references", (HERE, 3, [("a", "i4"), ("b", "O")]), {}),
    (TypeError, "dtype: .*references", (HERE, 3, ctypes.py_object), {}),
    (ValueError, "dtype: .*no size", (HERE, 3, "S"), {}),
    (ValueError, "dtype: .*no size", (HERE, 3, "V0"), {}),
    (ValueError, "dtype: .*no size", (HERE, 3, ("i4", (0,))), {}),
    (ValueError, "strides: 2 for a shape of 1", (HERE, 3, "f8"), {"strides": (8, 8)}),
    (ValueError, "strides: 1 for a shape of 0", (HERE, (), "f8"), {"strides": 8}),
    (ValueError, "strides: 3 is no multiple of 8", (HERE, 3, "f8"), {"strides": 3}),
    (ValueError, "strides: .*address space", (HERE, 3, "f8"), {"strides": 1 << 62}),
    (ValueError, "strides: .*address space", (HERE, 3, "f8"), {"strides": -(1 << 62)}),
    (ValueError, "strides: .*address space", (PAGE, 3, "f8"), {"strides": -PAGE}),
    (ValueError, "strides: .*address space", (PAGE, 2, "u1"), {"strides": -PAGE}),
    (ValueError, "strides: ", (HERE, 3, "f8"), {"strides": 1 << 63}),
    (TypeError, "strides: ", (HERE, 3, "f8"), {"strides": "C"}),
    (TypeError, FREE, (HERE, 3, "f8"), {"free": 3}),
    (TypeError, FREE, (HERE, 3, "f8"), {"free": "free"}),
    (TypeError, FREE, (HERE, 3, "f8"), {"free": ctypes.c_void_p(3)}),
    (TypeError, FREE, (HERE, 3, "f8"), {"free": ctypes.c_void_p}),
    (TypeError, FREE, (HERE, 3, "f8"), {"free": ctypes.CFUNCTYPE(None, ctypes.c_void_p)}),
    (TypeError, FREE, (HERE, 3, "f8"), {"free": ctypes.pointer(ctypes.c_int())}),
    (ValueError, "free: this function pointer is NULL", (HERE, 3, "f8"), {}),
    (ValueError, "free: .*sharena.destructor", (HERE, 3, "f8"), {"free": CAPSULE}),
    (TypeError, "missing required argument 'dtype'", (HERE, 3), {}),
    (TypeError, "at most 3 positional", (HERE, 3, "f8", 8), {}),
    (TypeError, "unexpected keyword argument 'fee'", (HERE, 3, "f8"), {"fee": None}),
]


@pytest.mark.parametrize("bad", BAD, ids=[f"{i}-{bad[1]}" for i, bad in enumerate(BAD)])
def test_bad_input(memory, bad):
    """The message names the argument; the memory and the owner are left to the caller."""
    error, words, arguments, options = bad
    freed = []
    if "function pointer is NULL" in words:
        options = {"free": ctypes.CFUNCTYPE(None)()}
    elif "sharena.destructor" in words and CAPSULE is None:
        pytest.skip("no capsule at hand")
    arguments = [memory.address if x is HERE else x for x in arguments]
    references = sys.getrefcount(memory)
    with pytest.raises(error, match=words):
        sharena.from_address(*arguments, **{"free": freed.append, "owner": memory, **options})
    assert not freed
    assert sys.getrefcount(memory) == references


class Failing:
    """Raises wherever it is asked for something."""

    def __index__(self):
        raise KeyError("mine")

    __bool__ = __index__


@pytest.mark.parametrize("name", ["address", "shape", "strides", "readonly"])
def test_an_error_of_the_arguments_own_is_passed_on(memory, name):
    options = {"address": memory.address, "shape": 3, "dtype": "f8"}
    with pytest.raises(KeyError, match="mine"):
        sharena.from_address(**{**options, name: Failing()})
