"""Where the system gives little memory: short_room.py CASE ARGUMENT….

Started by test_short_memory.py in a memory cgroup, or with a file system or limits of its
own.  Ends with 0 if every shortage was an exception with a sentence that tells what to do.
"""

import contextlib
import os
import signal
import subprocess
import sys
from multiprocessing import Pipe, Process

import numpy as np
from support import DEADLINE_S

import sharena

MIB = 1 << 20


def says(text, *words):
    for word in words:
        assert word in text, (word, text)


def refused(size, heap, *words):
    """An array of `size` bytes is refused, in a sentence that has these words."""
    try:
        sharena.empty(size, "u1", heap=heap)
    except sharena.HeapFullError as error:
        text = str(error)
    else:
        raise AssertionError(f"{size} bytes were to be had")
    says(text, *words)
    return text


def fill(size, heap, *words):
    """Arrays of `size` bytes until one is refused; written to, and sound afterwards."""
    arrays = []
    try:
        while True:
            a = sharena.empty(size, "u1", heap=heap)
            a[:] = len(arrays) % 251
            arrays.append(a)
    except sharena.HeapFullError as error:
        says(str(error), *words)
    # Without temporary arrays: there is no room for them.
    assert all(a.min() == a.max() == i % 251 for i, a in enumerate(arrays))
    faults = heap.check()
    assert not faults, faults
    return len(arrays) * size


class Bystander:
    """A process beside us, with 8 MiB of its own, that knows nothing of sharena."""

    CODE = "b = bytearray(b'x' * (8 << 20)); print(len(b), flush=True); print(input())"

    def __enter__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", self.CODE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline()
        return self

    def __exit__(self, *_):
        out, _ = self.process.communicate("alive", timeout=DEADLINE_S)
        assert out == "alive\n", (out, self.process.returncode)


# ---- in a memory cgroup -------------------------------------------------------------------


def case_request(limit, most):
    """One request for 300 MiB where `most` MiB are allowed; then smaller ones."""
    heap = sharena.Heap.create(limit=limit)
    with Bystander():
        text = refused(300 * MIB, heap, "300 MiB")
        if limit != "80MiB":
            says(text, "memory cgroup", f"{most} MiB limit", "drop arrays")
        assert sharena.zeros(20 * MIB, "u1", heap=heap).sum() == 0
        assert not heap.check()


def case_default(most):
    """The default heap's limit follows the cgroup's."""
    heap = sharena.Heap.default()
    assert heap.limit <= int(most) * MIB * 0.8
    with Bystander():
        refused(300 * MIB, None, f"is {heap.limit / MIB:.4g} MiB")
        assert sharena.zeros(20 * MIB, "u1").sum() == 0


def case_fill(size, most):
    """Piece by piece until nothing is left; what was had can be used and given back."""
    heap = sharena.Heap.create(limit="1GiB")
    with Bystander():
        got = fill(int(size), heap, "memory cgroup", f"{most} MiB limit")
        assert got >= 8 * MIB, got
        again = fill(int(size), heap, "memory cgroup")
        assert again >= got // 2, (got, again)


def enter(group):
    with open(f"{group}/cgroup.procs", "w") as file:
        file.write(str(os.getpid()))


def in_group(group, size, pipe, act):
    enter(group)
    try:
        act(size, pipe)
    except sharena.HeapFullError as error:
        pipe.send(str(error))


def allocate_and_tell(size, pipe):
    sharena.ones(size, "u1")
    pipe.send("allocated")


def case_several(size, *_):
    """Four at once in one cgroup: together they get no more than there is."""
    heap = sharena.Heap.create(limit="1GiB")
    begin, go = Pipe(duplex=False)

    def work():
        go.close()
        begin.poll(DEADLINE_S)  # until the other end is closed
        fill(int(size), heap, "memory cgroup")

    children = [Process(target=work) for _ in range(4)]
    for child in children:
        child.start()
    go.close()
    for child in children:
        child.join(DEADLINE_S)
    assert [child.exitcode for child in children] == [0] * 4
    assert not heap.check()


