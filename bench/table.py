"""The README's table: sharena and the other ways to share an array, measured in one run.

Each way is an adapter of a few lines.  What a way can't do is "-".  The packages that are not
installed are left out.
"""

import contextlib
import gc
import importlib.util
import multiprocessing
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.shared_memory import SharedMemory
from multiprocessing.sharedctypes import RawArray

import measure
import numpy as np
from measure import Settings

import sharena

SMALL, LARGE = 1 << 10, 64 << 20


class Sharena:
    """Arrays of this package."""

    name = "sharena"

    def make(self, size: int) -> np.ndarray:
        return sharena.empty(size, "u1")

    def drop(self, thing: np.ndarray) -> None:
        pass

    def sent(self, thing: np.ndarray) -> object:
        return thing

    @staticmethod
    def received(message: np.ndarray) -> np.ndarray:
        return message


class SharedMemories:
    """One SharedMemory an array, its name sent by hand."""

    name = "SharedMemory"

    def make(self, size: int) -> SharedMemory:
        return SharedMemory(create=True, size=size)

    def drop(self, thing: SharedMemory) -> None:
        thing.close()
        thing.unlink()

    def sent(self, thing: SharedMemory) -> object:
        return thing.name, thing.size

    @staticmethod
    def received(message: tuple[str, int]) -> tuple[np.ndarray, SharedMemory]:
        memory = SharedMemory(message[0])
        return np.ndarray(message[1], "u1", memory.buf), memory


class RawArrays:
    """multiprocessing.RawArray: inherited by children, in no message."""

    name = "RawArray"
    received = None

    def make(self, size: int) -> object:
        return RawArray("b", size)

    def drop(self, thing: object) -> None:
        pass


class Pickled:
    """An array of NumPy, copied through the pipe."""

    name = "pickling"

    def make(self, size: int) -> np.ndarray:
        return np.empty(size, "u1")

    def drop(self, thing: np.ndarray) -> None:
        pass

    def sent(self, thing: np.ndarray) -> object:
        return thing

    @staticmethod
    def received(message: np.ndarray) -> np.ndarray:
        return message


class Joblib:
    """joblib's way with large arguments: dumped to a file, mapped by the worker."""

    name = "joblib memmap"

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="sharena-bench-", dir="/dev/shm")
        self.count = 0

    def make(self, size: int) -> str:
        import joblib

        self.count += 1
        path = f"{self.folder}/{self.count}"
        joblib.dump(np.empty(size, "u1"), path)
        return path

    def drop(self, thing: str) -> None:
        os.unlink(thing)

    def sent(self, thing: str) -> object:
        return thing

    @staticmethod
    def received(message: str) -> np.ndarray:
        import joblib

        return joblib.load(message, mmap_mode="r")


class SharedArrays:
    """The SharedArray package: a name an array, deleted by hand."""

    name = "SharedArray"

    def make(self, size: int) -> tuple[str, np.ndarray]:
        import SharedArray

        name = f"sharena-bench-{os.getpid()}-{time.monotonic_ns()}"
        return name, SharedArray.create(name, size, "u1")

    def drop(self, thing: tuple[str, np.ndarray]) -> None:
        import SharedArray

        SharedArray.delete(thing[0])

    def sent(self, thing: tuple[str, np.ndarray]) -> object:
        return thing[0]

    @staticmethod
    def received(message: str) -> np.ndarray:
        import SharedArray

        return SharedArray.attach(message)


PACKAGES = {"joblib memmap": "joblib", "SharedArray": "SharedArray"}
WAYS = (Sharena, SharedMemories, RawArrays, SharedArrays, Joblib, Pickled)


def ways() -> list[type]:
    return [
        way
        for way in WAYS
        if way.name not in PACKAGES or importlib.util.find_spec(PACKAGES[way.name])
    ]


# ---- what is measured: a row each; None: this way has no such thing ----


def median_us(action: Callable[[], object], count: int) -> float:
    gc.collect()
    times = []
    for _ in range(count):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def create_and_drop(way, settings: Settings) -> float:
    measure.pin(0)
    return median_us(lambda: way.drop(way.make(SMALL)), settings.pick(2000, 20))


def descriptors(way, settings: Settings) -> float:
    return _growth(way, settings, lambda: len(os.listdir("/proc/self/fd")))


def mappings(way, settings: Settings) -> float:
    def count() -> int:
        with open("/proc/self/maps") as file:
            return sum(1 for _ in file)

    return _growth(way, settings, count)


