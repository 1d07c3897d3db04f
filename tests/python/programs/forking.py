"""os.fork() while arrays are held: forking.py CASE.

A child of fork() inherits every array of its parent as a holder of its own.
"""

import gc
import multiprocessing
import os
import resource
import signal
import sys
import threading
import traceback

import numpy as np
from support import heap, live, no_leaks, sound, until, wait_for_exit

import sharena

N = 1000


def fork(work):
    """Run work() in a forked child, which then exits: 0 when it did not raise."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def join(pid):
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, status


class Gate:
    """One process waits at it until another opens it or is gone."""

    def __init__(self):
        self.receiving, self.sending = os.pipe()

    def wait(self):
        return os.read(self.receiving, 1)

    def open(self):
        os.write(self.sending, b"x")


def case_child_reads_and_writes():
    a = sharena.ones(N)

    def child():
        assert sharena.is_shared(a)
        assert (a == 1).all()
        a[...] = 2

    join(fork(child))
    assert (a == 2).all()


def case_parent_drops_first():
    a = sharena.ones(N)
    gate = Gate()

    def child():
        gate.wait()
        assert (a == 1).all()
        b = sharena.zeros(N)  # would get the block, were it free
        assert (a == 1).all()
        del b

    pid = fork(child)
    before = live()
    del a
    assert live() == before  # the child holds it
    gate.open()
    join(pid)


def case_child_drops_first():
    a = sharena.ones(N)

    def child():
        nonlocal a
        del a
        gc.collect()
        assert (sharena.zeros(N) == 0).all()

    join(fork(child))
    for _ in range(10):
        assert (sharena.zeros(N) == 0).all()
    assert (a == 1).all()


def case_grandchildren():
    a = sharena.ones(N)
    gate, done = Gate(), Gate()

    def grandchild():
        gate.wait()
        assert (a == 1).all()
        a[...] = 3
        done.open()

    def child():
        fork(grandchild)

    join(fork(child))
    view = a[1:]
    del a
    gate.open()
    done.wait()
    assert (view == 3).all()


def case_handle_to_what_a_child_inherited():
    a = sharena.ones(N)
    receiving, sending = os.pipe()

    def child():
        os.write(sending, sharena.handle(a[10:20]))

    pid = fork(child)
    del a
    join(pid)
    b = sharena.attach(os.read(receiving, 4096))
    assert b.shape == (10,)
    assert (b == 1).all()


def case_handle_made_before_the_fork():
    data = sharena.handle(sharena.ones(N))

    def child():
        a = sharena.attach(data)
        assert (a == 1).all()

    join(fork(child))
    try:
        sharena.attach(data)
    except sharena.StaleHandleError:
        return
    raise AssertionError("one use was loaded twice")


def case_large_blocks():
    a = sharena.ones((64, 1 << 15))  # 16 MiB: a run of its own
    gate = Gate()

    def child():
        gate.wait()
        assert (a == 1).all()
        a[0] = 5

    pid = fork(child)
    view = a[0]
    del a
    gate.open()
    join(pid)
    assert (view == 5).all()


def case_from_a_thread_while_others_allocate():
    stop = threading.Event()
    failures = []

    def churn(number):
        held = []
        rng = np.random.default_rng(number)
        while not stop.is_set():
            size = int(rng.choice([8, 100, 1000, 20_000, 100_000]))
            a = sharena.full(size, float(number))
            held.append(a)
            if len(held) > 20:
                old = held.pop(int(rng.integers(20)))
                if not (old == number).all():
                    failures.append(number)

    def child():
        for _ in range(20):
            mine = [sharena.full(n, 7.0) for n in (8, 1000, 50_000)]
            assert all((a == 7).all() for a in mine)

    def forker():
        for _ in range(25):
            join(fork(child))

    threads = [threading.Thread(target=churn, args=(n,)) for n in range(3)]
    main = threading.Thread(target=forker)
    for thread in [*threads, main]:
        thread.start()
    main.join()
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    sound()


def case_a_fork_that_fails():
    uid = os.getuid()
    if uid == 0:  # root's processes are not counted, and another user needs another heap
        os.setresuid(54321, 54321, 0)
    own = sharena.Heap.create()
    a = sharena.ones(N, heap=own)
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, hard))
    for _ in range(10):
        try:
            pid = fork(lambda: None)
        except BlockingIOError:
            continue
        join(pid)
        raise AssertionError("the limit did not stop fork()")
    resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))
    assert own.stats().processes == 1
    assert own.stats().guests == 0
    b = sharena.zeros(N, heap=own)
    assert (a == 1).all()
    assert (b == 0).all()
    join(fork(lambda: a.fill(2)))
    assert (a == 2).all()
    own.reap()
    assert own.check() == []
    del a, b
    assert own.stats().blocks == 0
    if uid == 0:
        os.setresuid(0, 0, 0)


def case_a_hundred_children():
    """60 slots: the other processes are guests of their parent.

    What a parent holds when it forks a guest stays held as long as the parent lives, so
    the parent is a child of its own here.
    """
    join(fork(a_hundred_children))


def a_hundred_children():
    a = sharena.zeros(200)
    gate, ready = Gate(), Gate()

    def child(number):
        a[number] = number
        try:
            b = sharena.ones(10)
        except sharena.TooManyProcessesError as error:
            assert "process slots" in str(error), error
            assert "ProcessPoolExecutor(max_workers=59)" in str(error), error
            for forbidden in (lambda: sharena.handle(a), lambda: sharena.zeros(1 << 20)):
                try:
                    forbidden()
                except sharena.TooManyProcessesError:
                    continue
                raise AssertionError("a guest may not") from None
            a[100 + number] = 1
        else:
            assert (b == 1).all()
        ready.open()
        os.close(gate.sending)
        assert gate.wait() == b""  # the parent has closed the other end
        assert a[number] == number

    pids = [fork(lambda n=n: child(n)) for n in range(100)]
    for _ in pids:
        assert ready.wait() == b"x"
    stats = heap().stats()
    guests = int(a[100:].sum())
    assert stats.processes + guests == 102, (stats.processes, guests)
    assert stats.guests == guests
    assert guests == 102 - stats.max_processes, (guests, stats.max_processes)
    sound()
    os.close(gate.sending)
    for pid in pids:
        join(pid)
    assert (a[:100] == np.arange(100)).all()
    until(lambda: heap().reap() == 0 and heap().stats().processes == 2, "two processes left")
    b = sharena.ones(10)  # and there is room again
    join(fork(lambda: b.fill(2)))
    assert (b == 2).all()


def case_a_receiver_frees_what_a_stopped_sender_exported():
    before = live()
    receiving, sending = multiprocessing.Pipe(duplex=False)

    def child():
        for size in (N, 1 << 20):
            sending.send_bytes(sharena.handle(sharena.ones(size)))
        os.kill(os.getpid(), signal.SIGSTOP)

    pid = fork(child)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
    messages = [receiving.recv_bytes() for _ in range(2)]
    assert live() != before
    arrays = [sharena.attach(message) for message in messages]
    assert all((a == 1).all() for a in arrays)
    del arrays
    gc.collect()
    assert live() == before, (live(), before)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def case_killed_children():
    """Whatever a killed child held comes back."""
    a = sharena.ones(N)
    for _ in range(20):
        gate, ready = Gate(), Gate()

        def child(gate=gate, ready=ready):
            held = [sharena.ones(n) for n in (10, N, 100_000)]
            ready.open()
            gate.wait()
            del held

        pid = fork(child)
        ready.wait()
        os.kill(pid, signal.SIGKILL)
        wait_for_exit(pid)
        os.waitpid(pid, 0)
    heap().reap()
    assert heap().stats().processes == 1
    assert (a == 1).all()


if __name__ == "__main__":
    with no_leaks():
        globals()[f"case_{sys.argv[1]}"]()
    assert live()[0] == 0, heap().blocks()
