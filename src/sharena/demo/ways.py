"""Three ways to filter a stack of planes with several processes.

Each starts from the same `.npy` file and ends with the filtered stack in the parent; each
is what a careful user of it writes.  They run in a fresh interpreter (`python -m
sharena.demo WAY FILE WORKERS SIZE`), so that one's memory is not the other's, and are
watched from outside (`measure.py`).
"""

from __future__ import annotations

import functools
import hashlib
import json
import multiprocessing
import multiprocessing.pool
import multiprocessing.resource_tracker
import multiprocessing.shared_memory
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .measure import bytes_written, memory
from .progress import Progress

Stack = np.ndarray[Any, np.dtype[Any]]
Pool = multiprocessing.pool.Pool
Way = Callable[[str, Pool, int, Progress], tuple[Stack, Callable[[], None]]]


def median(plane: Stack, size: int) -> Stack:
    """The filter itself."""
    from scipy import ndimage  # type: ignore[import-untyped, unused-ignore]

    filtered: Stack = ndimage.median_filter(plane, size)
    return filtered


def in_place(plane: Stack, size: int) -> None:
    plane[...] = median(plane, size)


def sharena_way(
    path: str, pool: Pool, size: int, progress: Progress
) -> tuple[Stack, Callable[[], None]]:
    """The stack is in shared memory, so a plane is sent as a handle."""
    import sharena

    stack = sharena.load(path)
    work = functools.partial(in_place, size=size)
    progress.follow(pool.imap_unordered(work, stack), len(stack))
    return stack, lambda: None


def _returned(job: tuple[int, Stack], size: int) -> tuple[int, Stack]:
    index, plane = job
    return index, median(plane, size)


def pickling_way(
    path: str, pool: Pool, size: int, progress: Progress
) -> tuple[Stack, Callable[[], None]]:
    """Each plane is copied to a worker and its result copied back."""
    stack = np.load(path)
    work = functools.partial(_returned, size=size)
    results = pool.imap_unordered(work, enumerate(stack))
    for index, plane in progress.over(results, len(stack)):
        stack[index] = plane
    return stack, lambda: None


class Block(NamedTuple):
    """What a worker must be told to find the stack in a SharedMemory."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@functools.lru_cache(maxsize=1)
def _attached(name: str) -> multiprocessing.shared_memory.SharedMemory:
    return multiprocessing.shared_memory.SharedMemory(name)


def _by_index(index: int, block: Block, size: int) -> None:
    memory = _attached(block.name)
    stack: Stack = np.ndarray(block.shape, block.dtype, buffer=memory.buf)
    in_place(stack[index], size)


def shared_memory_way(
    path: str, pool: Pool, size: int, progress: Progress
) -> tuple[Stack, Callable[[], None]]:
    """The parent names a block, the workers find it by name, the parent unlinks it."""
    source = np.load(path, mmap_mode="r")
    memory = multiprocessing.shared_memory.SharedMemory(create=True, size=source.nbytes)
    stack: Stack = np.ndarray(source.shape, source.dtype, buffer=memory.buf)
    del source  # only its header was wanted
    with open(path, "rb") as file:
        file.seek(-stack.nbytes, os.SEEK_END)
        file.readinto(stack.reshape(-1).view(np.uint8).data)
    block = Block(memory.name, stack.shape, stack.dtype.str)
    work = functools.partial(_by_index, block=block, size=size)
    progress.follow(pool.imap_unordered(work, range(len(stack))), len(stack))
    return stack, memory.unlink


WAYS: dict[str, Way] = {
    "sharena": sharena_way,
    "pickling": pickling_way,
    "multiprocessing.shared_memory": shared_memory_way,
}


def digests(stack: Stack) -> list[str]:
    """One for each plane: equal exactly when every bit is."""
    return [hashlib.blake2b(plane.tobytes(), digest_size=16).hexdigest() for plane in stack]


_barrier: Any = None  # in a worker: where all of them meet


def _warm_up(_: int) -> int:
    """Imports the filter; the others wait meanwhile, so that each worker gets a turn."""
    median(np.zeros((3, 3), np.float32), 3)
    _barrier.wait(60)
    return os.getpid()


def _keep(barrier: Any) -> None:
    global _barrier  # noqa: PLW0603 # how a Pool's initializer talks to its tasks
    _barrier = barrier


def main(arguments: list[str]) -> None:
    """Runs one way and prints what it took as JSON."""
    name, path, workers, size = arguments[0], arguments[1], int(arguments[2]), int(arguments[3])
    barrier = multiprocessing.Barrier(workers)
    # A worker that finds no tracker when it attaches to a SharedMemory starts one of its
    # own, which unlinks the block when the worker ends.
    multiprocessing.resource_tracker.ensure_running()
    with multiprocessing.Pool(workers, _keep, (barrier,)) as pool:
        pids = [os.getpid(), *pool.map(_warm_up, range(workers), chunksize=1)]
        progress = Progress(name)
        idle = memory(os.getpid())
        sent = bytes_written(pids)
        start = time.perf_counter()
        stack, clean_up = WAYS[name](path, pool, size, progress)
        seconds = time.perf_counter() - start
        sent = bytes_written(pids) - sent - progress.written
    result = {"seconds": seconds, "sent": sent, "idle": idle, "digests": digests(stack)}
    clean_up()
    json.dump(result, sys.stdout)
