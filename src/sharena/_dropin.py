"""What multiprocessing's Array, Value, RawArray and RawValue do, in the heap.

The names and signatures are multiprocessing's; the work is done by `_synchronized`, which is
imported with the first use: it needs `multiprocessing.sharedctypes`, whose import takes longer
than all of sharena.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Array", "RawArray", "RawValue", "Value", "install_multiprocessing"]


def RawValue(typecode_or_type: Any, *args: Any) -> Any:  # noqa: N802 # multiprocessing's name
    """`multiprocessing.RawValue` in the heap: a ctypes object, without a lock.

    It can be sent to other processes at any time, through queues, pipes and pools too: what
    arrives is the same memory.  `x.as_ndarray()` is that memory as an array.

    Parameters
    ----------
    typecode_or_type : str or ctypes type
        A typecode of `array.array`, or `"c"`.
    *args
        For the constructor of the type.  The memory is zeroed first.

    Returns
    -------
    ctypes object
        Of that very type.

    Raises
    ------
    TypeError
        No such typecode or type, or one that holds Python objects.
    HeapFullError
        No room; it is a MemoryError too.
    """
    from . import _synchronized

    return _synchronized.raw_value(typecode_or_type, args)


def RawArray(typecode_or_type: Any, size_or_initializer: Any) -> Any:  # noqa: N802
    """`multiprocessing.RawArray` in the heap: a ctypes array, without a lock.

    Parameters
    ----------
    typecode_or_type : str or ctypes type
    size_or_initializer : int or sequence
        How many zeros, or the elements.

    Returns
    -------
    ctypes array
        With `as_ndarray()`, of shape `(n,)` for scalars.

    Raises
    ------
    TypeError, HeapFullError
        As by `RawValue`.
    ValueError
        A negative size.
    """
    from . import _synchronized

    return _synchronized.raw_array(typecode_or_type, size_or_initializer)


def Value(  # noqa: N802
    typecode_or_type: Any, *args: Any, lock: Any = True, ctx: Any = None
) -> Any:
    """`multiprocessing.Value` in the heap: a `RawValue` behind a lock.

    `x.value`, `x.get_obj()`, `x.get_lock()` and `with x:` are multiprocessing's.  It can be
    sent at any time, and `x.as_ndarray()` is the memory as an array of shape `()`.

    Parameters
    ----------
    typecode_or_type, *args
        As for `RawValue`.
    lock : bool or lock
        True or None: an `RLock` of sharena's, which outlives its holders.  False: the result
        is a `RawValue`.  Any other lock is used as it is, and travels as it can.
    ctx
        For multiprocessing's sake; a lock of sharena's serves every start method.

    Raises
    ------
    TypeError, HeapFullError
        As by `RawValue`.
    AttributeError
        `lock` has no method `acquire`.
    """
    from . import _synchronized

    return _synchronized.value(typecode_or_type, args, lock, ctx)


def Array(  # noqa: N802
    typecode_or_type: Any, size_or_initializer: Any, *, lock: Any = True, ctx: Any = None
) -> Any:
    """`multiprocessing.Array` in the heap: a `RawArray` behind a lock.

    Items, slices, `len()`, and of an array of `c_char` `value` and `raw`, are
    multiprocessing's.  It can be sent at any time, and `x.as_ndarray()` is the memory::

        counts = sharena.Array("q", 256)
        with counts.get_lock():
            counts.as_ndarray()[:] += 1

    Parameters
    ----------
    typecode_or_type, size_or_initializer
        As for `RawArray`.
    lock, ctx
        As for `Value`.

    Raises
    ------
    TypeError, ValueError, HeapFullError, AttributeError
        As by `RawArray` and `Value`.
    """
    from . import _synchronized

    return _synchronized.array(typecode_or_type, size_or_initializer, lock, ctx)


def install_multiprocessing() -> None:
    """Put what `multiprocessing` itself allocates into the heap, for code that can't change.

    From now on the memory behind its `Array`, `Value`, `RawArray`, `RawValue` and
    `sharedctypes.copy`, made in this process, lies in the default heap.  What was made
    before stays where it is.  Raw ones can be sent at any time; `Array` and `Value` with a
    lock of multiprocessing's still only as arguments of a `Process`, because of that lock.

    Calling it again changes nothing.  There is no way back: objects may exist.  A process
    started by spawn or forkserver calls it for itself, if it makes such objects.
    """
    from . import _synchronized

    _synchronized.install()
