"""The dtype of a ctypes type: every field is read and written as ctypes does it.

Structures are drawn by lot: nested, inherited, packed, aligned, of either byte order, with
unions, anonymous members, arrays of arrays.  Each scalar in them is read, then written, by
ctypes and through the array, and must come to the same values and the same bytes.
"""

import ctypes
import itertools
import random
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sharena

FOREIGN = "__ctype_be__" if sys.byteorder == "little" else "__ctype_le__"


class Metres(ctypes.c_double):
    pass


class Count(ctypes.c_uint32):
    pass


class NativeAgain(getattr(ctypes.c_int32, FOREIGN)):
    """ctypes reads it in the machine's order, whatever its base does."""


class Retyped(ctypes.c_int32):
    """A float: ctypes goes by the class' own `_type_`."""

    _type_ = "f"


INTEGERS = [
    getattr(ctypes, f"c_{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)
]
SWAPPABLE = [*INTEGERS, ctypes.c_char, ctypes.c_float, ctypes.c_double, Metres, Count]
SCALARS = [
    *SWAPPABLE,
    *(getattr(kind, FOREIGN) for kind in SWAPPABLE),
    ctypes.c_bool,
    ctypes.c_wchar,
    ctypes.c_longdouble,
    NativeAgain,
    Retyped,
    *(getattr(ctypes, name) for name in dir(ctypes) if name.endswith("_complex")),
]
BASES = [ctypes.Structure, ctypes.Union, ctypes.BigEndianStructure, ctypes.LittleEndianStructure]
if sys.version_info >= (3, 11):
    BASES += [ctypes.BigEndianUnion, ctypes.LittleEndianUnion]

fresh = itertools.count()


@st.composite
def arrays_of(draw, elements):
    kind = draw(elements)
    for length in draw(st.lists(st.integers(0, 3), max_size=3)):
        kind = kind * length
    return kind


def define(base, fields, anonymous=(), **options):
    body = {"_fields_": fields, "_anonymous_": anonymous, **options}
    return type(f"{base.__name__}_{next(fresh)}", (base,), body)


@st.composite
def records(draw, nested=None):
    base = draw(st.sampled_from(BASES))
    is_union = issubclass(base, ctypes.Union)
    swaps = base not in (ctypes.Structure, ctypes.Union)
    options = {}
    if not is_union and draw(st.booleans()):
        options["_pack_"] = draw(st.sampled_from([1, 2, 4]))
        if sys.version_info >= (3, 14):
            options["_layout_"] = "ms"
    if sys.version_info >= (3, 13) and draw(st.booleans()):
        options["_align_"] = draw(st.sampled_from([1, 8, 32]))
    members = st.sampled_from(SWAPPABLE if swaps else SCALARS)
    if nested is not None:  # those that swap take no unions
        members |= nested.filter(lambda kind: not (swaps and issubclass(kind, ctypes.Union)))
    kind = base
    # ctypes gives a derived union the size of its own fields only.
    for _ in range(1 if is_union else draw(st.integers(1, 3))):
        chosen = draw(st.lists(arrays_of(members), max_size=4))
        fields = [(f"f{next(fresh)}", member) for member in chosen]
        unnamed = [name for name, member in fields if is_record(member)]
        anonymous = draw(st.sets(st.sampled_from(unnamed))) if unnamed else ()
        kind = define(kind, fields, tuple(anonymous), **options)
    return kind


# Three levels deep.
RECORDS = records(records(records()))
KINDS = arrays_of(st.sampled_from(SCALARS) | RECORDS)


def is_record(kind):
    return issubclass(kind, (ctypes.Structure, ctypes.Union))


def fields_of(kind):
    """(name, type, whether it is anonymous), of the bases too."""
    for owner in reversed(kind.__mro__):
        for name, member in vars(owner).get("_fields_", ()):
            yield name, member, name in owner._anonymous_


class Leaf:
    """One scalar: where ctypes and where NumPy find it."""

    def __init__(self, kind, holder, key, place):
        self.kind, self.holder, self.key, self.place = kind, holder, key, place
        assert place.shape == ()
        assert place.dtype.itemsize == ctypes.sizeof(kind)

    def by_ctypes(self):
        value = part(self.holder, self.key)
        return value.value if isinstance(value, ctypes._SimpleCData) else value

    def by_numpy(self):
        value = self.place[()]
        if self.kind is ctypes.c_char:  # NumPy takes off NULs at the end
            return value.ljust(1, b"\0")
        if self.kind is ctypes.c_wchar:
            return value.ljust(1, "\0")
        # ctypes makes a float of a long double.
        return float(value) if self.kind is ctypes.c_longdouble else value.item()

    def set_by_ctypes(self, value):
        if isinstance(self.key, str):
            setattr(self.holder, self.key, value)
        else:
            self.holder[self.key] = value

    def set_by_numpy(self, value):
        self.place[...] = value


def part(holder, key):
    return getattr(holder, key) if isinstance(key, str) else holder[key]


def leaves(kind, holder, key, place):
    """All scalars of a part of a ctypes object, and the same part of the array."""
    if issubclass(kind, ctypes.Array):
        assert place.shape[:1] == (kind._length_,)
        inner = array_at(kind, holder, key)
        for nth in range(kind._length_):
            yield from leaves(kind._type_, inner, nth, place[nth, ...])
    elif is_record(kind):
        assert place.dtype.itemsize == ctypes.sizeof(kind)
        yield from record_leaves(kind, part(holder, key), place)
    else:
        yield Leaf(kind, holder, key, place)


def array_at(kind, holder, key):
    """The array itself, also where ctypes hands out the text in it."""
    if isinstance(key, str):
        return kind.from_buffer(holder, getattr(type(holder), key).offset)
    return holder[key]


def record_leaves(kind, record, place):
    """Those of the fields; the members of anonymous records are fields of the outer dtype."""
    for name, member, is_anonymous in fields_of(kind):
        if is_anonymous and is_record(member):
            yield from record_leaves(member, getattr(record, name), place)
        else:
            yield from leaves(member, record, name, place[name])


def all_leaves(x, a):
    """Of an object of ctypes and the array over it."""
    holder = ctypes.pointer(x)  # so that x itself has a holder and a key
    return list(leaves(type(x), holder, 0, a))


def value_for(kind, lots):
    if kind is ctypes.c_bool:
        return lots.getrandbits(1) == 1
    if kind is ctypes.c_wchar:
        return chr(lots.choice([0x41, 0xE9, 0x20AC, 0x1F600]))
    if kind._type_ == "c":
        return bytes([lots.getrandbits(8)])
    if kind._type_ in "fdg":
        return float(np.float32(lots.gauss(0, 1e6)))
    if kind.__name__.endswith("_complex"):
        return complex(np.complex64(lots.gauss(0, 9) + 1j * lots.gauss(0, 9)))
    bits = 8 * ctypes.sizeof(kind)
    low = -(1 << (bits - 1)) if kind._type_.islower() else 0
    return low + lots.getrandbits(bits)


def reading(read):
    """What was read, so that NaNs compare; a garbled character is ValueError for both."""
    try:
        return repr(read())
    except (ValueError, SystemError):
        return "no character"


@given(kind=KINDS, seed=st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
def test_every_scalar_is_where_ctypes_has_it(kind, seed):
    lots = random.Random(seed)
    x = kind()
    ctypes.memmove(ctypes.addressof(x), lots.randbytes(ctypes.sizeof(x)), ctypes.sizeof(x))
    a = sharena.shmem_as_ndarray(x)
    assert a.nbytes == ctypes.sizeof(x)
    assert a.size == 0 or a.ctypes.data == ctypes.addressof(x)
    whole = (ctypes.c_char * ctypes.sizeof(x)).from_buffer(x)
    for leaf in all_leaves(x, a):
        assert reading(leaf.by_numpy) == reading(leaf.by_ctypes), leaf.kind
        value = value_for(leaf.kind, lots)
        before = whole.raw
        leaf.set_by_numpy(value)
        assert leaf.by_ctypes() == value
        numpys, whole.raw = whole.raw, before
        leaf.set_by_ctypes(value)
        assert leaf.by_numpy() == value
        if leaf.kind._type_ not in ("g", "G"):  # they have padding
            assert whole.raw == numpys


@given(kind=RECORDS)
@settings(max_examples=100, deadline=None)
def test_every_field_has_a_name_of_its_own(kind):
    """Fields of bases and of anonymous members stand in the dtype, and nothing else."""

    def names(kind):
        for name, member, is_anonymous in fields_of(kind):
            if is_anonymous and is_record(member):
                yield from names(member)
            else:
                yield name

    assert sharena.shmem_as_ndarray(kind()).dtype.names == tuple(names(kind))


class Base(ctypes.Structure):
    _fields_ = (("x", ctypes.c_int16), ("y", ctypes.c_double))


class Either(ctypes.Union):
    _fields_ = (("i", ctypes.c_int32), ("d", ctypes.c_double))


def test_a_derived_structure_begins_with_its_base():
    """NumPy's own dtype has only the last field, at offset 0."""
    kind = define(Base, [("z", ctypes.c_int32)])
    dtype = sharena.shmem_as_ndarray((kind * 2)()).dtype
    assert dtype == np.dtype(
        {
            "names": ["x", "y", "z"],
            "formats": ["i2", "f8", "i4"],
            "offsets": [0, 8, 16],
            "itemsize": 24,
        }
    )


def test_an_anonymous_union_is_where_its_alignment_puts_it():
    """NumPy's own dtype has it at offset 4."""
    kind = define(ctypes.Structure, [("tag", ctypes.c_int32), ("u", Either)], ["u"])
    a = sharena.shmem_as_ndarray(kind(3, Either(d=2.5)))
    assert a.dtype.names == ("tag", "i", "d")
    assert a.dtype.fields["i"][1] == a.dtype.fields["d"][1] == 8
    assert a.dtype.itemsize == 16
    assert a["d"] == 2.5


@pytest.mark.skipif(sys.version_info < (3, 13), reason="_align_ is of Python 3.13")
def test_align():
    """NumPy's own dtype has 4 bytes."""
    kind = define(ctypes.Structure, [("x", ctypes.c_int32)], _align_=32)
    assert sharena.shmem_as_ndarray((kind * 2)()).strides == (32,)


def test_swappedbytes_alone_swaps_nothing():
    """ctypes swaps the types of the fields, where BigEndianStructure did so."""
    kind = define(ctypes.Structure, [("x", ctypes.c_int32)], _swappedbytes_=None)
    x = kind(258)
    assert sharena.shmem_as_ndarray(x)["x"] == x.x == 258


def test_characters_in_a_structure_are_an_axis():
    """As at the top: the bytes after the first NUL are there too."""
    kind = define(ctypes.Structure, [("text", ctypes.c_char * 4), ("wide", ctypes.c_wchar * 2)])
    a = sharena.shmem_as_ndarray(kind(b"a\0bc"[:1], "é"))
    assert a.dtype["text"] == np.dtype(("S1", 4))
    assert a.dtype["wide"] == np.dtype(("U1", 2))
    a["text"] = [b"w", b"", b"y", b"z"]
    assert a["text"].tobytes() == b"w\0yz"
    assert a["wide"].tolist() == ["é", ""]


@pytest.mark.parametrize("fields", [[], [("f", ctypes.c_int * 0)]])
def test_structures_of_no_bytes(fields):
    a = sharena.shmem_as_ndarray((define(ctypes.Structure, fields) * 3)())
    assert a.shape == (3,)
    assert a.dtype.names == tuple(name for name, _ in fields)
    assert a.nbytes == 0


INT = ctypes.c_int32
NARROW = define(ctypes.Structure, [("x", ctypes.c_int8)])
LINK = define(ctypes.Structure, [("next", ctypes.POINTER(INT))])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (ctypes.c_void_p, r"cannot view .* as an array: a pointer .*ctypes\.c_void_p"),
        (ctypes.c_char_p * 2, r"c_char_p"),
        (ctypes.py_object, r"a Python object cannot be shared \(ctypes\.py_object\)"),
        (LINK, r"field 'next': a pointer .*LP_c_int"),
        (define(ctypes.Structure, [("a", LINK * 2 * 2)]), r"field 'a\.next': a pointer"),
        (define(ctypes.Structure, [("u", LINK)], ["u"]), r"field 'u\.next': a pointer"),
        (define(ctypes.Union, [("p", ctypes.c_void_p), ("n", INT)]), r"field 'p': a pointer"),
        (define(ctypes.Structure, [("o", ctypes.py_object)]), r"field 'o': a Python object"),
        (define(ctypes.Structure, [("f", ctypes.CFUNCTYPE(None))]), r"field 'f': a pointer"),
        (define(ctypes.Structure, [("b", INT, 3)]), r"field 'b': a bit field .*c_int : 3"),
        (define(define(ctypes.Structure, [("b", INT, 3)]), [("x", INT)]), r"field 'b': a bit"),
        (define(Base, [("x", INT)]), r"field 'x': two fields"),
        (define(ctypes.Structure, [("x", INT), ("x", ctypes.c_float)]), r"field 'x': two"),
        (define(ctypes.Structure, [("x", INT), ("u", NARROW)], ["u"]), r"field 'x': two"),
        (define(ctypes.Structure, [("u", NARROW), ("x", INT)], ["u"]), r"field 'x': two"),
        (
            define(ctypes.Structure, [("u", NARROW), ("v", NARROW)], ["u", "v"]),
            r"field 'x': two fields",
        ),
        (define(ctypes.Structure, [("x", NARROW), ("y", INT)], ["x"]), r"field 'x': two"),
        (type("Two", (Base, NARROW), {}), r"field 'x': .*is not the first base of .*Two"),
        (define(ctypes.Structure, [("f", ctypes.c_char * 2**31)]), r"C int"),
    ],
)
def test_what_has_no_honest_dtype_is_refused_by_name(kind, message):
    """By the type's layout, before any memory is looked at."""
    for asked in (kind, kind * 0):
        with pytest.raises(TypeError, match=message):
            sharena.shmem_as_ndarray(memoryless(asked))


