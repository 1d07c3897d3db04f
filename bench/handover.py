"""Rows of the hand-over: round trips, pickling, the first read by a receiver."""

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler

import measure
import numpy as np
from large import MIB, text
from measure import Row, Settings, compare, fresh

import sharena

TUPLE = (1, 2, 3, 4, 5)


class Reduced(bytes):
    """What any object with a reducer costs: a callable and as many bytes as a handle has."""

    def __reduce__(self):
        return Reduced, (bytes(self),)


REDUCED = Reduced(93)


def echo(connection: Connection) -> None:
    """The other end of the pipe: sends back what it gets, None ends it."""
    measure.pin(1)
    while (thing := connection.recv()) is not None:
        connection.send(thing)
        del thing


def _trip(connection: Connection, thing: object):
    def action() -> float:
        start = time.perf_counter()
        connection.send(thing)
        connection.recv()
        return (time.perf_counter() - start) * 1e6

    return action


def _label(size_bytes: int) -> str:
    return text(size_bytes) if size_bytes >= MIB else f"{size_bytes >> 10} KiB"


def pipe(settings: Settings) -> Iterator[Row]:
    """An array through a Pipe and back."""
    largest = settings.pick(1 << 30, 64 * MIB)
    sizes = [1 << 10, 64 << 10, MIB, 64 * MIB, largest]
    arrays = [sharena.empty(size, "u1") for size in dict.fromkeys(sizes)]
    near, far = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=echo, args=(far,))
    child.start()
    far.close()
    measure.pin(0)
    actions = [_trip(near, thing) for thing in (TUPLE, REDUCED, *arrays)]
    measure.rounds(actions, settings.pick(50, 5))
    plain, reduced, *figures = measure.rounds(actions, settings.pick(1500, 30))
    near.send(None)
    child.join()
    near.close()
    for array, some in zip(arrays, figures, strict=True):
        yield compare(
            "pipe",
            f"round trip of {_label(array.nbytes)}",
            (some, plain),
            "us",
            bar=1.2,
            goal=1.1,
            versus="a tuple of 5 ints",
        )
    yield compare(
        "pipe",
        "  round trip of any object with a reducer, 93 bytes",
        (reduced, plain),
        "us",
        versus="a tuple of 5 ints",
    )
    flat = [statistics.median(some) for some in figures]
    yield Row(
        "pipe",
        "flat in the size: slowest / fastest",
        max(flat),
        min(flat),
        "us",
        ratio=max(flat) / min(flat),
        bar=1.2,
        goal=1.1,
        versus="the fastest size",
    )


def pickled(settings: Settings) -> Iterator[Row]:
    """A handle without a pipe, beside what a process without sharena does."""
    measure.pin(0)
    number = settings.pick(20_000, 100)
    ours: list[float] = []
    peer: list[float] = []
    for _ in range(settings.pick(7, 1)):
        ours += fresh("pickled", "sharena", number)
        peer += fresh("pickled", "nobody", number)
    what = "dumps+loads of a handle"
    versus = "a tuple of 5 ints, sharena not imported"
    yield compare("pickle", what, (ours, peer), "ns", bar=1.2, goal=0.8, versus=versus)
    names = {"dumps": ForkingPickler.dumps, "loads": ForkingPickler.loads}
    actions = [
        measure.loop("loads(dumps(x))", number, {**names, "x": x})
        for x in (sharena.zeros(1000), (sharena.zeros(1000), 1), REDUCED, TUPLE)
    ]
    alone, inside, reduced, plain = measure.rounds(actions, settings.pick(21, 3))
    for what, some in (
        ("the same, sharena imported", alone),
        ("a handle in a tuple", inside),
        ("any object with a reducer, 93 bytes", reduced),
    ):
        yield compare("pickle", f"  {what}", (some, plain), "ns", versus="a tuple of 5 ints")


def message(settings: Settings) -> Iterator[Row]:
    """Very many arrays in one message."""
    measure.pin(0)
    count = settings.pick(1_000_000, 1000)

    def trip(module):
        arrays = [module.zeros(8) for _ in range(count)]

        def action() -> float:
            start = time.perf_counter()
            got = ForkingPickler.loads(ForkingPickler.dumps(arrays))
            took = time.perf_counter() - start
            assert len(got) == count
            return took * 1e6 / count

        return action

    ours, peer = measure.rounds([trip(sharena), trip(np)], settings.pick(3, 1))
    what = f"dumps+loads of {count:,} arrays of 64 B, each".replace(",", " ")
    yield compare("message", what, (ours, peer), "us", bar=0.5, versus="NumPy's, by value")


def read(settings: Settings) -> Iterator[Row]:
    """Receive an array and read all of it, in a process that never saw it."""
    measure.pin(0)
    size_bytes = settings.pick(256, 4) * MIB
    array = sharena.empty(size_bytes // 8)
    array.fill(1)
    count = settings.pick(9, 2)
    heap = os.environ["SHARENA_HEAP"]  # the receiver has joined it before, as a worker has
    ours, peer = [], []
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        array.tofile(file)
        file.flush()
        for nth in range(count):
            handle = sharena.handle(array).hex()
            figures = fresh("read", handle, file.name, nth % 2, SHARENA_HEAP=heap)
            ours.append(figures["sharena"])
            peer.append(figures["memmap"])
    yield compare(
        "read",
        f"receive and read {text(size_bytes)}",
        (ours, peer),
        "ms",
        bar=1.2,
        goal=1.0,
        versus="np.memmap of warm pages",
    )
    assert np.isfinite(ours).all()
