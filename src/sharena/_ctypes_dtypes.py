"""The dtype that reads a ctypes type as ctypes itself does.

NumPy derives dtypes from ctypes types too, but leaves out the fields of a base class,
misplaces what follows a union, and ignores `_align_`; the formats that ctypes publishes with
the buffers of structures have the same gaps.  So each field is taken from where ctypes put
it: its offset and size from the descriptor in the class that declares it, the size of a
structure from `sizeof`.  Of scalars the published format is the truth: it alone tells the
byte order of a type derived from `c_int.__ctype_be__`, which is native again, from that of
`Derived.__ctype_be__`, which is not.

A class can be changed after it was made (`_length_`, `_fields_`, a descriptor); the memory
does not follow.  What no longer adds up is refused, as is all that has no honest dtype.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["is_data", "layout", "name_of"]

Dtype = np.dtype[Any]
Path = tuple[str, ...]

# What the last letters of a format mean; the first is the byte order.
_ELEMENTS: dict[str, Any] = {
    "?": np.bool_,
    "c": "S1",
    "u": "U1",  # UCS-4, as wchar_t is here
    "f": "f4",
    "d": "f8",
    "g": np.longdouble,
    # Complex numbers, where CPython has them: 3.14 says F, PEP 3118 says Zf.
    **dict.fromkeys(("F", "Zf"), np.complex64),
    **dict.fromkeys(("D", "Zd"), np.complex128),
    **dict.fromkeys(("G", "Zg"), np.clongdouble),
    # Integers have the sizes of the struct module's standard mode.
    **dict(zip("bhilq", ("i1", "i2", "i4", "i4", "i8"), strict=True)),
    **dict(zip("BHILQ", ("u1", "u2", "u4", "u4", "u8"), strict=True)),
}

_POINTER = "a pointer means nothing in another process"
_CHANGED = "its class was changed after ctypes laid it out"
_TWICE = "two fields have this name"
_REASONS = {"P": _POINTER, "z": _POINTER, "Z": _POINTER, "O": "a Python object cannot be shared"}


class _Probe(ctypes.Structure):
    _fields_ = (("field", ctypes.c_byte),)


_Descriptor: Any = type(_Probe.field)


def is_data(kind: type) -> bool:
    """Whether instances of `kind` are ctypes values with bytes of their own."""
    return issubclass(kind, (ctypes.Array, ctypes._SimpleCData, ctypes.Structure, ctypes.Union))


def name_of(kind: type) -> str:
    """The name to show for a type: `module.Class`."""
    return f"{kind.__module__}.{kind.__qualname__}"


def layout(kind: Any) -> tuple[Dtype, tuple[int, ...]]:
    """The dtype of the elements of a ctypes type, and the axes of the arrays around them.

    Parameters
    ----------
    kind : type
        A class of ctypes scalars, arrays, structures or unions: see `is_data`.

    Returns
    -------
    dtype : numpy.dtype
        Of the innermost type that is no array.  Its `itemsize` is that type's `sizeof`.
    axes : tuple of int
        One for each level of arrays, outermost first; `()` for anything else.

    Raises
    ------
    TypeError
        Names the field, or the type where there is none, that has no honest dtype.
    """
    return _layout(kind, (), name_of(kind))


def _refuse(outermost: str, path: Path, reason: str) -> TypeError:
    where = f"field {'.'.join(path)!r}: " if path else ""
    return TypeError(f"cannot view {outermost} as an array: {where}{reason}")


def _layout(kind: Any, path: Path, outermost: str) -> tuple[Dtype, tuple[int, ...]]:
    element, axes = kind, []
    while issubclass(element, ctypes.Array):
        axes.append(element._length_)
        element = element._type_
    published = _published(kind, path, outermost)
    if issubclass(element, (ctypes.Structure, ctypes.Union)):
        dtype = _record(element, path, outermost)
    elif issubclass(element, ctypes._SimpleCData):
        dtype = _scalar(published, f"({name_of(element)})", path, outermost)
    else:  # pointers and functions
        raise _refuse(outermost, path, f"{_POINTER} ({name_of(element)})")
    size = ctypes.sizeof(kind)
    if published.shape != (0, *axes) or size != dtype.itemsize * math.prod(axes):
        raise _refuse(outermost, path, f"{_CHANGED} ({name_of(kind)})")
    return dtype, tuple(axes)


def _published(kind: Any, path: Path, outermost: str) -> memoryview:
    """A buffer with the axes and the format of `kind`, after one axis of length 0.

    An empty array of them takes no memory and runs no `__init__`.
    """
    try:
        return memoryview((kind * 0)())
    except ValueError as error:  # too many axes
        raise _refuse(outermost, path, f"{error} ({name_of(kind)})") from None


def _scalar(published: memoryview, named: str, path: Path, outermost: str) -> Dtype:
    order, code = published.format[:1], published.format[1:]
    if order in ("<", ">") and code in _ELEMENTS:
        dtype: Dtype = np.dtype(_ELEMENTS[code]).newbyteorder(order)
        if dtype.itemsize == published.itemsize:
            return dtype
    reason = _REASONS.get(code, f"NumPy has no dtype for the format {published.format!r}")
    raise _refuse(outermost, path, f"{reason} {named}")


def _record(kind: Any, path: Path, outermost: str) -> Dtype:
    """The dtype of a structure or union: fields at ctypes' offsets, of its size."""
    fields: dict[str, tuple[Any, int]] = {}
    taken: set[str] = set()

    def take(name: str) -> None:
        if name in taken:  # ctypes hides one of them, or reads it at the other's place
            raise _refuse(outermost, (*path, name), _TWICE)
        taken.add(name)

    def add(name: str, spec: Any, offset: int) -> None:
        take(name)
        fields[name] = (spec, offset)

    for name, member, offset, is_anonymous in _members(kind, path, outermost):
        dtype, axes = _layout(member, (*path, name), outermost)
        if is_anonymous and dtype.names is not None and not axes:
            take(name)  # it is no field, but ctypes has a descriptor of its name
            inside: Any = dtype.fields
            for inner in dtype.names:
                spec, at = inside[inner][:2]
                add(inner, spec, offset + at)
        else:
            add(name, (dtype, axes) if axes else dtype, offset)
    try:
        return np.dtype(
            {
                "names": list(fields),
                "formats": [spec for spec, _ in fields.values()],
                "offsets": [offset for _, offset in fields.values()],
                "itemsize": ctypes.sizeof(kind),
            }
        )
    except ValueError as error:  # beyond NumPy's limits: 2 GiB, 32 or 64 axes
        raise _refuse(outermost, path, f"{error} ({name_of(kind)})") from None


