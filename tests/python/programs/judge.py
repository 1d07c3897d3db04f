"""Whether anybody can read a message: judge.py CASE."""

import ctypes
import os
import select
import socket
import threading
import time

from judging import (
    CLONE_FILES,
    CLONE_NEWTIME,
    LOOSE,
    Child,
    Headless,
    SkipError,
    ask,
    close,
    connect,
    expect,
    expect_alive,
    expect_dead,
    expect_kept,
    libc,
    listener,
    me,
    pipe,
    run,
    unshare,
)
from support import until

from sharena import _core

# ---- pipes: rule (a), a writing end of one's own ----


def case_writer_here():
    r, w, place = pipe()
    expect_alive(place, reader=os.getpid())
    close(r)
    assert ask(place)  # at once, without patience
    assert ask(place, (1, 1, 0), mode=0o666)  # and nothing hinders it
    assert os.fstat(w)
    assert _core._reader(place) == ""


def case_writer_here_reader_there():
    r, _w, place = pipe()
    child = Child()
    close(r)
    expect_alive(place, reader=child.pid)
    child.end()
    assert ask(place)


def case_writer_here_reader_reopened():
    r, _w, place = pipe()
    for mode in (os.O_RDONLY, os.O_RDWR):
        again = os.open(f"/proc/self/fd/{r}", mode)
        close(r)
        expect_alive(place, reader=os.getpid())
        r = again
    close(r)
    assert ask(place)


def case_writer_here_reader_on_its_way():
    r, _w, place = pipe()
    a, b = socket.socketpair()
    socket.send_fds(a, [b"x"], [r])
    close(r)
    expect_alive(place)
    b.close()
    assert ask(place)


def case_writer_here_reader_blocked():
    r, w, place = pipe()
    reader = threading.Thread(target=os.read, args=[r, 1])
    reader.start()

    def blocked():
        with open(f"/proc/self/task/{reader.native_id}/syscall") as file:
            fields = file.read().split()
        return len(fields) > 2 and int(fields[1], 16) == r and fields[0] != "running"

    until(blocked, "the thread to read")
    close(r)
    assert not os.path.lexists(f"/proc/self/fd/{r}")
    expect_alive(place)
    os.write(w, b"x")
    reader.join(20)
    assert ask(place)


def case_an_epoll_is_no_reader():
    r, _w, place = pipe()
    poller = select.epoll()
    poller.register(r, select.EPOLLIN)
    close(r)
    assert ask(place)


# ---- pipes: rule (b), an end seen elsewhere ----


def case_writer_there():
    r, w, place = pipe()
    writer = Child(drop=[r])
    reader = Child(drop=[w])
    close(r, w)
    expect_alive(place, reader=reader.pid)
    reader.end()
    assert ask(place)  # by the reader count, at once
    assert ask(place, (1, 1, 0), mode=0o666)
    writer.end()


def case_writer_there_reader_on_its_way():
    r, w, place = pipe()
    writer = Child(drop=[r])
    a, _b = socket.socketpair()
    socket.send_fds(a, [b"x"], [r])
    close(r, w)
    expect_alive(place)
    assert "can't be seen" in _core._reader(place)
    writer.end()


def case_reader_there():
    r, w, place = pipe()
    reader = Child(drop=[w])
    close(r, w)
    expect_alive(place, reader=reader.pid)
    reader.end()
    expect_dead(place)


def case_reader_in_a_process_without_its_main_thread():
    r, w, place = pipe()
    reader = Headless(drop=[w])
    assert os.listdir(f"/proc/{reader.pid}/fd") == []
    close(r, w)
    expect_alive(place, reader=reader.pid)
    reader.kill()
    expect_dead(place)


def case_reader_in_a_thread_with_its_own_descriptors():
    r, w, place = pipe()

    def leave():
        ready, done = threading.Event(), threading.Event()

        def stay():
            libc.unshare(CLONE_FILES)
            ready.set()
            done.wait()

        threading.Thread(target=stay, daemon=True).start()
        assert ready.wait(20)
        close(r)

    reader = Child(leave, drop=[w])
    assert str(r) not in os.listdir(f"/proc/{reader.pid}/fd")
    close(r, w)
    expect_alive(place, reader=reader.pid)
    reader.end()
    expect_dead(place)


