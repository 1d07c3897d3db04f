"""Who may have an end that can't be seen: obstacle.py CASE.

A pipe of which nobody has an end is asked for each time.  Most cases run as an ordinary
user, since root can look into every process.
"""

import os
import resource
import socket
import subprocess
import sys
import time

from judging import (
    CLONE_NEWPID,
    Child,
    Headless,
    SkipError,
    ask,
    become_nobody,
    dumpable,
    expect_alive,
    expect_dead,
    expect_kept,
    me,
    member,
    mount,
    private_mounts,
    run,
    unshare,
)
from support import until

from sharena import _core


def closed_pipe():
    r, w = os.pipe()
    place = _core._place_of(w)
    os.close(r)
    os.close(w)
    return place


def secretive():
    """An ordinary user's process that nobody else of that user can look into."""
    become_nobody()
    dumpable(False)


def unreadable(pid):
    return not os.access(f"/proc/{pid}/fd", os.R_OK)


def case_member():
    become_nobody()
    child = Child(secretive)
    assert unreadable(child.pid)
    place = closed_pipe()
    expect_kept(place, me(), member(child.pid), because=f"process {child.pid} (python")
    child.end()
    expect_dead(place, me(), member(child.pid))


def case_judge_itself():
    """Everybody can look into themselves."""
    become_nobody()
    dumpable(False)
    expect_dead(closed_pipe())


def case_descendant():
    become_nobody()
    children = []
    child = Child(lambda: children.append(Child(secretive)))
    place = closed_pipe()
    expect_kept(place, because="started by one that uses the heap")
    expect_kept(place, member(child.pid), because="started by one that uses the heap")
    child.end()  # its child sees its control pipe close, and ends too
    expect_dead(place)


def case_bystander():
    """Of the same user, but no descendant of a member."""
    bystander = Child(secretive)

    def judge():
        become_nobody()
        assert unreadable(bystander.pid)
        expect_dead(closed_pipe(), me())
        expect_dead(closed_pipe(), me(guests=1))  # too old to be a fork of this process

    tick = time.monotonic() + 0.03
    until(lambda: time.monotonic() > tick, "the bystander to be older than what follows")
    Child(judge, drop=[bystander.control]).end()
    bystander.end()


def case_bystander_that_may_be_a_guest():
    first = Child(become_nobody)
    bystander = Child(secretive, drop=[first.control])

    def judge():
        become_nobody()
        expect_dead(closed_pipe(), me(), member(first.pid))
        because = f"process {bystander.pid} (python) can't be looked into, and may use"
        expect_kept(closed_pipe(), me(), member(first.pid, guests=1), because=because)

    Child(judge, drop=[first.control, bystander.control]).end()
    bystander.end()
    first.end()


def case_members_guests():
    become_nobody()
    guest = Child()
    child = Child(drop=[guest.control])
    place = closed_pipe()
    expect_dead(place, me(), member(child.pid, guests=1))
    place = closed_pipe()
    child.end(wait=False)  # a zombie has ended too
    gone = f"process {child.pid} has ended, and 1 forked"
    expect_kept(place, me(), member(child.pid, guests=1), because=gone)
    os.waitpid(child.pid, 0)
    expect_kept(place, me(), member(child.pid, guests=1), because=gone)
    expect_dead(place, me(), member(child.pid))
    guest.end()


def case_member_of_another_pid_namespace():
    place = closed_pipe()
    pid, guests, space = me()
    expect_kept(place, (pid, guests, space + 1), because="in another pid namespace")
    expect_kept(place, me(), (7, 0, 0), because="in another pid namespace")
    expect_dead(place)


def case_member_of_another_user():
    if os.geteuid() != 0:
        raise SkipError("needs another user")
    child = Child(become_nobody)
    place = closed_pipe()
    expect_kept(place, me(), member(child.pid), because="belongs to another user")
    expect_dead(place, me())
    child.end()


def case_heap_of_several_users():
    place = closed_pipe()
    for mode in (0o640, 0o602, 0o601):
        expect_kept(place, mode=mode, because="open to other users")
    expect_dead(place)