def memoryless(kind):
    """An instance that nobody may look into: some of these are too large to have."""
    return kind.from_address(ctypes.addressof(INT()))


def test_members_that_take_the_place_of_a_name():
    """ctypes then reads v's members where u.v is, and the sizes agree."""
    inner = define(ctypes.Structure, [("pad", INT), ("v", NARROW)])
    other = define(ctypes.Structure, [("w", ctypes.c_int8)])
    kind = define(ctypes.Structure, [("u", inner), ("v", other)], ["u", "v"])
    with pytest.raises(TypeError, match="field 'v': two fields"):
        sharena.shmem_as_ndarray(kind())


def test_a_derived_union():
    """Some CPythons give it the size of its own fields, and read those of its base beyond."""
    larger = define(Either, [("a", ctypes.c_int8 * 24)])
    assert sharena.shmem_as_ndarray(larger(i=7))["i"] == 7
    smaller = define(Either, [("a", ctypes.c_int8)])
    if ctypes.sizeof(smaller) < ctypes.sizeof(Either):
        with pytest.raises(TypeError, match=r"field '[id]': it lies outside the \d bytes"):
            sharena.shmem_as_ndarray(smaller())
    else:
        assert sharena.shmem_as_ndarray(smaller(d=2.5))["d"] == 2.5