def case_worker(group, most):
    """A worker in a smaller cgroup than the creator of the heap, forked or by handle."""
    shared = sharena.ones(100 * MIB, "u1")  # charged to us, not to the worker
    for size in (300 * MIB, 30 * MIB):
        ours, theirs = Pipe()
        child = Process(target=in_group, args=(group, size, theirs, allocate_and_tell))
        child.start()
        theirs.close()
        text = ours.recv()
        child.join(DEADLINE_S)
        assert child.exitcode == 0
        if size > 200 * MIB:
            says(text, "memory cgroup", f"{most} MiB limit")
        else:
            assert text == "allocated"
    code = (
        "import os, sys, sharena, pickle; a = sharena.attach(sys.stdin.buffer.read())\n"
        "assert a.sum() == 100 << 20\n"
        "try: sharena.empty(300 << 20, 'u1', heap=None)\n"
        "except MemoryError as error: print(error)\n"
    )
    command = ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$0" "$@"']
    done = subprocess.run(
        [*command, sys.executable, "-c", code],
        input=sharena.handle(shared),
        stdout=subprocess.PIPE,
        timeout=DEADLINE_S,
        check=True,
    )
    assert b"300" not in done.stdout or b"MiB limit" in done.stdout
    assert done.stdout, "300 MiB were to be had"
    assert sharena.zeros(300 * MIB, "u1").sum() == 0  # there is room for us


# ---- a full file system --------------------------------------------------------------------


def case_tmpfs(size):
    """A named heap on a /dev/shm of 32 MiB."""
    heap = sharena.Heap.create("short", limit="1GiB")
    # Before a megabyte is committed the file system is asked, and not each time for less.
    words = ("file system", "left") if int(size) >= MIB else ("file system",)
    got = fill(int(size), heap, *words)
    assert got >= 16 * MIB or int(size) > 32 * MIB, got
    fill(int(size), heap, "file system")
    with sharena.Heap.create(limit="1GiB") as unnamed:  # as the message says
        assert sharena.ones(64 * MIB, "u1", heap=unnamed).all()
    heap.unlink()


def case_filled_by_others():
    """The file system is filled behind the heap's back: nothing touches a hole."""
    heap = sharena.Heap.create("short", limit="1GiB")
    kept = sharena.ones(8 * MIB, "u1", heap=heap)
    handles = []
    with open("/dev/shm/filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    for action in (
        lambda: sharena.Heap.create("another"),
        lambda: heap.__setitem__("name", kept),
        lambda: handles.append(sharena.handle(kept)),
        lambda: sharena.empty(100, heap=heap),
        lambda: sharena.empty(100 * MIB, "u1", heap=heap),
    ):
        try:
            action()
        except sharena.HeapFullError as error:
            assert "file system" in str(error) or "device" in str(error), error
    assert (kept == 1).all()
    assert not heap.check()
    heap.reap()
    heap.trim()
    heap.stats()
    list(heap)
    heap.tickets()
    os.unlink("/dev/shm/filler")
    assert sharena.attach(sharena.handle(kept)).all()
    heap.unlink()


# ---- limits of the process, and of the machine ----------------------------------------------


def system_error(make, *words):
    try:
        make()
    except sharena.HeapSystemError as error:
        says(str(error), *words)
    else:
        raise AssertionError("no error")


def case_address_space():
    """RLIMIT_AS of 3 GiB."""
    system_error(lambda: sharena.Heap.create(reserve="16GiB"), "smaller reserve", "RLIMIT_AS")
    refused(4096 * MIB, None, "address space", "reserve")  # the default reserve is smaller
    assert sharena.ones(50 * MIB, "u1").all()
    heap = sharena.Heap.create(limit="64MiB", reserve="64MiB")
    assert sharena.ones(10 * MIB, "u1", heap=heap).all()


def case_file_size():
    """RLIMIT_FSIZE of 512 MiB; in C, with SIGXFSZ as it is by default."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    system_error(lambda: sharena.Heap.create(reserve="1GiB"), "smaller reserve", "RLIMIT_FSIZE")
    assert sharena.ones(50 * MIB, "u1").all()
    refused(1024 * MIB, None, "address space", "reserve")


def case_machine():
    """The machine says that 100 MiB are available."""
    heap = sharena.Heap.create(limit="4GiB")
    refused(300 * MIB, heap, "this machine: 100 MiB available", "300 MiB")
    assert np.all(sharena.ones(20 * MIB, "u1", heap=heap))


if __name__ == "__main__":
    case, *arguments = sys.argv[1:]
    globals()[f"case_{case}"](*arguments)