def _members(kind: Any, path: Path, outermost: str) -> Iterator[tuple[str, Any, int, bool]]:
    """(name, type, offset, whether it is anonymous) of each field, the base's first."""
    # ctypes appends to the layout of the first base; the fields of others overlap it.
    lineage = []
    base = kind
    while base is not object:
        lineage.append(base)
        base = base.__base__
    owners = [owner for owner in kind.__mro__ if "_fields_" in vars(owner)]
    anonymous = {name for owner in lineage for name in vars(owner).get("_anonymous_", ())}
    for owner in reversed(owners):
        for name, member, *bits in vars(owner)["_fields_"]:
            where = (*path, name)
            if owner not in lineage:
                reason = f"{name_of(owner)} is not the first base of {name_of(kind)}"
                raise _refuse(outermost, where, reason)
            if bits:
                reason = f"a bit field has no dtype ({name_of(member)} : {bits[0]})"
                raise _refuse(outermost, where, reason)
            field = vars(owner).get(name)
            if not isinstance(field, _Descriptor) or field.size != ctypes.sizeof(member):
                raise _refuse(outermost, where, f"{_TWICE}, or {_CHANGED} ({name_of(owner)})")
            size = ctypes.sizeof(kind)
            if field.offset + field.size > size:  # ctypes itself would read beyond
                reason = f"it lies outside the {size} bytes of {name_of(kind)}"
                raise _refuse(outermost, where, reason)
            yield name, member, field.offset, name in anonymous
