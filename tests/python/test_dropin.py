"""Array, Value, RawArray, RawValue and RLock: multiprocessing's, in the heap."""

import contextlib
import copy
import ctypes
import gc
import multiprocessing
import sys
import threading
import time
from multiprocessing import sharedctypes
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest

import sharena

PROGRAM = "dropin.py"


def test_between_processes(run_program, method, case):
    run_program(PROGRAM, method, case)


class Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_double), ("y", ctypes.c_int)]


@pytest.mark.parametrize("typecode", sorted(sharedctypes.typecode_to_type))
def test_every_typecode_gives_the_same_type(typecode):
    kind = sharedctypes.typecode_to_type[typecode]
    first = {"c": b"x", "u": "x"}.get(typecode, 1)
    raw, array = sharena.RawArray(typecode, [first] * 3), sharena.RawArray(kind, 3)
    assert type(raw) is kind * 3
    assert type(array) is kind * 3
    assert list(raw) == list(multiprocessing.RawArray(typecode, [first] * 3))
    assert list(array) == list(multiprocessing.RawArray(typecode, 3))
    value, theirs = sharena.RawValue(typecode, first), multiprocessing.RawValue(typecode, first)
    assert type(value) is kind
    assert value.value == theirs.value
    assert sharena.RawValue(kind).value == multiprocessing.RawValue(kind).value
    assert raw.as_ndarray().shape == (3,)
    assert value.as_ndarray().shape == ()
    assert sharena.is_shared(raw.as_ndarray())
    assert sharena.is_shared(value.as_ndarray())


def test_wrappers_are_multiprocessings():
    number, numbers = sharena.Value("i", 5), sharena.Array("i", 3)
    text, point = sharena.Array("c", b"abc"), sharena.Value(Point, 1.5, 2)
    assert isinstance(number, sharedctypes.Synchronized)
    assert isinstance(numbers, sharedctypes.SynchronizedArray)
    assert isinstance(text, sharedctypes.SynchronizedString)
    assert isinstance(point, sharedctypes.SynchronizedBase)
    assert type(point).__name__ == "SynchronizedPoint"
    assert repr(number) == repr(multiprocessing.Value("i", 5)).replace(
        "multiprocessing", "sharena"
    )
    numbers[1:] = [4, 5]
    assert numbers[:] == [0, 4, 5]
    assert len(numbers) == 3
    assert (point.x, point.y) == (1.5, 2)
    with number as entered:
        assert entered is True
        assert number.get_lock()._count() == 1
    assert type(number.get_obj()) is ctypes.c_int


def test_views_of_every_shape():
    array = sharena.Array("i", range(6))
    assert array.as_ndarray(shape=(2, 3))[1].tolist() == [3, 4, 5]
    raw = sharena.RawArray("B", 8)
    raw.as_ndarray(dtype="<u4")[1] = 256
    assert list(raw) == [0, 0, 0, 0, 0, 1, 0, 0]
    point = sharena.Value(Point, 1.5, 2)
    view = point.as_ndarray()
    assert view["x"] == 1.5
    assert sharena.is_shared(view)
    assert sharena.get_lock(array) is array.get_lock()


def test_locks_of_every_kind():
    assert type(sharena.Value("i", lock=False)) is ctypes.c_int
    assert type(sharena.Array("i", 2, lock=False)) is ctypes.c_int * 2
    for lock in (True, None):
        assert isinstance(sharena.Value("i", lock=lock).get_lock(), sharena.RLock)
    for lock in (sharena.RLock(), multiprocessing.Lock(), threading.RLock()):
        value = sharena.Array("i", 2, lock=lock, ctx=multiprocessing.get_context("spawn"))
        assert value.get_lock() is lock
        with value:
            pass
    with pytest.raises(AttributeError, match="has no method 'acquire'"):
        sharena.Value("i", 1, lock=3)


def test_bad_input_is_named():
    for wrong in ("x", "", 3, None, int, [1], ctypes.py_object):
        with pytest.raises(TypeError, match="typecode_or_type must"):
            sharena.RawValue(wrong)
        with pytest.raises(TypeError, match="typecode_or_type must"):
            sharena.Array(wrong, 3)
    with pytest.raises(ValueError, match=">= 0"):
        sharena.RawArray("i", -1)
    with pytest.raises(TypeError):
        sharena.RawArray("i", 1.5)
    with pytest.raises(TypeError):
        sharena.Value("i", "text")
    with pytest.raises(MemoryError):
        sharena.RawArray("d", 2**55)


def test_nothing_to_hold():
    assert list(sharena.RawArray("d", 0)) == []
    assert sharena.Array("d", [])[:] == []
    assert sharena.RawArray("i", np.int64(2))[:] == [0, 0]


