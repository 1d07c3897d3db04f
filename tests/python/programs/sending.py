"""What the programs share that try arrays on their way: transit_NAME.py CASE."""

import array
import contextlib
import fcntl
import gc
import os
import signal
import subprocess
import sys
import termios
import threading
from multiprocessing.connection import Connection

from judging import SkipError
from support import heap, live, no_leaks, until

import sharena

MIB = 1 << 20
N = 1000


def mebi(n, value=1, **options):
    """An array of `n` MiB."""
    return sharena.full(n * MIB, value, "u1", **options)


def pipe():
    """(reading, writing) Connection of a pipe."""
    r, w = os.pipe()
    return Connection(r, writable=False), Connection(w, readable=False)


def close(*ends):
    for end in ends:
        end.close()


def pending(end):
    """Bytes that wait to be read."""
    count = array.array("i", [0])
    fcntl.ioctl(end.fileno(), termios.FIONREAD, count)
    return count[0]


def good(a, value=1):
    """It arrived, and has its values."""
    assert sharena.is_shared(a), a
    assert a.min() == a.max() == value
    return True


def tickets(where=None):
    return (where or heap()).stats().tickets


@contextlib.contextmanager
def given_back():
    """What is on its way inside is given back by the end of it, and nobody has to reap."""
    gc.collect()
    before = live()
    yield
    gc.collect()
    assert not heap().tickets(), heap().tickets()
    assert live() == before, (before, live())


@contextlib.contextmanager
def back_at_reap():
    """What is on its way inside stays for its readers, who are gone at the end of it.

    The judge may need a second look (a scan of all processes sees no instant).
    """
    gc.collect()
    before = live()
    yield
    gc.collect()
    assert live() != before, "nothing was on its way"

    def back():
        heap().reap()
        return live() == before and not heap().tickets()

    until(back, "the memory of what nobody can read")


class Signal(Exception):  # noqa: N818 # what a signal raises
    """Raised by the handler that on_signal() sets."""


@contextlib.contextmanager
def on_signal(number=signal.SIGUSR1):
    def handler(*_):
        raise Signal

    before = signal.signal(number, handler)
    yield
    signal.signal(number, before)


@contextlib.contextmanager
def meanwhile(work):
    """Run work() in a thread; its failure is ours."""
    failed = []

    def run():
        try:
            work()
        except BaseException as error:  # raised below
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join(20)
    assert not thread.is_alive(), "the other thread hangs"
    if failed:
        raise failed[0]


def bystanders():
    """What used to set the clock off: reaping, growth, a new process, a listing."""
    for _ in range(5):  # each looks through all processes, twice if it finds no reader
        heap().reap()
    large = [mebi(16) for _ in range(4)]  # the heap grows
    del large
    gc.collect()
    heap().trim()
    subprocess.run(
        [sys.executable, "-c", "import sharena; sharena.Heap.default().reap()"], check=True
    )
    listed = subprocess.run(
        [sys.executable, "-m", "sharena", "ls"], capture_output=True, check=True
    )
    assert listed.stdout


def fill(where, size_mib=1):
    """Arrays until the heap is full, and the sentence of the refusal."""
    taken = []
    try:
        while True:
            taken.append(mebi(size_mib, heap=where))
    except sharena.HeapFullError as error:
        return taken, str(error)


def run(program):
    """`PROGRAM CASE`: afterwards nothing is left, and the heap is sound."""
    try:
        with no_leaks():
            program[f"case_{sys.argv[1]}"]()
    except SkipError as skip:
        print(f"skip: {skip}")
        return
    until(lambda: not heap().tickets(), "the last tickets to be spent")
    assert live()[0] == 0, heap().blocks()
