"""A process that closed all its descriptors, as daemons do: daemon.py CASE [nobody].

With "nobody" it gives up root first, so that it cannot open its own mapping again.
"""

import ctypes
import multiprocessing
import multiprocessing.connection
import multiprocessing.popen_fork
import multiprocessing.resource_tracker
import os
import signal
import sys
import traceback

from support import wait_for_exit

import sharena

HEAP = []  # the one that is used: made after root was given up
NOBODY = 65534
PR_SET_DUMPABLE = 4
MIB = 1 << 20


def heap():
    return HEAP[0]


def ones(shape, dtype=None):
    return sharena.ones(shape, dtype, heap=heap())


def sound():
    assert not heap().check(), heap().check()


def be_nobody():
    libc = ctypes.CDLL(None, use_errno=True)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    assert libc.prctl(PR_SET_DUMPABLE, 1) == 0


def privileged():
    """May a mapping be opened again?  Needs a capability that root need not have."""
    with open("/proc/self/maps") as maps:
        start, end = (int(part, 16) for part in next(maps).split()[0].split("-"))
    try:
        os.close(os.open(f"/proc/self/map_files/{start:x}-{end:x}", os.O_RDONLY))
    except PermissionError:
        return False
    return True


def close_all():
    os.closerange(3, 4096)


def daemonize():
    """Fork twice and close everything.  The daemon alone goes on, once the others are gone; it
    keeps stdout and stderr, whose end the test waits for, and the session, with which the test
    ends it."""
    for _ in range(2):
        parent = os.getpid()
        if os.fork():
            os._exit(0)
        wait_for_exit(parent)
    close_all()
    signal.alarm(50)  # nobody waits for a daemon: this ends it


def fill():
    """Small and large arrays up to the limit: bytes had."""
    arrays, size = [], 0
    try:
        while True:
            arrays.append(ones(30000 if len(arrays) % 3 else 3 * MIB, "u1"))
            assert arrays[-1][0] == arrays[-1][-1] == 1
            size += arrays[-1].nbytes
    except sharena.HeapFullError as error:
        assert "limit" in str(error), error
    return size


def in_child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, status


def case_small_after_large():
    a = ones(1 << 20)
    close_all()
    assert ones(1 << 22)[0] == 1
    assert ones(3)[0] == 1
    assert a[0] == 1


def case_memory():
    kept = ones(1000)
    daemonize()
    for _ in range(2):
        limit = heap().limit
        assert fill() > limit - limit // 16
        assert heap().trim() > 0
        assert heap().stats().committed_bytes < MIB
    assert kept.sum() == 1000
    sound()


def answer(pipe, array):
    """In a worker: doubles what it inherited and what it receives, and sends that back."""
    received = pipe.recv()
    assert sharena.is_shared(received)
    received *= 2
    array *= 2
    pipe.send(received[:5])


def exchange(context):
    array, sent = ones(10), ones(100000)
    ours, theirs = context.Pipe()
    worker = context.Process(target=answer, args=(theirs, array))
    worker.start()
    ours.send(sent)
    result = ours.recv()
    worker.join()
    assert worker.exitcode == 0
    assert sharena.is_shared(result)
    for each in result, array, sent:
        assert (each == 2).all(), each


def names():
    heap()["mine"] = ones(7)
    in_child(lambda: heap()["mine"].fill(3))
    assert (heap()["mine"] == 3).all()
    del heap()["mine"]


def guest():
    try:
        ones(3)
    except sharena.TooManyProcessesError as error:
        assert "as by closefrom()" in str(error), error
    else:
        raise AssertionError("a slot was found")


def case_children():
    kept = ones(1000)
    has_privileges = privileged()
    daemonize()
    if not has_privileges:  # nobody has a descriptor, and none is to be had
        in_child(guest)
        in_child(lambda: kept.fill(2))
        assert (kept == 2).all()
        return
    in_child(lambda: ones(100000).fill(2))
    for method in "fork", "spawn":
        exchange(multiprocessing.get_context(method))
    names()
    sound()


def case_named():
    """The way back to a heap that has a name is its name."""
    HEAP[0] = sharena.Heap.create(f"test-daemon-{os.getpid()}", limit="64MiB")
    daemonize()
    try:
        in_child(lambda: ones(100000).fill(2))
        exchange(multiprocessing.get_context("fork"))
        names()
        sound()
    finally:
        heap().unlink()


if __name__ == "__main__":
    if "nobody" in sys.argv[2:]:
        be_nobody()
    HEAP.append(sharena.Heap.create(limit="64MiB"))
    try:
        globals()[f"case_{sys.argv[1]}"]()
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
    print("done")