def pair(kind=INT):
    return type("Pair", (ctypes.Array,), {"_type_": kind, "_length_": 2})


def changed(kind, **attributes):
    for name, value in attributes.items():
        setattr(kind, name, value)
    return kind


def with_fields(kind, fields):
    """Its list of fields is the one that it was made with."""
    kind._fields_[:] = fields
    return kind


@pytest.mark.parametrize(
    "make",
    [
        lambda: changed(pair(), _length_=9),
        lambda: changed(pair(NARROW), _type_=Base),
        lambda: changed(pair(), _type_=INT * 1),
        lambda: with_fields(define(ctypes.Structure, [("x", INT)]), [("x", INT), ("y", INT)]),
        lambda: with_fields(define(ctypes.Structure, [("x", INT)]), [("x", ctypes.c_int8)]),
        lambda: changed(define(ctypes.Structure, [("x", INT)]), x=0),
        lambda: changed(
            define(ctypes.Structure, [("x", INT)]),
            x=define(ctypes.Structure, [("p", Base), ("x", INT)]).x,
        ),
    ],
)
def test_a_class_that_was_changed_is_refused(make):
    """What it says no longer fits its memory."""
    with pytest.raises(TypeError, match=r"class was changed after|lies outside"):
        sharena.shmem_as_ndarray(make()())


def test_the_type_of_an_array_is_the_one_that_it_was_made_of():
    x = changed(pair(), _type_=ctypes.c_float)(1, 2)
    assert sharena.shmem_as_ndarray(x).tolist() == [1, 2]


def test_too_many_axes():
    kind = INT
    for _ in range(65):
        kind = kind * 1
    for asked in (kind, define(ctypes.Structure, [("f", kind)])):
        with pytest.raises(TypeError, match=r"cannot view .* dimensions"):
            sharena.shmem_as_ndarray(asked())
