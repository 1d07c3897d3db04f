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
    """A handle without a pipe."""
    measure.pin(0)
    names = {"dumps": ForkingPickler.dumps, "loads": ForkingPickler.loads}
    actions = [
        measure.loop("loads(dumps(x))", settings.pick(5000, 100), {**names, "x": x})
        for x in (sharena.zeros(1000), REDUCED, TUPLE)
    ]
    ours, reduced, plain = measure.rounds(actions, settings.pick(21, 3))
    peer = "a tuple of 5 ints"
    what = "dumps+loads of a handle"
    yield compare("pickle", what, (ours, plain), "ns", bar=4.0, goal=2.0, versus=peer)
    what = "  dumps+loads of any object with a reducer, 93 bytes"
    yield compare("pickle", what, (reduced, plain), "ns", versus=peer)


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
