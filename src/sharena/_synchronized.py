"""multiprocessing.sharedctypes over blocks of the heap.

A ctypes object of exactly the type that multiprocessing would give is laid over a block.
multiprocessing's own reducer of such types lets them through to processes that are being
started only; the one here, in its place, sends the block, as a handle.  It sends what lies in
the heap alone; everything else is left to the one that was there.

Data and lock of a synchronized object share a block, and a message names a block once.
"""

from __future__ import annotations

import ctypes
import multiprocessing.heap
import sys
import weakref
from multiprocessing import sharedctypes as _theirs
from typing import Any

import numpy as np

from . import _core, _reducers
from ._sharedctypes import shmem_as_ndarray

__all__ = ["Buffer", "array", "install", "raw_array", "raw_value", "value"]

LOCK_BYTES = 16
LOCK_ALIGN = 8
SIMPLE: Any = ctypes._SimpleCData
KINDS = (SIMPLE, ctypes.Array, ctypes.Structure, ctypes.Union)
sharedctypes: Any = _theirs  # typeshed lacks what is used of it
TYPECODES: dict[Any, Any] = sharedctypes.typecode_to_type


class Buffer:
    """Stands for `multiprocessing.heap.BufferWrapper`: `size` bytes of a block."""

    def __init__(self, size: int) -> None:
        if size < 0:
            raise ValueError(f"size must not be negative, got {size}")
        if size > sys.maxsize:
            raise OverflowError(f"size {size} is too large")
        self._block = _core._block_of(_core.empty(max(size, 1), "u1"))
        self._size = size

    def create_memoryview(self) -> memoryview:
        return memoryview(self._block)[: self._size]  # type: ignore[arg-type]

    def address(self) -> int:
        return ctypes.addressof(ctypes.c_char.from_buffer(self._block))  # type: ignore[arg-type]

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild_buffer, (self._block, self._size)


def rebuild_buffer(memory: Any, size: int) -> Any:
    """Over the array that a block arrives as."""
    if type(memory) is _core.Lost:
        return memory
    return _buffer_over(memory, size)


def _buffer_over(memory: Any, size: int) -> Buffer:
    buffer = Buffer.__new__(Buffer)
    buffer._block = _core._block_of(memory)
    buffer._size = size
    return buffer


class View:
    """The method `as_ndarray` of one ctypes object, without a reference to the object."""

    __slots__ = ("_buffer", "_kind")

    def __init__(self, kind: Any, buffer: Buffer) -> None:
        self._kind = kind
        self._buffer = buffer

    def __call__(self, **options: Any) -> Any:
        """View the memory as an array: `shmem_as_ndarray(x, **options)`."""
        obj = self._kind.from_buffer(self._buffer.create_memoryview())
        return shmem_as_ndarray(obj, **options)


# ---- ctypes objects ----


def _lay(kind: Any, buffer: Buffer) -> Any:
    obj = kind.from_buffer(buffer.create_memoryview())
    obj._wrapper = buffer
    if not hasattr(kind, "as_ndarray"):  # a field may have that name
        obj.as_ndarray = View(kind, buffer)
    _register(kind)
    return obj


_known: weakref.WeakSet[Any] = weakref.WeakSet()


def _register(kind: Any) -> None:
    if kind not in _known:
        _reducers.register(kind, reduce_ctype)
        _known.add(kind)


_original: Any = sharedctypes.reduce_ctype


def reduce_ctype(obj: Any, fallback: Any = None) -> Any:
    """In the place of `sharedctypes.reduce_ctype`, for every type that it is put into."""
    buffer = getattr(obj, "_wrapper", None)
    if buffer is None:
        return obj.__reduce_ex__(4)
    if not isinstance(buffer, Buffer):
        return (fallback or _original)(obj)
    if ctypes.addressof(obj) != buffer.address():
        raise TypeError(
            "a copy of a shared object lies in private memory, and can't be sent; send the "
            "original, or make a RawArray or RawValue of its contents"
        )
    kind: Any = type(obj)
    shape = []
    while issubclass(kind, ctypes.Array) and kind is kind._type_ * kind._length_:
        shape.append(kind._length_)  # such a type has no name to find it by
        kind = kind._type_
    return rebuild_ctype, (kind, shape, buffer)


def rebuild_ctype(kind: Any, shape: list[int], buffer: Any) -> Any:
    if type(buffer) is _core.Lost:
        return buffer
    for length in reversed(shape):
        kind = kind * length
    return _lay(kind, buffer)


sharedctypes.reduce_ctype = reduce_ctype  # which it registers for each type anew


def _kind_of(typecode_or_type: Any) -> Any:
    kind = typecode_or_type
    if isinstance(kind, str):
        kind = TYPECODES.get(kind)
    if not (isinstance(kind, type) and issubclass(kind, KINDS)):
        raise TypeError(
            f"typecode_or_type must be a ctypes type, such as ctypes.c_double, or one of "
            f"{' '.join(TYPECODES)}, not {typecode_or_type!r}"
        )
    if issubclass(kind, ctypes.py_object):
        raise TypeError("typecode_or_type must not be py_object: objects can't be shared")
    return kind


