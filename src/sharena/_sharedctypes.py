"""Arrays over shared memory that others made: multiprocessing's and ctypes' objects.

`Array`, `Value`, `RawArray` and `RawValue` hand out ctypes objects in shared memory.
NumPy's own converters copy some of them silently (`numpy.array(Array(...))` goes through
the sequence protocol), read others at wrong offsets and refuse the rest.  So the dtype is
built from the ctypes type, in `_ctypes_dtypes`, and only the bytes are taken from the buffer.

The modules of multiprocessing are not imported here, which would take longer than all of
sharena: who has an object of theirs has imported them.
"""

from __future__ import annotations

import ctypes
import math
import operator
import sys
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from . import _ctypes_dtypes as dtypes
from ._shared_memory import SharedMemory

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

__all__ = ["get_lock", "shmem_as_ndarray"]

AnyArray = np.ndarray[Any, np.dtype[Any]]
Integers = SupportsIndex | Sequence[SupportsIndex]


def shmem_as_ndarray(
    x: Any,
    /,
    *,
    dtype: DTypeLike | None = None,
    shape: Integers | None = None,
    strides: Integers | None = None,
    offset: SupportsIndex = 0,
) -> AnyArray:
    """View shared memory of `multiprocessing`, or a ctypes object, without a copy.

    The array keeps the memory alive.  It knows nothing of the lock of `x`: see `get_lock`.

    Parameters
    ----------
    x : Array, Value, RawArray, RawValue, SharedMemory or ctypes object
        Made by `multiprocessing` or by sharena, with a lock or without; or a ctypes scalar,
        array, structure or union.
    dtype : dtype_like or ctypes type, optional
        What the bytes of a flat buffer are taken for: a `SharedMemory` (default `uint8`) or a
        one-dimensional array of scalars (default their dtype).  ctypes scalars, structures
        and unions are read as ctypes reads them.
    shape : int or tuple of int, optional
        Axes over a flat buffer.  By default one, of all elements after `offset`.
    strides : int or tuple of int, optional
        Bytes between neighbours along each axis of `shape`, also 0 or negative.  By default
        the array is C-contiguous.
    offset : int, default 0
        Bytes of a flat buffer before the element whose indices are all 0.

    Returns
    -------
    numpy.ndarray
        Writeable.  Without options its shape is that of the ctypes type: `()` for anything
        but arrays, which have an axis for each level.  Its dtype has the true size, sign,
        byte order and offsets; members of base classes, and of anonymous members, are fields.

    Raises
    ------
    TypeError
        Names `x`'s type, or the field, that is none of these or has no honest dtype: pointers,
        `py_object`, bit fields, two fields of one name.  Or an option is of a wrong type, or
        given where `x` is no flat buffer.
    ValueError
        Elements would lie outside `x`, or `x` is a closed `SharedMemory`.
    """
    at = _offset(offset)
    kept = _over(x)
    if isinstance(kept, np.ndarray):  # a SharedMemory
        element, axes = kept.dtype, kept.shape
    else:
        element, axes = dtypes.layout(type(kept))
    if dtype is None and shape is None and strides is None and at == 0:
        return _checked(axes, element, kept)
    _check_flat(kept, element, axes)
    return _window(kept, _dtype(dtype, element), shape, strides, at)


def get_lock(x: Any, /) -> Any:
    """Return the lock of a synchronized object.

    Parameters
    ----------
    x : Array or Value
        Anything with a method `get_lock()`, as `multiprocessing.Array` and `Value` have
        unless made with `lock=False`.

    Returns
    -------
    multiprocessing.RLock, or the lock that `x` was made with
        Hold it where several processes write::

            a = sharena.shmem_as_ndarray(x)
            with sharena.get_lock(x):
                a += 1

    Raises
    ------
    TypeError
        `x` has no lock.  The message names its type.
    """
    synchronized = _synchronized(x)
    if synchronized is not None:
        return synchronized.get_lock(x)
    method = None if isinstance(x, type) else getattr(x, "get_lock", None)
    if not callable(method):
        raise TypeError(
            f"{dtypes.name_of(type(x))} has no lock: pass a multiprocessing Array or Value that "
            "was made with one, not the array over it"
        )
    return method()


def _synchronized(x: object) -> Any:
    """The base class of what has a lock, if `x` is such an object.

    Its methods are called by way of this class: a field of a structure may have their names.
    """
    module = sys.modules.get("multiprocessing.sharedctypes")
    if module is not None and isinstance(x, module.SynchronizedBase):
        return module.SynchronizedBase
    return None


def _over(x: Any) -> Any:
    """The ctypes object in `x`, or the bytes of a SharedMemory as an array."""
    synchronized = _synchronized(x)
    if synchronized is not None:
        x = synchronized.get_obj(x)
    module = sys.modules.get("multiprocessing.shared_memory")
    theirs = () if module is None else (module.SharedMemory,)
    if isinstance(x, (SharedMemory, *theirs)):
        return _bytes_of(x)
    if not dtypes.is_data(type(x)):
        raise TypeError(_refusal(type(x)))
    return x