# ---- pipes: rule (c), no end is seen ----


def wait_past(moment):
    until(lambda: time.monotonic() > moment, "a second to pass")


def case_nobody_takes_two_looks():
    r, w, place = pipe()
    close(r, w)
    until(lambda: (ask(place), _core._obstacle() == "")[1], "a look without obstacle")
    begin = time.monotonic()
    assert not ask(place)
    assert not ask(place)
    until(lambda: ask(place), "the verdict")
    assert time.monotonic() > begin + 0.9


def case_nobody_with_patience():
    r, w, place = pipe()
    _inet = socket.socket(socket.AF_INET)  # can't hold descriptors, and does not count any
    begin = time.monotonic()
    close(r, w)
    expect_dead(place)
    assert time.monotonic() > begin + 1


def case_a_hindered_look_starts_anew():
    r, w, place = pipe()
    close(r, w)
    assert not ask(place)
    assert not ask(place, mode=0o666)
    wait_past(time.monotonic() + 1.05)
    assert not ask(place)
    expect_dead(place)


def case_a_fork_looks_for_itself():
    r, w, place = pipe()
    close(r, w)
    assert not ask(place)
    wait_past(time.monotonic() + 1.05)

    def judge():
        assert not ask(place)

    Child(judge).end()
    expect_dead(place)


def case_nobody_but_a_socket_holds_it():
    r, w, place = pipe()
    a, b = socket.socketpair()
    socket.send_fds(a, [b"x"], [r])
    close(r, w)
    expect_kept(place, because="holds descriptors on their way")
    b.close()
    expect_dead(place)


def case_nobody_but_a_socket_in_a_socket():
    r, w, place = pipe()
    a, b = socket.socketpair()
    c, d = socket.socketpair()
    socket.send_fds(a, [b"x"], [r])
    socket.send_fds(c, [b"x"], [b.fileno()])
    a.close()
    b.close()
    expect_alive(place)  # the writing end knows
    close(r, w)
    expect_kept(place, because="holds descriptors on their way")
    _, fds, _, _ = socket.recv_fds(d, 1, 1)
    b = socket.socket(fileno=fds[0])
    _, fds, _, _ = socket.recv_fds(b, 1, 1)
    expect_alive(place, reader=os.getpid())
    close(fds[0])
    expect_dead(place)


def case_nobody_but_an_accept_queue():
    r, w, place = pipe()
    server = listener()
    client = connect(server)
    socket.send_fds(client, [b"x"], [r])
    close(r)
    expect_alive(place)
    close(w)
    expect_kept(place, because="holds descriptors on their way")
    server.close()
    client.close()
    expect_dead(place)


def ring():
    """An io_uring; (descriptor, function that puts a descriptor in)."""
    fd = libc.syscall(425, 4, ctypes.create_string_buffer(240))
    if fd < 0:
        raise SkipError(f"io_uring: {os.strerror(ctypes.get_errno())}")

    def put(descriptor):
        files = (ctypes.c_int * 1)(descriptor)
        assert libc.syscall(427, fd, 2, files, 1) == 0  # IORING_REGISTER_FILES

    return fd, put


def case_nobody_but_an_io_uring():
    fd, put = ring()
    r, w, place = pipe()
    put(r)
    close(r)
    expect_alive(place)
    close(w)
    expect_kept(place, because="an io_uring of process")
    close(fd)
    expect_dead(place)


def case_many_at_once():
    pipes = [pipe() for _ in range(60)]
    for i, (r, w, _) in enumerate(pipes):
        if i % 3:
            close(r)
        if i % 3 == 2:
            close(w)
    a, b = socket.socketpair()
    places = [place for _, _, place in pipes] + [_core._place_of(a.fileno())]
    a.close()
    b.close()
    first = [i % 3 == 1 for i in range(60)] + [False]
    both = [i % 3 != 0 for i in range(60)] + [True]
    assert _core._unreadable(places, [me()]) == first

    expect(lambda: _core._unreadable(places, [me()], patient=True) == both, places)


