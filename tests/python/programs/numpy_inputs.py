"""What numpy_answers.py passes to the constructors: the usual, the odd and the wrong.

A value of class Fresh is made anew for each call: iterators are used up, and an array that a
call changes must not meet the next one.
"""

import array
import ctypes
import datetime
import decimal
import enum
import fractions

import numpy as np

import sharena


class Fresh:
    def __init__(self, make):
        self.make = make

    def __repr__(self):
        return f"<fresh {self.make.__name__}>"


class RaisedError(Exception):
    """Comes from the caller's own code and must reach the caller."""


def raising(*names, base=object):
    """An object whose methods `names` raise."""

    def method(*_args, **_kwargs):
        raise RaisedError

    return type("Raising" + "".join(names), (base,), dict.fromkeys(names, method))()


class Index:
    def __index__(self):
        return 2


class Arrays:
    """Gives `array` through __array__, as NumPy 2 calls it and as NumPy 1 does."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        result = np.asarray(self.array, dtype)
        return result.copy() if copy and result is self.array else result


class OldArrays:
    def __array__(self):
        return np.arange(3)


class NoArray:
    def __array__(self, dtype=None, copy=None):
        return [1, 2]


class Interface:
    def __init__(self, array):
        self.kept = array
        self.__array_interface__ = array.__array_interface__


class Struct:
    def __init__(self, array):
        self.__array_struct__ = array.__array_struct__


class Sequence:
    def __len__(self):
        return 2

    def __getitem__(self, i):
        if i > 1:
            raise IndexError
        return i + 0.5


class Colour(enum.IntEnum):
    RED = 3


class ListOf(list):
    pass


class FloatOf(float):
    pass


class Sub(np.ndarray):
    pass


class Like(np.ndarray):
    """Its __array_function__ makes something else."""

    def __array_function__(self, *_args, **_kwargs):
        return "made by Like"


class HasDtype:
    dtype = np.dtype("i2")


RECORD = np.dtype([("a", "i1"), ("b", "f8")])
ALIGNED = np.dtype([("a", "i1"), ("b", "f8")], align=True)
NESTED = np.dtype([("n", [("m", "S2"), ("t", "M8[s]")]), ("u", "U2", (2,))])


def loses_errors():
    """Whether this NumPy notices too late that a cast to dates failed."""
    try:
        np.full(3, b"x", "M8")
    except SystemError:
        return True
    except ValueError:
        pass
    return False


LOSES_ERRORS = loses_errors()

# ---- shapes ----

SHAPES = [
    *(0, 3, -1, True, np.int64(2), np.uint8(4), np.bool_(True), Index(), np.array(3)),
    *(
        (),
        (0,),
        (3,),
        (2, 3),
        (3, 0, 2),
        (2, 1, 3),
        [2, 3],
        [],
        (np.int8(2), 3),
        np.array([2, 3]),
    ),
    *((-1,), (2, -3), (-1, 0), (0, -1), (Index(), 2), (True, 2), range(1, 3), (i for i in "ab")),
    *(2.0, "3", b"3", None, (2.0,), (None,), ("2",), {2, 3}, {}, np.float64(2), np.array([2.0])),
    *((1,) * 32, (1,) * 33, (1,) * 64, (1,) * 65, [1] * 65),
    *(raising("__index__"), raising("__len__", "__getitem__"), (raising("__index__"),)),
    *(Ellipsis, object(), ((2, 3),), [[2]], datetime.date(2020, 1, 1), np.array(-2), 1j),
]
HUGE_SHAPES = [
    *(2**62, 2**63, -(2**63), 2**64, -(2**70), (2**31, 2**31, 2**31), (2**63,), (2, 2**64)),
    *((0, 2**62), (2**62, 0), (2**32, 2**32, 0), (0, 2**62, 2**62), (-(2**62), 4)),
]
FEW_SHAPES = [0, 3, (), (2, 3), (3, 0), -1, 2.0, (2, 2**63)]

# ---- dtypes ----

PLAIN_DTYPES = [
    "?",
    "i1",
    "u1",
    "i2",
    ">u2",
    "i4",
    "u4",
    "i8",
    "u8",
    ">i8",
    "e",
    "f4",
    ">f8",
    "g",
]
NUMBERS = [None, *PLAIN_DTYPES, "F", ">c16", "G", float, int, bool, complex, np.int8, "long"]
STRINGS = [
    "S",
    "S0",
    "S5",
    "U",
    "U0",
    "U3",
    ">U2",
    "V",
    "V0",
    "V7",
    str,
    bytes,
    np.void,
    "c",
    "a3",
]
TIMES = ["M8", "M8[D]", "M8[25us]", ">M8[s]", "m8", "m8[ns]", ">m8[D]", np.datetime64]
SUBARRAYS = [
    "(2,)i4",
    "(2,3)f4",
    "(0,)i4",
    "2i4",
    ("f8", (2,)),
    "(2,)S",
    (RECORD, (2,)),
    "(2,)>i4",
]
STRUCTS = [RECORD, ALIGNED, NESTED, np.dtype([]), "i4,f8", [("a", "(2,)i4"), ("b", "S3")]]
STRUCTS += [
    {"names": ["a", "b"], "formats": ["u1", "f8"], "offsets": [0, 16], "itemsize": 32},
    {"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [0, 2]},
    [(("title", "a"), "i4"), ("b", "U1")],
    [("a", "S"), ("b", "M8")],
    np.dtype((np.record, [("a", "i4")])),
    np.dtype(("i4", [("low", "i2"), ("high", "i2")])),
]
OTHERS = [
    np.dtype("f8", metadata={"a": 1}),
    np.dtype([("a", np.dtype("i4", metadata={"b": 2}))]),
    *("O", object, [("a", "i4"), ("o", "O")], "(2,)O"),
    *("nonsense", "", 3, 3.5, {}, ("i4",), [], ("i4", 2, 3), np.floating, np.generic, HasDtype),
    *(HasDtype(), raising("dtype"), type, b"f4", ">", "f3", "M8[xx]", "i4\0", ctypes.c_int16),
    *(np.dtype, RECORD.type, decimal.Decimal, (np.void, 3), ("S", 4), ("M8", "D"), ("V0", (2,))),
]
if hasattr(np, "dtypes"):
    OTHERS += [getattr(np.dtypes, name) for name in ("Int8DType", "StrDType", "DateTime64DType")]
    OTHERS += [np.dtypes.VoidDType, np.dtypes.ObjectDType, type(np.dtype("f8"))]
if hasattr(np, "dtypes") and hasattr(np.dtypes, "StringDType"):
    OTHERS += [np.dtypes.StringDType, np.dtypes.StringDType(), "T"]
    OTHERS += [np.dtypes.StringDType(na_object=None), [("t", np.dtypes.StringDType())]]
DTYPES = [*NUMBERS, *STRINGS, *TIMES, *SUBARRAYS, *STRUCTS, *OTHERS]
# Nothing of something, 2**62 times, takes for ever to fill: no "V0" for the huge shapes.
SIZED_DTYPES = [None, "i1", ">f8", "S", "U", "V7", "(2,)i4", RECORD, "M8", "O"]
FEW_DTYPES = [None, ">f8", "i1", "S", "V0", "(2,)i4", RECORD, "M8", "O", "nonsense"]

# ---- orders and keywords ----

UNSET = object()
ORDERS = [UNSET, "C", "F", "A", "K", "f", None, "X", "", b"F", 1, "Fortran"]
GOOD_ORDERS = [UNSET, "C", "F", "A", "K", None]
DEVICES = [None, "cpu", "gpu", "CPU", b"cpu", 0]
LIKES = [
    *(None, np.ones(2), np.matrix("1"), np.ma.ones(2), np.ones(2).view(Sub)),
    *(np.ones(2).view(Like), [1], 1, np.float64(1), raising("__array_function__"), "x"),
]
COPIES = [True, False, None, 0, 1, 2, "never", "", b"x", np.bool_(False), [], np.array([1, 2])]
COPIES += [raising("__bool__"), 0.0, *np._CopyMode, np.ones(0), float("nan"), np.array(0)]
SUBOKS = [True, False, None, 0, 1, "x", "", 2.0, [], raising("__bool__"), np.bool_(True), 2**70]
NDMINS = [0, 1, 2, 4, -1, 32, 33, 64, 65, 2**31, 2**40, 2**70, -(2**70), True, None, 1.0, "1"]
NDMINS += [np.int8(3), Index(), np.array(2), raising("__index__"), np.float64(1)]
NDMAXES = [0, 1, 2, 64, 65, -1, None, "1", 2**40, Index(), 1.5, True]

# ---- values: a fill value or an element ----

INTS = [0, 1, -1, 127, 128, 255, 300, -129, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, -(2**63) - 1]
FLOATS = [1.5, -0.0, float("nan"), float("inf"), 1e300, -1.0, 256.0, 1e20]
SCALARS = [
    *INTS,
    *FLOATS,
    *(True, 10**400, 1 + 2j, complex("nan+infj"), 1j, FloatOf(2.5), Colour.RED, Index()),
    *(
        "abc",
        "3",
        "3.5",
        "",
        "2020-01-01",
        "NaT",
        "nan",
        "\0a\0",
        "9" * 400,
        b"ab",
        b"3",
        b"",
        "ä",
    ),
    *(None, Ellipsis, object(), decimal.Decimal("3.5"), fractions.Fraction(1, 3), set(), {}, int),
    *(np.int8(5), np.uint64(2**63), np.float32(2.5), np.float64("nan"), np.longdouble(1) / 3),
    *(np.bool_(True), np.str_("x"), np.bytes_(b"y"), np.void(b"ab"), np.complex64(1j)),
    *(np.datetime64("2020-01-01"), np.datetime64("NaT"), np.timedelta64(5, "s")),
    *(datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 2, 3), datetime.timedelta(1)),
    *(np.array(7, "u2"), np.array("x"), np.array(2.5, ">f4"), np.zeros(1, RECORD)[0]),
    *(np.ma.masked, np.array(300), np.array(float("nan"))),
]
RAISING = [
    *(raising("__array__"), raising("__float__"), raising("__int__"), raising("__index__")),
    *(raising("__len__", "__getitem__"), raising("__array__", base=list), raising("__str__")),
    raising("__complex__", base=float),
    raising("__iter__", "__len__", base=list),
]


def generator():
    return (i for i in range(2))


SEQUENCES = [
    *([1, 2, 3], [[1], [2]], (1, 2), (1, 2.5), [], [[]], (), [[], []], ListOf([1, 2]), range(3)),
    *([[1, 2], [3]], [1, [2]], [1, "a"], ["a", "bcd"], [b"a", "b"], [1, None], [None], [True, 2]),
    *([2**63], [2**64, 1], [2**62, -1], [2**63, -1], [1.5, 300], [1, 1j], [10**30, 1.0]),
    *([float("nan"), 1], [300, -1], [(1, 2.0)], [(1, 2.0), (3, 4.0)], [(1, 2, 3)], ["1", "2.5"]),
    *([datetime.date(2020, 1, 1)], [np.datetime64("2020", "Y"), np.datetime64("2021-01-01")]),
    *([np.timedelta64(1, "D"), 2], ["2020-01-01", "NaT"], [np.int8(1), np.float32(2)], {1, 2}),
    *([np.arange(2), np.arange(2)], [np.arange(2), [3, 4]], [np.arange(2), np.arange(3)]),
    *({1: 2}, {1: 2}.keys(), Fresh(generator), [[[[1]]]], [raising("__float__")], Sequence()),
    *(
        [raising("__array__")],
        [1, raising("__len__", "__getitem__")],
        [Index()],
        "text",
        [[1, 2]],
    ),
]
BUFFERS = [
    *(bytearray(b"abc"), memoryview(b"abcd"), array.array("h", [1, 2]), (ctypes.c_int * 3)(1, 2)),
    *(memoryview(np.arange(6).reshape(2, 3)), ctypes.c_int(3), memoryview(b"abcd")[::2]),
]
VIA_ARRAY = [
    *(Arrays(np.arange(3)), Arrays(np.ones((2, 3), order="F")), OldArrays(), NoArray()),
    *(Interface(np.arange(4)), Struct(np.arange(4)), Arrays(sharena.ones((2, 2)))),
    *(Interface(sharena.ones(3)), raising("__array_interface__")),
]


def layouts(make):
    """Views of many layouts; `make` says where the memory lies."""
    base = make(np.arange(60).reshape(3, 4, 5))
    readonly = make(np.arange(6.0))
    readonly.flags.writeable = False
    return [
        *(
            base,
            make(np.asfortranarray(np.arange(24.0).reshape(2, 3, 4))),
            base.transpose(1, 0, 2),
        ),
        *(base[:, ::2, ::-1], base[0, 0], base[::-1], base[:, :1], base[0, :, 1:2].T, base[:0]),
        *(np.broadcast_to(make(np.arange(3.0)), (4, 3)), make(np.array(3.5)), base[..., :0]),
        *(make(np.arange(300)), make(np.arange(4, dtype=">i2")), readonly, base[:, None, :, :1]),
        *(
            make(np.array([1, np.nan, np.inf, -1e20])),
            make(np.array([1 + 2j, 3])),
            base[1:2, 1:2],
        ),
        *(
            make(np.array(["a", "bcd", ""])),
            make(np.array([b"1", b"2.5"])),
            make(np.array(["7"])),
        ),
        *(make(np.array(["2020-01-01", "NaT"], "M8[D]")), make(np.array([1, 2], "m8[s]"))),
        *(
            make(np.zeros(2, RECORD)),
            make(np.zeros((2, 2), ALIGNED)),
            make(np.ones(3, RECORD))["b"],
        ),
        *(make(np.zeros(3, NESTED)), make(np.zeros(2, "V0")), make(np.zeros((2, 1), "V3"))),
        *(make(np.array([True, False])), make(np.arange(4, dtype="u1"))[1:].view("S3")),
        make(np.arange(9, dtype="u1"))[1:].view(">i4"),
    ]


def subclasses(make):
    ones = make(np.ones((2, 3)))
    return [ones.view(Sub), np.rec.array(make(np.zeros(2, RECORD)), copy=False)]


PRIVATE = layouts(lambda a: a)
SHARED = layouts(sharena.array)
SUBCLASSES = [*subclasses(lambda a: a), *subclasses(sharena.array)]
SUBCLASSES += [np.ma.array([1, 2], mask=[0, 1]), np.ones(2).view(Like)]
# Not among ARRAYS: NumPy frees twice what it can't make a matrix because of its dimensions.
MATRICES = [np.asmatrix(np.ones((2, 3))), np.asmatrix(sharena.ones((2, 3)))]
OBJECT_ARRAYS = [np.array([1, None]), np.array([1.5, "2"], object), np.zeros(2, [("o", "O")])]
OBJECT_ARRAYS += [np.array(3, object), np.array([raising("__float__")]), np.array([300], object)]
if hasattr(np, "dtypes") and hasattr(np.dtypes, "StringDType"):
    OBJECT_ARRAYS += [np.array(["a", "longer than a short one"], np.dtypes.StringDType())]
ARRAYS = [*PRIVATE, *SHARED, *SUBCLASSES, *OBJECT_ARRAYS]
ANYTHING = [*SCALARS, *RAISING, *SEQUENCES, *BUFFERS, *VIA_ARRAY, *ARRAYS]