def case_exact_verdicts_are_not_hindered():
    become_nobody()
    child = Child(secretive)
    r, w = os.pipe()
    place = _core._place_of(w)
    assert not ask(place, me(), member(child.pid), mode=0o666)
    os.close(r)
    assert ask(place, me(), member(child.pid), mode=0o666)
    child.end()


def case_reader_that_only_the_writer_knows():
    """The reading end is in a process that can't be looked into: its writer still counts."""
    become_nobody()
    r, w = os.pipe()
    place = _core._place_of(w)
    child = Child(secretive, drop=[w])
    os.close(r)
    expect_alive(place)
    child.end()
    assert ask(place)


def case_zombie_child():
    become_nobody()
    child = Child()
    child.end(wait=False)
    assert unreadable(child.pid)  # it belongs to root
    expect_dead(closed_pipe())
    os.waitpid(child.pid, 0)


def case_member_without_its_main_thread():
    """Its descriptors are seen in the other threads only; /proc/PID/fd belongs to root."""
    become_nobody()
    r, w = os.pipe()
    place = _core._place_of(w)
    child = Headless(drop=[w])
    assert unreadable(child.pid)
    os.close(r)
    os.close(w)
    expect_alive(place, me(), member(child.pid), reader=child.pid)
    other = closed_pipe()
    expect_dead(other, me(), member(child.pid))
    child.kill()
    expect_dead(place)


def case_out_of_descriptors():
    place = closed_pipe()
    pair = socket.socketpair()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    filling = []
    try:
        while True:
            filling.append(os.dup(0))
    except OSError:
        expect_kept(place, because="")
    for _ in range(2):  # one for /proc, one for a process, none for what a socket holds
        os.close(filling.pop())
        expect_kept(place, because="no descriptors or memory left")
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    expect_dead(place)
    for end in pair:
        end.close()


def case_no_proc():
    def judge():
        space = me()
        private_mounts()
        place = closed_pipe()
        child = _core._place_of_child(os.getppid())
        mount("tmpfs", "/proc")
        expect_kept(place, space, because="/proc doesn't show the processes")
        assert not ask(child, space)
        assert _core._place_of_child(os.getppid())[0] == "loose"

    Child(judge).end()


def case_proc_of_another_pid_namespace():
    def leave():
        unshare(CLONE_NEWPID)
        Child(judge).end()

    def judge():
        assert os.getpid() == 1
        place = closed_pipe()
        expect_kept(place, because="/proc doesn't show the processes")
        assert _core._place_of_child(1)[0] == "loose"
        child = Child(drop=[])
        r, w = os.pipe()
        place = _core._place_of(w)
        os.close(r)
        assert ask(place)  # one's own writing end is seen all the same
        child.end()

    Child(leave).end()


def hidden_processes():
    private_mounts()
    try:
        mount("proc", "/proc", "hidepid=2")
    except OSError as error:
        raise SkipError(str(error)) from None


def case_hidden_bystander():
    bystander = Child(secretive)

    def judge():
        hidden_processes()
        become_nobody()
        assert not os.path.exists(f"/proc/{bystander.pid}")
        expect_dead(closed_pipe())
        expect_kept(closed_pipe(), me(), member(bystander.pid), because="is hidden")

    Child(judge, drop=[bystander.control]).end()
    bystander.end()


def case_hidden_descendant():
    def judge():
        hidden_processes()
        become_nobody()
        children = []
        child = Child(lambda: children.append(Child(secretive)))
        place = closed_pipe()
        expect_kept(place, because=f"a child of {child.pid} (")
        child.end()
        expect_dead(place)

    Child(judge).end()


def case_setuid_descendant():
    """A program of another user that a member has started."""
    if os.geteuid() != 0:
        raise SkipError("needs another user")
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as other:
        become_nobody()
        place = closed_pipe()
        expect_kept(place, because=f"process {other.pid} (")
        assert "started by one that uses the heap" in _core._obstacle()
        other.communicate(b"\n")
    expect_dead(place)


if __name__ == "__main__":
    run(globals())
