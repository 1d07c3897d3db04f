"""Bad input and bad surroundings: bad_input.py CASE.

Each has a documented outcome.  In a process of its own, because the wrong outcome is a
signal that no test could catch.
"""

import gc
import os
import random
import sys
import traceback
import uuid

import numpy as np
from support import heap, no_leaks, sound

import sharena

MIB = 1 << 20


def expect(error, work, *words):
    """work() raises `error`, and its message holds the words."""
    try:
        work()
    except error as caught:
        text = str(caught)
        missing = [word for word in words if word not in text]
        assert not missing, f"{missing} not in {text!r}"
        return caught
    raise AssertionError(f"{error} was not raised")


def private_name():
    return f"test-{uuid.uuid4().hex[:12]}"


def case_random_handles():
    rng = random.Random(3)
    for _ in range(3000):
        data = rng.randbytes(rng.choice([0, 1, 8, 63, 64, 65, 90, 100, 200, 5000]))
        expect((sharena.SharenaError, ValueError), lambda d=data: sharena.attach(d))
    sound()


def case_truncated_handles():
    a = sharena.ones((3, 4))
    data = sharena.handle(a, uses=1)
    for length in range(len(data)):
        expect((sharena.SharenaError, ValueError), lambda d=data[:length]: sharena.attach(d))
        expect(
            (sharena.SharenaError, ValueError),
            lambda d=data + b"x" * (length + 1): sharena.attach(d),
        )
    b = sharena.attach(data)
    assert (b == 1).all()