def _zeros(kind: Any, with_lock: bool) -> tuple[Any, Any]:
    """A zeroed object of that type and, if wanted, a lock behind it."""
    size = ctypes.sizeof(kind)
    if not with_lock:
        return _lay(kind, _buffer_over(_core.zeros(max(size, 1), "u1"), size)), None
    place = -(-size // LOCK_ALIGN) * LOCK_ALIGN
    memory = _core.zeros(place + LOCK_BYTES, "u1")
    return _lay(kind, _buffer_over(memory, size)), _core._lock_over(memory, place)


def _new_value(typecode_or_type: Any, args: Any, with_lock: bool) -> tuple[Any, Any]:
    obj, lock = _zeros(_kind_of(typecode_or_type), with_lock)
    obj.__init__(*args)
    return obj, lock


def _new_array(typecode_or_type: Any, what: Any, with_lock: bool) -> tuple[Any, Any]:
    kind = _kind_of(typecode_or_type)
    if isinstance(what, (int, np.integer)):
        return _zeros(kind * int(what), with_lock)
    obj, lock = _zeros(kind * len(what), with_lock)
    obj.__init__(*what)
    return obj, lock


def raw_value(typecode_or_type: Any, args: Any) -> Any:
    return _new_value(typecode_or_type, args, False)[0]


def raw_array(typecode_or_type: Any, size_or_initializer: Any) -> Any:
    return _new_array(typecode_or_type, size_or_initializer, False)[0]


# ---- with a lock ----


def _with_lock(new: Any, kind: Any, what: Any, lock: Any, ctx: Any) -> Any:
    ours = lock is True or lock is None
    if not ours and lock is not False and not hasattr(lock, "acquire"):
        raise AttributeError(f"{lock!r} has no method 'acquire'")
    obj, made = new(kind, what, ours)
    return obj if lock is False else synchronized(obj, made if ours else lock, ctx)


def value(typecode_or_type: Any, args: Any, lock: Any, ctx: Any) -> Any:
    return _with_lock(_new_value, typecode_or_type, args, lock, ctx)


def array(typecode_or_type: Any, size_or_initializer: Any, lock: Any, ctx: Any) -> Any:
    return _with_lock(_new_array, typecode_or_type, size_or_initializer, lock, ctx)


class _Sendable:
    """What the synchronized objects here have beyond multiprocessing's."""

    _obj: Any
    _lock: Any

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild_synchronized, (self._obj, self._lock)

    def as_ndarray(self, **options: Any) -> Any:
        """View the memory as an array, which knows nothing of the lock.

        Parameters
        ----------
        **options
            As of `shmem_as_ndarray`: dtype, shape, strides, offset.

        Returns
        -------
        numpy.ndarray
        """
        return shmem_as_ndarray(self, **options)


class Synchronized(_Sendable, _theirs.Synchronized):  # type: ignore[type-arg]
    """A number behind a lock."""


class SynchronizedArray(_Sendable, _theirs.SynchronizedArray):  # type: ignore[type-arg]
    """An array behind a lock."""


class SynchronizedString(_Sendable, _theirs.SynchronizedString):
    """An array of `c_char` behind a lock."""


_classes: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def _class_for(kind: Any) -> Any:
    """For a structure or union: each field is a property that takes the lock."""
    if kind not in _classes:
        make = sharedctypes.make_property
        members = {field[0]: make(field[0]) for field in kind._fields_}
        bases = (_Sendable, sharedctypes.SynchronizedBase)
        _classes[kind] = type(f"Synchronized{kind.__name__}", bases, members)
    return _classes[kind]


def synchronized(obj: Any, lock: Any, ctx: Any = None) -> Any:
    if isinstance(obj, SIMPLE):
        return Synchronized(obj, lock, ctx)
    if not isinstance(obj, ctypes.Array):
        return _class_for(type(obj))(obj, lock, ctx)
    kind: Any = SynchronizedString if obj._type_ is ctypes.c_char else SynchronizedArray
    return kind(obj, lock, ctx)


def rebuild_synchronized(obj: Any, lock: Any) -> Any:
    for part in (obj, lock):
        if type(part) is _core.Lost:
            return part
    return synchronized(obj, lock)


# ---- multiprocessing's own ----


_heap: Any = multiprocessing.heap
_Earlier = _heap.BufferWrapper


def install() -> None:
    if _heap.BufferWrapper is not Buffer:
        _reducers.register(_Earlier, reduce_earlier)
        _heap.BufferWrapper = Buffer


def reduce_earlier(wrapper: Any, fallback: Any = None) -> Any:
    """For what was made before: pickle would look for its class under the name of ours."""
    return fallback(wrapper) if fallback else (rebuild_earlier, (vars(wrapper),))


def rebuild_earlier(state: dict[str, Any]) -> Any:
    wrapper = object.__new__(_Earlier)
    vars(wrapper).update(state)
    return wrapper