def _bytes_of(memory: Any) -> AnyArray:
    """All bytes of a SharedMemory.

    `numpy.frombuffer` keeps an export of the mapping, so that close() raises instead of
    leaving the array over unmapped memory, which `numpy.ndarray(buffer=)` would.
    """
    buffer = memory.buf
    if buffer is None:
        raise ValueError("x is a closed SharedMemory: view it before close()")
    array = np.frombuffer(buffer, np.uint8)
    # A SharedMemory closes itself when it is collected, and complains if it can't: it stays
    # until the export is gone.  At the end of the process nobody needs to be told.
    weakref.finalize(array.base, _let_go, memory).atexit = False
    return array


def _let_go(memory: object) -> None:
    """The array over a SharedMemory is gone; so is the reference that it held."""


def _check_flat(kept: Any, element: np.dtype[Any], axes: tuple[int, ...]) -> None:
    if len(axes) != 1 or element.names is not None:
        raise TypeError(
            "dtype=, shape=, strides= and offset= are for flat buffers, a SharedMemory or a "
            "one-dimensional array of numbers, characters or truth values, not for "
            f"{dtypes.name_of(type(kept))}: view it without them, then use its fields, "
            "reshape() and indices"
        )


def _dtype(given: Any, default: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype for a flat buffer: of a known size, without references."""
    if given is None:
        return default
    if isinstance(given, type) and dtypes.is_data(given):
        dtype, axes = dtypes.layout(given)
        if axes:
            raise TypeError(f"dtype={given!r} is an array: give its element type, and shape=")
    else:
        try:
            dtype = np.dtype(given)
        except (TypeError, ValueError) as error:
            raise TypeError(f"dtype={given!r} is no dtype: {error}") from None
    if dtype.hasobject:
        raise TypeError(
            f"dtype={dtype} holds references to objects in one process's private memory"
        )
    if dtype.subdtype is not None:
        raise TypeError(f"dtype={dtype} has a shape of its own: give its base, and shape=")
    if dtype.itemsize == 0 and dtype.names is None:
        raise TypeError(f"dtype={dtype} has no size: give one, such as {dtype.kind}8")
    return dtype


def _window(kept: Any, dtype: np.dtype[Any], shape: Any, strides: Any, at: int) -> AnyArray:
    """The array over a part of a flat buffer."""
    if strides is not None and shape is None:
        raise ValueError("strides= needs shape=: say how many elements each axis has")
    size = memoryview(kept).nbytes
    if not 0 <= at <= size:
        raise ValueError(f"offset={at} is outside x, which has {size} bytes")
    axes = _axes(shape, dtype, size - at)
    steps = None if strides is None else _integers(strides, "strides")
    _check_bounds(axes, steps, dtype, at, size)
    return _checked(axes, dtype, kept, at, steps)


def _integers(given: Any, name: str) -> tuple[int, ...]:
    try:
        return (operator.index(given),)
    except TypeError:
        pass
    try:
        return tuple(operator.index(number) for number in given)
    except TypeError:
        raise TypeError(f"{name} must be an int or a tuple of ints, not {given!r}") from None


def _offset(given: Any) -> int:
    try:
        return operator.index(given)
    except TypeError:
        raise TypeError(f"offset must be an int, a number of bytes, not {given!r}") from None


def _axes(given: Any, dtype: np.dtype[Any], left: int) -> tuple[int, ...]:
    """The shape, by default as many elements as there are bytes left."""
    if given is not None:
        axes = _integers(given, "shape")
        if min(axes, default=0) < 0:
            raise ValueError(f"shape={given!r} has a negative length: say how many elements")
        return axes
    if dtype.itemsize == 0 or left % dtype.itemsize:
        raise ValueError(
            f"the {left} bytes of x after offset are no whole number of elements of "
            f"{dtype.itemsize} bytes: give shape="
        )
    return (left // dtype.itemsize,)


def _check_bounds(
    axes: tuple[int, ...],
    strides: tuple[int, ...] | None,
    dtype: np.dtype[Any],
    offset: int,
    size: int,
) -> None:
    """Every byte of every element lies inside the buffer."""
    if strides is None:
        low, high = offset, offset + dtype.itemsize * math.prod(axes)
    elif len(strides) != len(axes):
        raise ValueError(f"strides={strides} and shape={axes} differ in length")
    elif 0 in axes:
        return
    else:
        steps = [(length - 1) * stride for length, stride in zip(axes, strides, strict=True)]
        low = offset + sum(step for step in steps if step < 0)
        high = offset + sum(step for step in steps if step > 0) + dtype.itemsize
    if low < 0 or high > size:
        raise ValueError(
            f"shape={axes} of {dtype.itemsize}-byte elements takes bytes {low} to {high} of x, "
            f"which has {size}"
        )


def _checked(
    axes: tuple[int, ...],
    dtype: np.dtype[Any],
    kept: Any,
    offset: int = 0,
    strides: tuple[int, ...] | None = None,
) -> AnyArray:
    """`numpy.ndarray`, whose base is `kept`; NumPy looks at the bounds once more."""
    try:
        return np.ndarray(axes, dtype, kept, offset, strides)
    except ValueError as error:  # more axes or elements than NumPy has
        raise ValueError(f"cannot view x with shape {axes}: {error}") from None


def _refusal(kind: type) -> str:
    """Says what was given and what would have been taken."""
    if issubclass(kind, ctypes._Pointer):
        reason = "a pointer means nothing in another process"
    else:
        reason = (
            "pass a multiprocessing Array, Value, RawArray, RawValue or SharedMemory, or a "
            "ctypes scalar, array, structure or union"
        )
    return f"cannot view {dtypes.name_of(kind)} as an array: {reason}"
