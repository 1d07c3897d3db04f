"""Memory policies: what NumPy itself allocates lands in a heap (NEP 49)."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable
from typing import Any, ParamSpec, SupportsIndex, TypeVar, cast

from . import _core
from ._core import Heap

__all__ = ["MemoryPolicy", "allocate_always", "allocating"]

P = ParamSpec("P")
T = TypeVar("T")


class MemoryPolicy(_core.PolicyScope):
    """Where NumPy takes the memory of new arrays from, as a context manager and a decorator.

    Inside, the memory of every array that NumPy makes lies in the heap: results of
    expressions and ufuncs, `numpy.load`, linear algebra, and what SciPy and pandas make with
    NumPy.  They are plain arrays that own their memory, `is_shared` is True of them, and they
    and their views go to other processes as handles.

    As NumPy's own handlers do, it holds for the context that enters it: the thread, or the
    asyncio task, and the tasks made in it, but not for other threads.  It can be entered
    several times, one inside the other.

    Private memory is what it was for arrays of objects and of `StringDType`, for arrays of
    zeros of a subclass of ndarray, for arrays smaller than `min_bytes`, and for arrays that
    NumPy makes over memory it gets: large unpickled ones, `numpy.frombuffer`, memory maps.

    Parameters
    ----------
    heap : Heap, optional
        Default `Heap.default()`, at the moment it is entered.
    align : int
        Alignment of the arrays in bytes, a power of two up to 2 MiB.  0: 16 bytes, and 64 KiB
        for arrays larger than 56 KiB.
    min_bytes : int
        Smaller arrays stay in private memory.

    Raises
    ------
    TypeError, ValueError
        An argument of another type, not a power of two, or negative.
    HeapClosedError
        When it is entered: the heap was closed.

    Notes
    -----
    An array for which the heap has no room raises NumPy's `MemoryError`.  In a forked guest
    (no slot in the heap was free for it) arrays are private.
    """

    __slots__ = ("align", "heap", "min_bytes")

    heap: Heap | None
    align: int
    min_bytes: int

    def __init__(
        self,
        heap: Heap | None = None,
        *,
        align: SupportsIndex = 0,
        min_bytes: SupportsIndex = 0,
    ) -> None:
        if heap is not None and not isinstance(heap, Heap):
            raise TypeError(f"heap must be a Heap or None, not {type(heap).__name__}")
        self.heap = heap
        self.align = _checked_align(align)
        self.min_bytes = _checked_size(min_bytes)

    def __repr__(self) -> str:
        heap = "" if self.heap is None else f"{self.heap!r}, "
        return f"MemoryPolicy({heap}align={self.align}, min_bytes={self.min_bytes})"

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """Decorate a function: it runs inside the policy; a coroutine function, too."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"{function.__qualname__} is a generator: it runs in the context of who "
                "iterates over it; use `with` around the iteration"
            )
        if inspect.iscoroutinefunction(function):

            async def run_coroutine(*args: P.args, **kwargs: P.kwargs) -> Any:
                with self:
                    return await function(*args, **kwargs)

            return cast(Callable[P, T], functools.wraps(function)(run_coroutine))

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            with self:
                return function(*args, **kwargs)

        return run


def _checked_align(value: SupportsIndex) -> int:
    align = _index(value, "align")
    if align < 0 or align & (align - 1) or align > 2 << 20:
        raise ValueError(f"align must be a power of two up to {2 << 20}, or 0, got {align}")
    return align


def _checked_size(value: SupportsIndex) -> int:
    size = _index(value, "min_bytes")
    if not 0 <= size < 1 << 63:
        raise ValueError(f"min_bytes must be from 0 to 2**63 - 1, got {size}")
    return size


def _index(value: SupportsIndex, name: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, not {type(value).__name__}") from None


def allocating(
    heap: Heap | None = None, *, align: SupportsIndex = 0, min_bytes: SupportsIndex = 0
) -> MemoryPolicy:
    """Put everything that NumPy allocates inside a `with` block into the heap.

    Also as a decorator.  See `MemoryPolicy` for the parameters and what it holds for::

        with sharena.allocating():
            c = a @ b                   # a plain ndarray, in shared memory
    """
    return MemoryPolicy(heap, align=align, min_bytes=min_bytes)


def allocate_always(
    heap: Heap | None = None,
    *,
    enabled: bool = True,
    align: SupportsIndex = 0,
    min_bytes: SupportsIndex = 0,
) -> None:
    """Put everything that NumPy allocates in this process into the heap, from now on.

    It holds for all threads, those of C libraries and those to come, wherever no other
    policy is set, and in forked children.  Arrays made so are for the process's own use: they
    travel by value, and `is_shared` is False, until ``share(a)`` says otherwise, which copies
    nothing.  A forked child has the same arrays, in the same memory: what one writes, the
    other sees.

    Parameters
    ----------
    heap : Heap, optional
        Default `Heap.default()`, as it is now.  It stays attached.
    enabled : bool
        False: back to private memory.  Arrays that were made stay where they are.
    align, min_bytes : int
        As for `MemoryPolicy`, which also says what stays private.

    Raises
    ------
    TypeError, ValueError, HeapClosedError
        As `MemoryPolicy`.
    """
    policy = MemoryPolicy(heap, align=align, min_bytes=min_bytes)
    if enabled:
        _core._allocate_always(policy.heap, policy.align, policy.min_bytes)
    else:
        _core._allocate_always()
