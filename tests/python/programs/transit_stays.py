"""What somebody may still receive stays, whatever happens beside it: transit_stays.py CASE."""

import io
import multiprocessing
import os
import pickle
import signal
import socket
import threading
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler

from judging import CLONE_NEWTIME, Child, libc, unshare
from sending import (
    MIB,
    N,
    bystanders,
    close,
    fill,
    good,
    meanwhile,
    mebi,
    pending,
    pipe,
    run,
    tickets,
)
from support import heap, until, wait_for_exit

import sharena

# ---- producers that end ----


def produce(queue, value, end):
    queue.put(mebi(1, value))
    if end == "killed":
        queue._feed_all() if hasattr(queue, "_feed_all") else None
        until(lambda: tickets() >= 1, "the feeder")
        os.kill(os.getpid(), signal.SIGKILL)


def case_a_producer_that_ended():
    """By itself, or killed; through each kind of channel.  The consumer takes its time."""
    channels = {}
    for end in ("itself", "killed"):
        queue, simple = multiprocessing.Queue(), multiprocessing.SimpleQueue()
        there, here = pipe()
        a, b = multiprocessing.Pipe()

        def work(queue=queue, simple=simple, here=here, b=b):
            for put in (queue.put, simple.put, here.send, b.send):
                put(mebi(1, 3))
            queue.close()
            queue.join_thread()

        child = os.fork()
        if child == 0:
            work()
            if end == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            os._exit(0)
        os.waitpid(child, 0)
        here.close()
        b.close()
        channels[end] = (queue.get, simple.get, there.recv, a.recv)
    assert tickets() == 8
    bystanders()
    assert tickets() == 8
    for gets in channels.values():
        for get in gets:
            assert good(get(), 3)


def case_a_clock_that_differs():
    """A member in a time namespace, whose clock is ahead, ends nobody's handles."""
    r, w = pipe()
    w.send(mebi(1, 2))
    loose = sharena.handle(mebi(1, 3))

    def ahead():
        unshare(CLONE_NEWTIME)
        with open("/proc/self/timens_offsets", "w") as file:
            file.write("monotonic 1000000 0\nboottime 1000000 0\n")
        child = os.fork()  # only children are in it
        if child == 0:
            heap().reap()
            held = [mebi(16) for _ in range(8)]
            heap().reap()
            heap().tickets()
            os._exit(0 if len(held) == 8 else 1)
        _, status = os.waitpid(child, 0)
        assert status == 0

    child = Child(ahead)
    bystanders()
    child.end()
    assert good(r.recv(), 2)
    assert good(sharena.attach(loose), 3)
    close(r, w)


def case_a_producer_in_another_time():
    """What was sent by a process whose clock is ahead, or behind, is good."""
    r, w = pipe()

    def ahead():
        unshare(CLONE_NEWTIME)
        with open("/proc/self/timens_offsets", "w") as file:
            file.write("monotonic 1000000 0\nboottime 1000000 0\n")
        child = os.fork()
        if child == 0:
            w.send((mebi(1, 2), sharena.handle(mebi(1, 3))))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert status == 0

    Child(ahead).end()
    w.close()
    bystanders()
    a, loose = r.recv()
    assert good(a, 2)
    assert good(sharena.attach(loose), 3)
    r.close()


# ---- memory is short ----


def case_a_producer_that_is_faster():
    """It is the producer who gets the error, with the numbers; no message is lost."""
    with sharena.Heap.create(limit="32MiB") as small:
        for kind in (pipe, multiprocessing.Pipe):
            r, w = kind()
            sent = 0
            try:
                while True:
                    w.send(mebi(2, sent, heap=small))
                    sent += 1
            except sharena.HeapFullError as error:
                text = str(error)
            assert 10 <= sent <= 16
            assert "2 MiB asked for" in text
            assert "limit of 32 MiB" in text
            assert f"{2 * sent} MiB" in text, text  # on their way
            assert tickets(small) == sent
            for i in range(sent):
                assert good(r.recv(), i)
            close(r, w)