def _growth(way, settings: Settings, count: Callable[[], int]) -> float:
    number = settings.pick(200, 10)
    kept = [way.make(SMALL) for _ in range(5)]
    before = count()
    kept += [way.make(SMALL) for _ in range(number)]
    grown = count() - before
    while kept:
        way.drop(kept.pop())
    return round(grown / number, 1)


def _receive(connection, received: Callable[[object], object]) -> None:
    """A worker: takes messages, says that it has the array and whether it can write to it."""
    measure.pin(1)
    while (message := connection.recv()) is not None:
        got = received(message)
        array = got[0] if isinstance(got, tuple) else got
        connection.send(bool(array.flags.writeable))
        del array, got


@contextlib.contextmanager
def worker(way) -> Iterator[object]:
    near, far = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_receive, args=(far, way.received)
    )
    process.start()
    far.close()
    try:
        yield near
    finally:
        near.send(None)
        process.join()
        near.close()


def send(way, settings: Settings) -> float | None:
    """A new array through a Pipe until the receiver has it."""
    if way.received is None:
        return None
    thing = way.make(LARGE)
    measure.pin(0)
    with worker(way) as connection:

        def action() -> None:
            connection.send(way.sent(thing))
            connection.recv()

        action()
        value = median_us(action, settings.pick(31, 3))
    way.drop(thing)
    return value


def message_bytes(way, settings: Settings) -> float | None:
    if way.received is None:
        return None
    thing = way.make(LARGE)
    size = len(multiprocessing.reduction.ForkingPickler.dumps(way.sent(thing)))
    way.drop(thing)
    return size


def writeable(way, settings: Settings) -> bool | None:
    """Does the sender see what the receiver writes?"""
    if way.received is None:
        return None
    if isinstance(way, Pickled):
        return False
    thing = way.make(SMALL)
    with worker(way) as connection:
        connection.send(way.sent(thing))
        can = connection.recv()
    way.drop(thing)
    return can


_LEAK = """
import os, pathlib, sys
sys.path.insert(0, sys.argv[1])
import table
way = {way.name: way for way in table.WAYS}[sys.argv[2]]()
kept = [way.make(1 << 20) for _ in range(8)]
for thing in kept:
    table.touch(way, thing)
print("made", flush=True)
sys.stdin.read()
"""


def touch(way, thing: object) -> None:
    """Write to all of it, if a receiver may: memory that was never touched is not there."""
    if way.received is not None:
        got = way.received(way.sent(thing))
        array = got[0] if isinstance(got, tuple) else got
        if array.flags.writeable:
            array.fill(1)


def left_behind(way, settings: Settings) -> float | None:
    """MiB of 8 that stay in memory when the only user is killed with SIGKILL."""

    def used() -> int:
        return sum(file.stat().st_blocks * 512 for file in pathlib.Path("/dev/shm").rglob("*"))

    before = set(pathlib.Path("/dev/shm").iterdir())
    used_before = used()
    process = subprocess.Popen(
        [sys.executable, "-c", _LEAK, str(measure.HERE), way.name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    os.killpg(process.pid, signal.SIGKILL)  # with its resource tracker, as a cgroup is killed
    process.wait()
    left = used() - used_before
    for path in set(pathlib.Path("/dev/shm").iterdir()) - before:
        if path.is_dir():
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
        else:
            path.unlink()
    return round(left / (1 << 20))


ROWS: list[tuple[str, Callable]] = [
    ("create and drop 1 KiB, µs", create_and_drop),
    ("descriptors an array", descriptors),
    ("mappings an array", mappings),
    ("bytes in the message for 64 MiB", message_bytes),
    ("send 64 MiB through a Pipe, µs", send),
    ("receiver's writes reach the sender", writeable),
    ("MiB of 8 left when all are killed with -9", left_behind),
]


def cell(value: float | bool | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.2g}"


def markdown(settings: Settings) -> str:
    """Measure everything; return the table."""
    chosen = [way() for way in ways()]
    lines = ["| | " + " | ".join(way.name for way in chosen) + " |"]
    lines.append("|---|" + "---|" * len(chosen))
    for what, row in ROWS:
        cells = []
        for way in chosen:
            cells.append(cell(row(way, settings)))
            measure.unpin()
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    for way in chosen:
        if isinstance(way, Joblib):
            os.rmdir(way.folder)
    return "\n".join(lines)