def case_a_fork_gets_nothing_of_a_look():
    """Neither a directory that is being walked nor the copy of a writing end."""
    pipes = [pipe() for _ in range(20)]
    for r, _, _ in pipes[::2]:
        close(r)
    for r, w, _ in pipes[1::4]:
        close(r, w)
    places = [place for _, _, place in pipes]
    before = set(os.listdir("/proc/self/fd"))
    done = threading.Event()

    def look():
        while not done.is_set():
            _core._unreadable(places, [me()])

    def check():
        extra = set(os.listdir("/proc/self/fd")) - before - ours
        names = [
            os.readlink(f"/proc/self/fd/{n}")
            for n in extra
            if os.path.lexists(f"/proc/self/fd/{n}")
        ]
        assert not names, names

    looker = threading.Thread(target=look, daemon=True)
    looker.start()
    for _ in range(300):
        answer, say = os.pipe()
        ours = {str(answer), str(say)}
        child = os.fork()
        if child == 0:
            check()
            os.write(say, b"r")
            os._exit(0)
        close(say)
        assert os.read(answer, 1) == b"r"
        close(answer)
        os.waitpid(child, 0)
    done.set()
    looker.join(20)


# ---- unix sockets ----


def case_socket():
    a, b = socket.socketpair()
    place = _core._place_of(a.fileno())
    elsewhere = (*place[:2], place[2] + 1)
    expect_alive(place, reader=os.getpid())
    b.close()
    until(lambda: (ask(place), _core._obstacle() == "")[1], "a look")
    assert not ask(place)  # twice, a second apart
    assert not ask(place, (1, 1, 0), mode=0o666)  # which is no obstacle here
    until(lambda: ask(place, (1, 1, 0), mode=0o666), "the verdict")
    assert not ask(elsewhere, patient=True)


def case_socket_shut_down_with_data():
    a, b = socket.socketpair()
    place = _core._place_of(a.fileno())
    a.send(b"data")
    a.shutdown(socket.SHUT_WR)
    a.close()
    expect_alive(place, reader=os.getpid())
    assert b.recv(10) == b"data"
    b.close()
    expect_dead(place)


def case_socket_of_another_process():
    a, b = socket.socketpair()
    place = _core._place_of(a.fileno())
    child = Child()
    a.close()
    b.close()
    expect_alive(place, reader=child.pid)
    child.end()
    expect_dead(place)


def case_socket_on_its_way():
    a, b = socket.socketpair()
    place = _core._place_of(a.fileno())
    c, d = socket.socketpair()
    socket.send_fds(c, [b"x"], [b.fileno()])
    a.close()
    b.close()
    expect_alive(place)
    d.close()
    expect_dead(place)


# ---- processes being started ----


def case_child():
    child = Child()
    place = _core._place_of_child(child.pid)
    kind, start, where = place
    assert (kind, where & 0xFFFFFFFF) == ("child", child.pid)
    assert start > 0
    expect_alive(place, reader=child.pid)
    assert ask((kind, start - 100, where))  # the number is used again
    assert ask((kind, start + 100, where))
    assert not ask((kind, start - 100, where + (1 << 32)))  # of another pid namespace
    child.end(wait=False)
    assert ask(place)  # a zombie
    ended = _core._place_of_child(child.pid)
    assert ended == (kind, 0, where)
    assert ask(ended)
    assert ask((kind, 0, where + (1 << 32)))  # it never was alive, wherever
    os.waitpid(child.pid, 0)
    assert ask(place)
    assert _core._place_of_child(child.pid) == ended


def case_child_without_its_main_thread():
    child = Headless()
    place = _core._place_of_child(child.pid)
    expect_alive(place, reader=child.pid)
    child.kill()
    assert ask(place)


def case_child_in_another_time():
    child = Child()
    place = _core._place_of_child(child.pid)

    def judge_in_another_time():
        unshare(CLONE_NEWTIME)
        with open("/proc/self/timens_offsets", "w") as file:
            file.write("boottime 5000 500000000")
        unknown = _core._place_of_child(child.pid)
        assert unknown == LOOSE, unknown  # the offsets are the children's, not known for here
        Child(judge).end()

    def judge():
        there = _core._place_of_child(child.pid)
        assert abs(there[1] - place[1]) <= 1, (there, place)
        assert not ask(place)

    Child(judge_in_another_time).end()
    child.end()


if __name__ == "__main__":
    run(globals())