def test_memory_goes_with_the_last_user():
    gc.collect()
    before = sharena.Heap.default().stats().blocks
    things = [sharena.Array("d", 100), sharena.RawValue("d"), sharena.RLock()]
    view = things[0].as_ndarray()
    assert sharena.Heap.default().stats().blocks == before + 3
    view[0] = 3
    del things
    assert sharena.Heap.default().stats().blocks == before + 1  # at once, without gc
    assert view[0] == 3
    del view
    assert sharena.Heap.default().stats().blocks == before


def test_the_lock_is_recursive_and_a_threads():
    lock = sharena.RLock()
    assert repr(lock) == "<sharena.RLock, free>"
    assert not lock.locked()
    assert lock.acquire()
    assert lock.acquire(False)
    assert lock.acquire(True, 0.5)
    assert lock._count() == 3
    assert repr(lock) == "<sharena.RLock held here, count 3>"
    answers = []

    def other():
        answers.extend((lock.acquire(block=False), lock.acquire(timeout=-1), lock._is_mine()))
        with contextlib.suppress(AssertionError):
            lock.release()
            answers.append("released")

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert answers == [False, False, False]
    for _ in range(3):
        lock.release()
    for question in (lock.release, lock.abandoned):
        with pytest.raises(AssertionError):
            question()


@pytest.mark.parametrize("timeout", ["1", float("nan"), []])
def test_timeouts_that_are_none(timeout):
    with pytest.raises((TypeError, ValueError)):
        sharena.RLock().acquire(timeout=timeout)


def test_a_timeout_takes_as_long_as_it_says():
    lock = sharena.RLock()
    took = []

    def other():
        start = time.monotonic()
        assert not lock.acquire(timeout=0.13)
        took.append(time.monotonic() - start)

    with lock:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert took[0] >= 0.13


def test_a_signal_gets_through(run_python):
    program = """
import os, signal, threading, sharena
lock, taken = sharena.RLock(), threading.Event()
def hold():
    lock.acquire()
    taken.set()
    os.kill(os.getpid(), signal.SIGINT)
thread = threading.Thread(target=hold, daemon=True)
try:
    thread.start()
    taken.wait()
    lock.acquire()
except KeyboardInterrupt:
    print("interrupted")
"""
    done = run_python("-c", program)
    assert done.stdout == "interrupted\n", done.stderr


def test_a_lock_in_a_heap_of_its_own():
    heap = sharena.Heap.create(limit="16MiB")
    lock = sharena.RLock(heap=heap)
    assert heap.stats().blocks == 1
    heap.close()
    with lock:  # it keeps the heap
        assert lock.locked()
    with pytest.raises(sharena.HeapClosedError):
        sharena.RLock(heap=heap)
    with pytest.raises(TypeError):
        sharena.RLock(heap="default")


def test_places_for_a_lock_are_judged():
    core = sys.modules["sharena._core"]
    for memory, offset in (
        (np.zeros(16, "u1"), 0),
        (sharena.zeros(16, "u1"), 4),
        (sharena.zeros(16, "u1"), -8),
        (sharena.zeros(16, "u1"), 8),
        (sharena.zeros(16, "u1"), 2**62),
        (None, 0),
    ):
        with pytest.raises(ValueError, match="lock"):
            core._lock_over(memory, offset)
    with pytest.raises(ValueError, match="shared memory"):
        core._block_of(np.zeros(3))
    with pytest.raises(TypeError, match="Block"):
        core.reduce_block(3)


def test_a_damaged_lock_says_so():
    core = sys.modules["sharena._core"]
    memory = sharena.zeros(4, "u8")
    lock = core._lock_over(memory, 0)
    memory[0] = 63 << 2  # a slot that there is not
    for action in (lock.acquire, lock.locked, lock.__enter__):
        with pytest.raises(sharena.CorruptHeapError):
            action()
    assert "damaged" in repr(lock)


def test_arrays_are_initializers_too():
    values = np.arange(5.0)
    for make in (sharena.Array, sharena.RawArray):
        assert list(make("d", values)[:]) == list(values)
        assert list(make("d", np.int64(3))[:]) == [0.0] * 3


def test_a_copy_shares_nothing_and_is_not_sent():
    raw = sharena.RawArray("i", [1, 2, 3])
    private = copy.copy(raw)
    private[0] = 99
    assert list(raw) == [1, 2, 3]
    with pytest.raises(TypeError, match="send the original"):
        ForkingPickler.dumps(private)


def test_a_signal_handler_takes_the_lock_that_its_thread_waits_for(run_python):
    run_python("""
        import os, signal, threading
        import sharena

        lock = sharena.RLock()
        held, leave = threading.Event(), threading.Event()

        def hold():
            with lock:
                held.set()
                leave.wait()
            os.kill(os.getpid(), signal.SIGUSR1)  # the main thread still waits

        def handle(*_):
            assert lock.acquire(timeout=20)  # and keeps it

        signal.signal(signal.SIGUSR1, handle)
        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        threading.Timer(0.01, leave.set).start()
        assert lock.acquire(timeout=20)
        thread.join()
        lock.release()
        assert lock._is_mine() or not lock.locked()
    """)