def case_flipped_bits():
    """A handle with one wrong bit is refused, or is a view of the same block."""
    a = sharena.ones((3, 4))
    data = sharena.handle(a, uses=16)
    for bit in range(len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            b = sharena.attach(bytes(changed))
        except (sharena.SharenaError, ValueError):
            continue
        assert isinstance(b, np.ndarray)
        assert b.size == 0 or sharena.is_shared(b), bit
        b.tobytes()  # every byte of it can be read
        del b
    heap().expire_tickets(0)
    sound()


def case_wrong_types():
    for wrong in (None, 3, "text", [1], object()):
        expect(TypeError, lambda w=wrong: sharena.attach(w))
        expect(TypeError, lambda w=wrong: sharena.handle(w))
    expect(ValueError, lambda: sharena.handle(sharena.ones(3), uses=0))
    expect((ValueError, OverflowError), lambda: sharena.handle(sharena.ones(3), uses=10**30))
    expect((ValueError, TypeError), lambda: sharena.handle(np.ones(3)))
    expect(TypeError, lambda: sharena.empty(3, dtype=object), "object")
    expect(TypeError, lambda: sharena.zeros(3, dtype=[("a", "i4"), ("b", "O")]))
    expect(TypeError, lambda: sharena.array([1, "x", None], dtype=object))


def case_stale_handles():
    a = sharena.ones(100)
    data = sharena.handle(a)
    assert heap().expire_tickets(0) == 1
    del a
    expect(sharena.StaleHandleError, lambda: sharena.attach(data))
    for _ in range(100):  # the place is used again: never other data
        b = sharena.zeros(100)
        expect(sharena.StaleHandleError, lambda: sharena.attach(data))
        del b


def case_handles_from_another_machine():
    a = sharena.ones(100)
    machine_at = 6 + 32  # in sharena_handle: uuid 16, offset 8, number 8, machine 8
    data = bytearray(sharena.handle(a))
    for byte in range(machine_at, machine_at + 8):
        data[byte] ^= 0xFF
    expect(sharena.RemoteHandleError, lambda: sharena.attach(bytes(data)), "another machine")
    lost = sharena._core.rebuild_array(bytes(data))
    assert type(lost) is sharena.Lost
    expect(sharena.RemoteHandleError, lambda: lost + 1, "another machine")
    heap().expire_tickets(0)


def case_heaps_and_handles_of_another_user():
    if os.getuid() != 0:
        return  # nobody else can be impersonated
    name = private_name()
    made = sharena.Heap.create(name)
    data = sharena.handle(sharena.ones(100, heap=made))
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            made.close()
            gc.collect()
            os.setresuid(54321, 54321, 54321)
            error = expect(sharena.SharenaError, lambda: sharena.Heap.attach(name), name)
            assert isinstance(error, PermissionError), error
            expect(sharena.SharenaError, lambda: sharena.attach(data))
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert status == 0
    assert (sharena.attach(data) == 1).all()
    made.unlink()
    made.close()


def as_another_user(work):
    """Whether it works there, in a child; what it raises is printed."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setresgid(54321, 54321, 54321)
            os.setresuid(54321, 54321, 54321)
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1] == 0


def case_heaps_that_others_may_only_read():
    """Whoever attaches writes: the message says so, and what the owner can do."""
    if os.getuid() != 0:
        return  # nobody else can be impersonated
    name = private_name()
    path = f"/dev/shm/sharena.{name}"
    with sharena.Heap.create(name, mode=0o666) as made:
        made["x"] = np.arange(5)
        del made["x"]
    attach = sharena.Heap.attach

    def refused():
        for owner in (0, -1):
            expect(
                sharena.HeapPermissionError,
                lambda who=owner: attach(name, owner=who),
                name,
                "user 0",
                "mode 0644",
                "0o666",
                "0o660",
            )

    def let_in():
        with attach(name, owner=0) as heap:
            heap["y"] = np.arange(7)
            del heap["y"]
        expect(sharena.HeapPermissionError, lambda: attach(name), "belongs to user 0")

    assert as_another_user(let_in)
    os.chmod(path, 0o644)
    assert as_another_user(refused)
    os.unlink(path)


def case_no_proc():
    """Run where /proc is empty: what fails says what is missing."""
    assert not os.path.exists("/proc/self")
    for work in (
        lambda: sharena.ones(3),
        sharena.Heap.create,
        lambda: sharena.Heap.create(private_name()),
    ):
        error = expect(sharena.HeapSystemError, work, "/proc is not mounted")
        assert isinstance(error, OSError)
    path = f"/dev/shm/sharena.{private_name()}"
    with open(path, "wb"):
        pass
    try:
        name = path.rpartition("sharena.")[2]
        expect(sharena.HeapSystemError, lambda: sharena.Heap.attach(name), "/proc is not")
    finally:
        os.unlink(path)


def case_too_many_names():
    crowded = sharena.Heap.create()
    a = sharena.ones(2, heap=crowded)
    names = []
    error = None
    while error is None:
        try:
            crowded[f"name{len(names)}"] = a
            names.append(f"name{len(names)}")
        except sharena.TooManyNamesError as caught:
            error = caught
    assert str(len(names)) in str(error), error
    assert sorted(crowded.keys()) == sorted(names)
    crowded[names[0]] = a[1:]  # one that is there can be given anew
    del crowded[names[1]]
    crowded["another"] = a
    assert crowded.check() == []
    crowded.close()


def case_too_many_handles():
    """Refused when the table is full; every handle made before it still works."""
    crowded = sharena.Heap.create(limit="8MiB", reserve="8MiB")  # a small table
    handles = []
    error = None
    while error is None:
        try:
            handles.append(sharena.handle(sharena.full(2, len(handles), heap=crowded)))
        except sharena.TooManyHandlesError as caught:
            error = caught
    assert "expire" in str(error), error
    assert len(handles) > 10_000
    for number in range(0, len(handles), 7):
        assert sharena.attach(handles[number])[0] == number
    sharena.handle(sharena.ones(2, heap=crowded))
    assert crowded.expire_tickets() > 0
    assert crowded.stats().blocks == 0
    assert crowded.check() == []
    crowded.close()


def case_absurd_shapes():
    sizes = (ValueError, MemoryError, OverflowError)
    for make in (sharena.empty, sharena.zeros, sharena.ones):
        for shape in (-1, (3, -1), (2**40, 2**40), 2**62, (2**63 - 1,), 2**64, (2**31,) * 3):
            expect(sizes, lambda m=make, s=shape: m(s))
        expect(ValueError, lambda m=make: m((1,) * 65))
        expect(TypeError, lambda m=make: m("3"))
        expect(TypeError, lambda m=make: m((1.5, 2)))
    expect(sizes, lambda: sharena.full(2**61, 1.0))
    expect(sizes, lambda: sharena.empty(2**60, dtype="S1000"))
    expect(sizes, lambda: sharena.empty_like(np.ones(3), shape=(2**40, 2**40)))
    assert sharena.empty((2**30, 0, 2**20)).size == 0  # as in NumPy: nothing in it
    sound()


def case_full_heap():
    small = sharena.Heap.create(limit=64 * MIB)
    held = []
    error = None
    while error is None:
        try:
            held.append(sharena.ones(MIB, heap=small))
        except sharena.HeapFullError as caught:
            error = caught
    assert isinstance(error, MemoryError)
    assert "limit" in str(error), error
    assert 4 <= len(held) <= 8
    assert all((a == 1).all() for a in held)
    assert not small.check()
    held.pop()
    held.append(sharena.ones(MIB // 2, heap=small))
    held.clear()
    gc.collect()
    assert small.stats().live_bytes == 0
    sharena.ones(4 * MIB, heap=small)
    expect(sharena.HeapFullError, lambda: sharena.empty(2**40, heap=small))
    small.close()


def case_full_file_system():
    """Run where /dev/shm is a tmpfs of 32 MiB: an exception, never SIGBUS."""
    status = os.statvfs("/dev/shm")
    assert status.f_blocks * status.f_frsize == 32 * MIB
    name = private_name()
    with sharena.Heap.create(name, limit=1 << 30) as full:
        held = []
        while True:
            try:
                held.append(sharena.ones(MIB // 2, heap=full))
            except sharena.HeapFullError as error:
                assert name in str(error), error
                break
        assert 2 <= len(held) < 8
        assert all((a == 1).all() for a in held)
        assert not full.check()
        small = []  # small blocks end at the same wall
        try:
            while True:
                small.append(sharena.ones(100, heap=full))
        except sharena.HeapFullError:
            pass
        assert not full.check()
        held.clear()
        assert (sharena.zeros(MIB // 2, heap=full) == 0).all()
        del small
        gc.collect()
        full.unlink()


def case_closed_heap():
    closed = sharena.Heap.create()
    a = sharena.ones(100, heap=closed)
    closed.close()
    closed.close()
    assert (a == 1).all()  # mapped until the last array goes
    expect(sharena.SharenaError, lambda: sharena.ones(3, heap=closed), "closed")
    expect(sharena.SharenaError, closed.stats, "closed")
    expect(sharena.SharenaError, lambda: closed["x"], "closed")
    assert "closed" in repr(closed)


def case_missing_heap():
    name = private_name()
    error = expect(sharena.HeapNotFoundError, lambda: sharena.Heap.attach(name), name)
    assert isinstance(error, FileNotFoundError)
    with sharena.Heap.create(name) as made:
        expect(sharena.SharenaError, lambda: sharena.Heap.create(name), name)
        with sharena.Heap.attach(name) as again:
            assert again.stats().limit_bytes == made.stats().limit_bytes
        made.unlink()
    expect(sharena.HeapNotFoundError, lambda: sharena.Heap.attach(name), name)


def case_bad_names():
    for name in ("", ".", "..", "a/b", "../x", "a" * 300, "nul\0", "spa ce", "ü"):
        expect((sharena.SharenaError, ValueError), lambda n=name: sharena.Heap.create(n))
        expect((sharena.SharenaError, ValueError), lambda n=name: sharena.Heap.attach(n))
    expect(TypeError, lambda: sharena.Heap.create(3))


def case_not_a_heap():
    for content in (
        b"",
        b"x",
        b"not a heap at all" * 1000,
        bytes(1 << 20),
        random.Random(4).randbytes(1 << 16),
    ):
        name = private_name()
        path = f"/dev/shm/sharena.{name}"
        with open(path, "wb") as file:
            file.write(content)
        try:
            expect(sharena.SharenaError, lambda n=name: sharena.Heap.attach(n), "heap")
            with open(path, "rb") as file:
                assert file.read() == content  # nothing was written to it
        finally:
            os.unlink(path)
    name = private_name()
    path = f"/dev/shm/sharena.{name}"
    os.mkdir(path)
    expect(sharena.SharenaError, lambda: sharena.Heap.attach(name))
    os.rmdir(path)
    os.symlink("/dev/zero", path)
    expect(sharena.SharenaError, lambda: sharena.Heap.attach(name))
    os.unlink(path)
    os.mkfifo(path)  # opening it must not wait for a writer
    expect(sharena.SharenaError, lambda: sharena.Heap.attach(name))
    os.unlink(path)


def case_damaged_superblock():
    """Any change to the first page is refused or harmless, and says something."""
    name = private_name()
    path = f"/dev/shm/sharena.{name}"
    with sharena.Heap.create(name) as made:
        made["kept"] = sharena.ones(10, heap=made)
        with open(path, "rb") as file:
            good = file.read(256)
    kinds = set()
    for position in range(0, 256, 4):
        with open(path, "r+b") as file:
            file.seek(position)
            file.write(bytes(byte ^ 0x5A for byte in good[position : position + 4]))
        try:
            with sharena.Heap.attach(name) as damaged:
                damaged.check()
        except sharena.SharenaError as error:
            kinds.add(type(error))
            assert str(error)
        with open(path, "r+b") as file:
            file.seek(position)
            file.write(good[position : position + 4])
    assert sharena.HeapVersionError in kinds, kinds
    os.unlink(path)


def case_bad_options():
    wrong = (ValueError, OverflowError, TypeError, sharena.SharenaError)
    for options in (
        {"limit": -1},
        {"limit": "lots"},
        {"limit": 2**70},
        {"reserve": -5},
        {"nonsense": 1},
        {"limit": 1.5},
        {"mode": 0o1600},
        {"mode": -1},
    ):
        expect(wrong, lambda o=options: sharena.Heap.create(**o))
    for size in ("limit", "reserve"):  # nobody who writes 0 means the default
        for zero in (0, "0", "0 GiB", False):
            expect(ValueError, lambda s=size, z=zero: sharena.Heap.create(**{s: z}), size)
    expect(ValueError, lambda: sharena.Heap.create(limit=MIB), "1 MiB", "4 MiB")
    for mode in (0, 0o644, 0o640, 0o664, 0o620, 0o602, 0o444, 0o200, 0o111):
        expect(ValueError, lambda m=mode: sharena.Heap.create(private_name(), mode=m), "mode")
    with sharena.Heap.create(retain=0) as nothing_kept:
        a = sharena.ones(4 * MIB, heap=nothing_kept)
        del a
        assert nothing_kept.stats().retained_bytes == 0
    expect(TypeError, lambda: sharena.ones(3, heap="default"))


def case_bad_files():
    """load() refuses what is no .npy, and leaves nothing behind."""
    path = f"/tmp/{private_name()}.npy"
    try:
        for content in (
            b"",
            b"\x93NUMPY",
            b"\x93NUMPY\x01\x00\xff\xff",
            random.Random(5).randbytes(1000),
        ):
            with open(path, "wb") as file:
                file.write(content)
            expect((ValueError, EOFError, OSError), lambda: sharena.load(path))
        np.save(path, np.ones(1000))
        with open(path, "r+b") as file:
            file.truncate(4000)
        expect((ValueError, EOFError, OSError), lambda: sharena.load(path))
        np.save(path, np.array([None, 1], dtype=object), allow_pickle=True)
        expect((ValueError, TypeError), lambda: sharena.load(path))
    finally:
        os.unlink(path)
    expect(FileNotFoundError, lambda: sharena.load(path))


if __name__ == "__main__":
    if sys.argv[1] == "no_proc":  # nor has the default heap anything to leak
        case_no_proc()
        sys.exit()
    with no_leaks():
        globals()[f"case_{sys.argv[1]}"]()
