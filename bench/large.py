"""Rows of large arrays: memory that is warm, memory that is new."""

import gc
import time
from collections.abc import Callable, Iterator
from multiprocessing.shared_memory import SharedMemory

import measure
import numpy as np
from measure import Row, Settings, compare, fresh

import sharena

MIB = 1 << 20


def text(size_bytes: int) -> str:
    return f"{size_bytes >> 30} GiB" if size_bytes >= 1 << 30 else f"{size_bytes // MIB} MiB"


def fill_drop(make: Callable[[], np.ndarray]) -> None:
    array = make()
    array.fill(1)


def fill_drop_shared_memory(size_bytes: int) -> None:
    memory = SharedMemory(create=True, size=size_bytes)
    np.ndarray(size_bytes, "u1", memory.buf).fill(1)
    memory.close()
    memory.unlink()


def timed(action: Callable[[], None], number: int) -> Callable[[], float]:
    """An action: CPU time of one call, in ms."""

    def measured() -> float:
        gc.collect()
        start = time.thread_time()
        for _ in range(number):
            action()
        return (time.thread_time() - start) / number * 1e3

    return measured


def _sharena(size_bytes: int, heap: sharena.Heap | None = None):
    return lambda: fill_drop(lambda: sharena.empty(size_bytes, "u1", heap=heap))


def _numpy(size_bytes: int):
    return lambda: fill_drop(lambda: np.empty(size_bytes, "u1"))


def _shared_memory(size_bytes: int):
    return lambda: fill_drop_shared_memory(size_bytes)


def _repeats(size_bytes: int, settings: Settings) -> int:
    """Several in a row: the first finds the caches full of the peer's memory, and is not warm."""
    return max(settings.pick(4, 1), settings.pick(256, 4) * MIB // size_bytes)


def _warm_rounds(size_bytes: int, peer, settings: Settings):
    sharena.Heap.default().trim()  # what earlier rows left would be given back meanwhile
    number = _repeats(size_bytes, settings)
    actions = timed(_sharena(size_bytes), number), timed(peer(size_bytes), number)
    measure.rounds(actions, 1)
    return tuple(measure.rounds(actions, settings.pick(5 if size_bytes >> 30 else 11, 2)))


def _floor(size_bytes: int, settings: Settings) -> Row:
    """What an allocator that costs nothing would reach: an array that is kept, filled anew."""
    kept = sharena.empty(size_bytes, "u1")
    kept.fill(1)
    number = _repeats(size_bytes, settings)
    actions = timed(lambda: kept.fill(1), number), timed(_numpy(size_bytes), number)
    figures = tuple(measure.rounds(actions, settings.pick(5 if size_bytes >> 30 else 11, 2)))
    what = f"  {text(size_bytes)}, the filling alone"
    return compare("warm", what, figures, "ms", versus="np.empty, allocate+fill+drop")


def warm(settings: Settings) -> Iterator[Row]:
    """Allocate, fill, drop, in memory used before."""
    measure.pin(0)
    sizes = [(1, 1.1, 1.0), (8, 1.1, 1.0), (64, 0.4, 0.2), (1024, 0.4, 0.2)]
    sizes = [(min(mib, settings.pick(1024, 16)) * MIB, bar, goal) for mib, bar, goal in sizes]
    # One peer after the other: what SharedMemory gives back leaves the kernel few huge pages
    # for np.empty.
    for size_bytes, bar, goal in sizes:
        figures = _warm_rounds(size_bytes, _numpy, settings)
        what = f"warm {text(size_bytes)}, allocate+fill+drop"
        yield compare("warm", what, figures, "ms", bar=bar, goal=goal, versus="np.empty")
        yield _floor(size_bytes, settings)
    for size_bytes, _, _ in sizes:
        figures = _warm_rounds(size_bytes, _shared_memory, settings)
        what = f"warm {text(size_bytes)}, the same, times faster"
        yield compare("warm", what, figures, "ms", bar=20, faster=True, versus="SharedMemory")
    sharena.Heap.default().trim()


def cold_rounds(size_bytes: int, peer: str, count: int) -> list[list[float]]:
    """For fresh.py: each time memory that is new to the process, ours in a heap of its own."""

    def ours() -> float:
        heap = sharena.Heap.create()
        sharena.empty(1, heap=heap)
        ms = timed(_sharena(size_bytes, heap), 1)()
        heap.close()
        return ms

    action = {"np.empty": _numpy, "SharedMemory": _shared_memory}[peer](size_bytes)
    measure.pin(0)
    return [some[1:] for some in measure.rounds((ours, timed(action, 1)), count + 1)]


def cold(settings: Settings) -> Iterator[Row]:
    """The same in memory that was never used."""
    sizes = [(1, 31), (64, 9), (1024, 5)]
    sizes = [(min(mib, settings.pick(1024, 16)) * MIB, n) for mib, n in sizes]
    for size_bytes, full in sizes:
        count = settings.pick(full, 2)
        what = f"cold {text(size_bytes)}, allocate+fill+drop"
        plain = fresh("cold", size_bytes, "np.empty", count, NUMPY_MADVISE_HUGEPAGE="0")
        small = compare("cold", f"  {what}", plain, "ms", versus="np.empty without huge pages")
        # The bar is "or the cause named": one measured here, or none.
        cause = "huge pages" if small.ratio <= 2 else ""
        figures = fresh("cold", size_bytes, "np.empty", count)
        yield compare("cold", what, figures, "ms", bar=2.0, cause=cause, versus="np.empty")
        yield small
    for size_bytes, count in sizes:
        figures = fresh("cold", size_bytes, "SharedMemory", settings.pick(count, 2))
        what = f"cold {text(size_bytes)}, the same"
        yield compare("cold", what, figures, "ms", bar=0.8, versus="SharedMemory")
