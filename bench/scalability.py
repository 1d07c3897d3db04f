"""Rows of the first idea's own test: processes that fill and reduce one shared array.

Three ways to give N workers their part of an array of the parent's.  The workers are started
before the clock; in each round the parent tells them all what to do and waits for all.
"""

import itertools
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

import measure
import numpy as np
from large import MIB, text
from measure import Row, Settings, compare

import sharena

MOST = 8
ANGLE = 0.5
Bounds = tuple[int, int]


def fill_and_sum(part: np.ndarray) -> float:
    """What each worker does: computes each element, and reads it.

    Without the sine one process would use all that the memory gives.
    """
    part.fill(ANGLE)
    np.sin(part, out=part)
    return float(part.sum())


def viewer(connection: Connection, shared) -> None:
    """Has inherited a multiprocessing.Array, views it, is told bounds."""
    array = sharena.shmem_as_ndarray(shared)
    while (bounds := connection.recv()) is not None:
        connection.send(fill_and_sum(array[slice(*bounds)]))


def receiver(connection: Connection, send_back: bool) -> None:
    """Gets its part in the message; what is a copy has to be sent back."""
    while (part := connection.recv()) is not None:
        total = fill_and_sum(part)
        connection.send((part, total) if send_back else total)
        del part


class Workers:
    """Processes with a pipe each, on all CPUs."""

    def __init__(self, work: Callable[..., None], argument: object) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes, self.processes = [], []
        for _ in range(MOST):
            near, far = context.Pipe()
            process = context.Process(target=work, args=(far, argument))
            process.start()
            far.close()
            self.pipes.append(near)
            self.processes.append(process)

    def ask(self, messages: list[object]) -> list[object]:
        """Send each message to a worker of its own; return the answers."""
        busy = self.pipes[: len(messages)]
        for pipe, message in zip(busy, messages, strict=True):
            pipe.send(message)
        return [pipe.recv() for pipe in busy]

    def end(self) -> None:
        for pipe in self.pipes:
            pipe.send(None)
        for process in self.processes:
            process.join()


def parts(length: int, count: int) -> list[Bounds]:
    ends = [length * nth // count for nth in range(count + 1)]
    return list(itertools.pairwise(ends))


def timed(run: Callable[[], float], array: np.ndarray) -> Callable[[], float]:
    """An action: ms of a round in which each element was written and added up."""

    def action() -> float:
        array.fill(0)
        start = time.perf_counter()
        total = run()
        took = time.perf_counter() - start
        assert math.isclose(total, array.size * math.sin(ANGLE))
        assert math.isclose(total, array.sum())
        return took * 1e3

    return action


def by_bounds(workers: Workers, array: np.ndarray, count: int) -> Callable[[], float]:
    return timed(lambda: sum(workers.ask(parts(array.size, count))), array)


def by_handle(workers: Workers, array: np.ndarray, count: int) -> Callable[[], float]:
    def run() -> float:
        return sum(workers.ask([array[low:high] for low, high in parts(array.size, count)]))

    return timed(run, array)


def by_value(workers: Workers, array: np.ndarray, count: int) -> Callable[[], float]:
    def run() -> float:
        bounds, total = parts(array.size, count), 0.0
        answers = workers.ask([array[low:high] for low, high in bounds])
        for (low, high), (part, some) in zip(bounds, answers, strict=True):
            array[low:high] = part
            total += some
        return total

    return timed(run, array)


def scalability(settings: Settings) -> Iterator[Row]:
    """Processes that fill and sum one array."""
    length = settings.pick(64, 1) * MIB // 8
    shared = multiprocessing.get_context("spawn").Array("d", length)
    viewed, ours, private = (
        sharena.shmem_as_ndarray(shared),
        sharena.zeros(length),
        np.zeros(length),
    )
    ways = [Workers(receiver, False), Workers(viewer, shared), Workers(receiver, True)]
    numbers = range(1, MOST + 1)
    handles = [by_handle(ways[0], ours, count) for count in numbers]
    bounds = [by_bounds(ways[1], viewed, count) for count in numbers]
    values = [by_value(ways[2], private, count) for count in numbers]
    try:
        measure.rounds([*handles, *bounds, *values], 1)
        for peers, name, many in (
            (bounds, "a multiprocessing.Array, viewed", settings.pick(11, 1)),
            (values, "pickling", settings.pick(3, 1)),
        ):
            # All numbers in each round: what slows one down slows the others too.
            figures = measure.rounds([*handles, *peers], many)
            for count, mine, others in zip(numbers, figures, figures[MOST:], strict=False):
                what = f"{count} fill and sum {text(8 * length)}"
                yield compare("scalability", what, (mine, others), "ms", versus=name)
    finally:
        for workers in ways:
            workers.end()