def case_a_shortage_of_others():
    """It takes nothing that is in a living channel, even of the dead."""
    with sharena.Heap.create(limit="32MiB") as small:
        r, w = pipe()
        child = Child(lambda: [w.send(mebi(2, i, heap=small)) for i in range(5)] and None)
        child.kill()
        w.send(mebi(2, 5, heap=small))
        w.close()
        held, text = fill(small)
        assert len(held) > 10
        assert "12 MiB" in text, text
        small.reap()
        for i in range(6):
            assert good(r.recv(), i)
        r.close()
        del held


# ---- bytes that go other ways ----


def gone(*ends):
    """The channels go, and everybody looks."""
    close(*ends)
    bystanders()


class Inner:
    """Keeps a message as bytes within a message."""

    def __init__(self, a):
        self.a = a

    def __reduce__(self):
        return Kept, (bytes(ForkingPickler.dumps(self.a)),)


class Kept:
    def __init__(self, data):
        self.data = data


def case_a_message_within_a_message():
    """A handle(), or a pickle kept as bytes, is loaded after the pipe is gone."""
    r, w = pipe()
    w.send((sharena.handle(mebi(1, 2)), Inner(mebi(1, 3)), mebi(1, 4)))
    handle, inner, outer = r.recv()
    gone(r, w)
    assert good(outer, 4)
    assert good(sharena.attach(handle), 2)
    assert good(ForkingPickler.loads(inner.data), 3)


def case_bytes_sent_twice():
    r, w = pipe()
    here, there = multiprocessing.Pipe()
    data = [ForkingPickler.dumps(mebi(1, i)) for i in range(2)]
    for message in data:
        w.send_bytes(message)
        here.send_bytes(message)
    gone(r, w)
    assert good(there.recv(), 0)
    assert good(there.recv(), 1)
    close(here, there)


def case_bytes_sent_by_a_forked_child():
    """A message that is pickled before a fork, and sent behind it by both."""
    r, w = pipe()
    data = ForkingPickler.dumps(mebi(1, 2))
    w.send_bytes(data)
    here, there = multiprocessing.Pipe()
    child = Child(lambda: here.send_bytes(data))
    child.end()
    del data
    gone(r, w)
    assert good(there.recv(), 2)
    close(here, there)


def forwarded(receive):
    r, w = pipe()
    w.send((mebi(1, 2), "x", [mebi(1, 3)]))
    data = receive(r)
    gone(r, w)
    here, there = multiprocessing.Pipe()
    here.send_bytes(data)
    a, x, (b,) = there.recv()
    assert good(a, 2)
    assert good(b, 3)
    assert x == "x"
    close(here, there)


def case_bytes_forwarded():
    """By a proxy that takes a message raw, and knows nothing of what is in it."""

    def into(r):
        buffer = bytearray(1000)
        size = r.recv_bytes_into(buffer, 100)
        return bytes(buffer[100 : 100 + size])

    def too_short(r):
        try:
            r.recv_bytes_into(bytearray(10))
        except multiprocessing.BufferTooShort as error:
            return error.args[0]
        raise AssertionError("it had room")

    for receive in (lambda r: r.recv_bytes(), lambda r: r.recv_bytes(MIB), into, too_short):
        forwarded(receive)


def case_bytes_kept_and_loaded_by_pickle():
    r, w = pipe()
    w.send(mebi(1, 2))
    data = r.recv_bytes()
    gone(r, w)
    assert good(pickle.loads(data), 2)


def case_a_pickler_of_the_callers_own():
    """As torch sends: the pickle of a file, by send_bytes()."""
    r, w = pipe()
    file = io.BytesIO()
    ForkingPickler(file, pickle.HIGHEST_PROTOCOL).dump(mebi(1, 2))
    w.send_bytes(file.getvalue())
    here, there = multiprocessing.Pipe()
    here.send_bytes(file.getvalue())
    gone(r, w)
    assert good(there.recv(), 2)
    close(here, there)


def case_channels_of_which_nothing_is_known():
    """TCP and named FIFOs: it may take long until somebody reads."""
    with multiprocessing.connection.Listener(("127.0.0.1", 0)) as listener:
        accepted = []
        with meanwhile(lambda: accepted.append(listener.accept())):
            client = multiprocessing.connection.Client(listener.address)
        client.send(mebi(1, 2))
        client.send(mebi(1, 4))
        client.close()
        bystanders()
        assert good(accepted[0].recv(), 2)
        accepted[0].close()
    heap().reap()
    assert [t.place for t in heap().tickets()] == ["loose"]
    heap().expire_tickets()
    path = f"/tmp/sharena-test-{os.getpid()}"
    os.mkfifo(path)
    try:
        both = Connection(os.open(path, os.O_RDWR))
        both.send(mebi(1, 3))
        reader = Connection(os.open(path, os.O_RDONLY))
        both.close()
        bystanders()
        assert good(reader.recv(), 3)
        reader.close()
    finally:
        os.unlink(path)


