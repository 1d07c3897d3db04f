"""What the programs share that ask the judge: processes that keep ends of channels."""

import ctypes
import os
import signal
import socket
import sys
import threading
import traceback

from support import until, wait_for_exit

from sharena import _core

libc = ctypes.CDLL(None, use_errno=True)
NOBODY = 65534
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
CLONE_FILES = 0x400
CLONE_NEWNS = 0x20000
CLONE_NEWTIME = 0x80
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
LOOSE = ("loose", 0, 0)


class SkipError(Exception):
    """The case can't be tried here."""


def call(name, *arguments):
    """A function of libc; errors are exceptions."""
    result = getattr(libc, name)(*arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
    return result


def unshare(flags):
    try:
        call("unshare", flags)
    except OSError as error:
        raise SkipError(str(error)) from None


def mount(kind, target, options=None):
    data = options.encode() if options else None
    call("mount", kind.encode(), target.encode(), kind.encode(), 0, data)


def private_mounts():
    """What is mounted from here on is this process's alone."""
    unshare(CLONE_NEWNS)
    call("mount", None, b"/", None, 0x4000 | 0x40000, None)  # MS_REC | MS_PRIVATE


def dumpable(yes):
    call("prctl", PR_SET_DUMPABLE, int(yes), 0, 0, 0)


def become_nobody():
    """An ordinary user, who can't look into everything as root can."""
    if os.geteuid() == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        except OSError as error:
            raise SkipError(str(error)) from None
        dumpable(True)


class Child:
    """A forked process: work() runs there, then it stays until it is told to end.

    It closes the descriptors in `drop` first, so that it has just the ends it should.
    """

    def __init__(self, work=lambda: None, drop=()):
        answer, say = os.pipe()
        there, self.control = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                for fd in (answer, self.control, *drop):
                    os.close(fd)
                word = self._run(work)
                os.write(say, word)
                os.close(say)
                if word == b"r":
                    os.read(there, 1)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(there)
        os.close(say)
        word = os.read(answer, 200)
        os.close(answer)
        if word[:1] == b"s":
            raise SkipError(word[1:].decode())
        assert word == b"r", "the child failed"

    @staticmethod
    def _run(work):
        try:
            work()
        except SkipError as skip:
            return b"s" + str(skip).encode()
        return b"r"

    def end(self, wait=True):
        os.close(self.control)
        wait_for_exit(self.pid)
        if wait:
            _, status = os.waitpid(self.pid, 0)
            assert status == 0, status

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        os.close(self.control)
        os.waitpid(self.pid, 0)


class Headless:
    """A process whose main thread has ended and in which another thread waits."""

    def __init__(self, drop=()):
        ready, say = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            for fd in (ready, *drop):
                os.close(fd)
            threading.Thread(target=self._stay, args=[os.getpid(), say]).start()
            libc.pthread_exit(None)
        os.close(say)
        assert os.read(ready, 1) == b"r"
        os.close(ready)

    @staticmethod
    def _stay(pid, say):
        call("prctl", PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        until(lambda: state(pid) == "Z", "the main thread to end")
        os.write(say, b"r")
        threading.Event().wait()

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def state(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def pid_namespace():
    return os.stat("/proc/self/ns/pid").st_ino


def me(guests=0):
    return (os.getpid(), guests, pid_namespace())


def member(pid, guests=0):
    return (pid, guests, pid_namespace())


def pipe():
    """(reading end, writing end, place)."""
    r, w = os.pipe()
    return r, w, _core._place_of(w)


def close(*fds):
    for fd in fds:
        os.close(fd)


def listener():
    server = socket.socket(socket.AF_UNIX)
    server.bind("")
    server.listen()
    return server


def connect(server):
    client = socket.socket(socket.AF_UNIX)
    client.connect(server.getsockname())
    return client


def ask(place, *members, **options):
    return _core._unreadable([place], list(members or [me()]), **options)[0]


def expect(condition, place):
    """Other processes of this machine may hinder a verdict for a while."""
    try:
        until(condition, f"a verdict about {place}")
    except AssertionError as error:
        why = f"obstacle {_core._obstacle()!r}, reader {_core._reader(place)!r}"
        raise AssertionError(f"{error}; {why}") from None


def expect_dead(place, *members):
    expect(lambda: ask(place, *members, patient=True), place)


def expect_kept(place, *members, because, **options):
    """It is never dead, and the obstacle named is the reason (others come and go)."""

    def hindered():
        assert not ask(place, *members, patient=True, **options), f"{place} is dead"
        return because in _core._obstacle()

    expect(hindered, place)


def expect_alive(place, *members, reader=None):
    """Somebody is known to be able to read it."""
    assert not ask(place, *members, patient=True), place
    assert _core._obstacle() == "", _core._obstacle()
    if reader is not None:
        assert f"process {reader} (" in _core._reader(place), _core._reader(place)


def run(program):
    """`PROGRAM CASE`: exits with 0, and prints a line `skip: …` if it can't be tried."""
    try:
        program[f"case_{sys.argv[1]}"]()
    except SkipError as skip:
        print(f"skip: {skip}")
