"""Arrays over what multiprocessing.sharedctypes made.

`Array`, `Value`, `RawArray` and `RawValue` hand out ctypes objects in shared memory.
NumPy's own converters either copy them silently (`numpy.array(Array(...))` goes through
the sequence protocol) or refuse element types whose buffer format they cannot read
(`c_wchar`, `c_longdouble`, `c_void_p`).  So the dtype is built here from the ctypes type,
and only the bytes are taken from the buffer.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any

import numpy as np

__all__ = ["shmem_as_ndarray"]


@functools.cache
def _scalar_dtypes() -> dict[type, np.dtype[Any]]:
    """Every scalar ctypes type that holds a plain value, in both byte orders.

    `c_void_p` is an address, shown as an unsigned integer of its size.  `c_char_p`,
    `c_wchar_p` and `py_object` are missing on purpose: they hold addresses of objects in
    one process's private memory.
    """
    kinds: list[tuple[type, Any]]
    kinds = [(ctypes.c_bool, "?"), (ctypes.c_char, "S1"), (ctypes.c_void_p, np.uintp)]
    kinds += [
        (kind, f"{sign}{ctypes.sizeof(kind)}")
        for sign, names in (
            ("i", "c_byte c_short c_int c_long c_longlong c_ssize_t"),
            ("u", "c_ubyte c_ushort c_uint c_ulong c_ulonglong c_size_t"),
        )
        for kind in (getattr(ctypes, name) for name in names.split())
    ]
    kinds += [(ctypes.c_float, "f4"), (ctypes.c_double, "f8")]
    kinds += [(ctypes.c_longdouble, np.longdouble)]
    if ctypes.sizeof(ctypes.c_wchar) == 4:  # NumPy's only text element is UCS-4
        kinds += [(ctypes.c_wchar, "U1")]
    for name, complex_kind in (  # Python 3.14, where the compiler has them
        ("c_float_complex", np.complex64),
        ("c_double_complex", np.complex128),
        ("c_longdouble_complex", np.clongdouble),
    ):
        if hasattr(ctypes, name):
            kinds += [(getattr(ctypes, name), complex_kind)]

    table: dict[type, np.dtype[Any]] = {}
    kind: Any
    for kind, spec in kinds:
        dtype: np.dtype[Any] = np.dtype(spec)
        table[kind] = dtype
        if hasattr(kind, "__ctype_le__"):
            table[kind.__ctype_le__] = dtype.newbyteorder("<")
            table[kind.__ctype_be__] = dtype.newbyteorder(">")
    return table


def _scalar_dtype(kind: type) -> np.dtype[Any] | None:
    """The dtype of a scalar type or of a class derived from one."""
    for base in kind.__mro__:
        dtype = _scalar_dtypes().get(base)
        if dtype is not None and dtype.itemsize == ctypes.sizeof(kind):
            return dtype
    return None


def shmem_as_ndarray(x: Any, /) -> np.ndarray[Any, np.dtype[Any]]:
    """View a shared `Array`, `Value`, `RawArray` or `RawValue` as a NumPy array.

    Nothing is copied: every process that has `x` sees what is written to the array, and
    the array keeps the memory alive.  The shape is that of the ctypes type: `()` for a
    `Value`, `(n,)` for an `Array`, and one more axis for each level of nested arrays.  The
    dtype has the true size, sign and byte order of the element type.

    The array knows nothing of the lock.  Where several processes write, hold it::

        a = sharena.shmem_as_ndarray(x)
        with x.get_lock():
            a += 1

    `TypeError` for everything else: structures, unions, pointers, `py_object`, and the
    proxies of a `Manager`, whose data lives in the manager's process.
    """
    obj: Any = x.get_obj() if _is_synchronized(x) else x
    kind: Any = type(obj)
    shape: list[int] = []
    if not issubclass(kind, (ctypes.Array, ctypes._SimpleCData)):
        raise TypeError(_refusal(kind))
    while issubclass(kind, ctypes.Array):
        shape.append(kind._length_)
        kind = kind._type_
    dtype = _scalar_dtype(kind)
    if dtype is None:
        raise TypeError(_refusal(kind))
    array: np.ndarray[Any, np.dtype[Any]] = np.ndarray(tuple(shape), dtype, buffer=obj)
    return array


def _is_synchronized(x: object) -> bool:
    """Whether `x` is an `Array` or a `Value`; who has one has imported their module.

    Importing it here would take longer than all of sharena.
    """
    module = sys.modules.get("multiprocessing.sharedctypes")
    return module is not None and isinstance(x, module.SynchronizedBase)


def _refusal(kind: type) -> str:
    """Says what was given and what would have been taken."""
    name = f"{kind.__module__}.{kind.__qualname__}"
    if issubclass(kind, (ctypes.Structure, ctypes.Union)):
        reason = "structures and unions are not supported"
    elif issubclass(kind, ctypes._Pointer) or kind in (ctypes.c_char_p, ctypes.c_wchar_p):
        reason = "a pointer means nothing in another process"
    elif issubclass(kind, ctypes.py_object):
        reason = "a Python object cannot be shared"
    else:
        reason = (
            "pass a multiprocessing Array, Value, RawArray or RawValue whose elements are "
            "numbers, characters or truth values"
        )
    return f"cannot view {name} as an array: {reason}"