# ---- ends that nobody sees ----


def case_an_end_in_flight():
    """A reading end that lies in a socket, whose writer is gone."""
    a, b = socket.socketpair()
    r, w = pipe()
    w.send(mebi(1, 2))
    socket.send_fds(a, [b"x"], [r.fileno()])
    gone(r, w)
    _, (fd,), _, _ = socket.recv_fds(b, 1, 1)
    with Connection(fd) as end:
        assert good(end.recv(), 2)
    a.close()
    b.close()


def case_an_end_in_an_accept_queue():
    server = socket.socket(socket.AF_UNIX)
    server.bind("")
    server.listen()
    client = socket.socket(socket.AF_UNIX)
    client.connect(server.getsockname())
    r, w = pipe()
    w.send(mebi(1, 2))
    socket.send_fds(client, [b"x"], [r.fileno()])
    gone(r, w)
    accepted, _ = server.accept()
    _, (fd,), _, _ = socket.recv_fds(accepted, 1, 1)
    with Connection(fd) as end:
        assert good(end.recv(), 2)
    for end in (server, client, accepted):
        end.close()


def case_a_connection_that_is_sent():
    """multiprocessing's reduction of a Connection: the end waits in a thread of the sender."""
    here, there = multiprocessing.Pipe()
    for ends in (pipe(), multiprocessing.Pipe()):
        r, w = ends
        w.send(mebi(1, 2))
        here.send(r)
        gone(r, w)
        again = there.recv()
        bystanders()
        assert good(again.recv(), 2)
        again.close()
    close(here, there)
    multiprocessing.resource_sharer.stop()


def blocked_in_read(thread, fd):
    with open(f"/proc/self/task/{thread.native_id}/syscall") as file:
        fields = file.read().split()
    return len(fields) > 2 and int(fields[1], 16) == fd


def case_a_blocked_reader_whose_descriptor_was_closed():
    r, w = pipe()
    got = []
    reader = threading.Thread(target=lambda: got.append(r.recv()))
    reader.start()
    number = r.fileno()
    until(lambda: blocked_in_read(reader, number), "the thread to read")
    keeps = os.dup(number)  # to look into the pipe
    os.close(number)
    os.dup2(keeps, number)  # recv() reads on from the number
    os.close(keeps)
    w.send(mebi(1, 2))
    bystanders()
    reader.join(20)
    assert good(got[0], 2)
    close(r, w)


def case_a_reader_whose_main_thread_has_ended():
    r, w = pipe()
    go, told = pipe(), pipe()
    pid = os.fork()
    if pid == 0:
        for end in (w, go[1], told[0]):
            end.close()

        def receive():
            go[0].recv()
            told[1].send((os.getpid(), bool(good(r.recv(), 2))))

        threading.Thread(target=receive).start()
        libc.pthread_exit(None)
    r.close()
    w.send(mebi(1, 2))
    w.close()
    bystanders()
    assert tickets() == 1
    go[1].send(0)
    assert told[0].poll(20)
    assert told[0].recv() == (pid, True)
    os.kill(pid, signal.SIGKILL)
    wait_for_exit(pid)
    os.waitpid(pid, 0)
    close(*go, *told)


def case_a_half_read_message():
    """Its reader takes it byte by byte."""
    r, w = pipe()
    text = bytes(40000)
    w.send((mebi(1, 2), text))
    w.close()
    head = os.read(r.fileno(), 100)
    bystanders()
    rest = os.read(r.fileno(), pending(r))
    a, same = ForkingPickler.loads((head + rest)[4:])
    assert good(a, 2)
    assert same == text
    assert int.from_bytes(head[:4], "big") == len(head + rest) - 4
    r.close()
    assert N


if __name__ == "__main__":
    multiprocessing.set_start_method("fork")
    run(globals())
