"""Where a message goes that is written to a descriptor: channel.py CASE."""

import os
import socket
import tempfile
import threading

from judging import CLONE_NEWNET, LOOSE, Child, connect, listener, pipe, run, unshare
from support import until

from sharena import _core


def inode(fd):
    return os.fstat(fd).st_ino


def net_namespace():
    return os.stat("/proc/thread-self/ns/net").st_ino


def case_a_pipe():
    r, w, place = pipe()
    assert place == ("pipe", inode(r), 0) == _core._place_of(r)
    again = os.open(f"/proc/self/fd/{w}", os.O_WRONLY)
    assert _core._place_of(again) == place


def case_a_socket_is_its_peer():
    a, b = socket.socketpair()
    assert _core._place_of(a.fileno()) == ("socket", inode(b.fileno()), net_namespace())
    assert _core._place_of(b.fileno()) == ("socket", inode(a.fileno()), net_namespace())
    b.close()
    again = os.dup(a.fileno())
    assert _core._place_of(again) == LOOSE  # nobody receives


def case_other_channels_is_loose():
    with tempfile.TemporaryDirectory() as folder:
        fifo = os.path.join(folder, "fifo")
        os.mkfifo(fifo)
        assert _core._place_of(os.open(fifo, os.O_RDWR)) == LOOSE
        with open(os.path.join(folder, "file"), "w") as file:
            assert _core._place_of(file.fileno()) == LOOSE
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    assert _core._place_of(client.fileno()) == LOOSE
    for kind in (socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
        a, _b = socket.socketpair(socket.AF_UNIX, kind)
        assert _core._place_of(a.fileno()) == LOOSE
    assert _core._place_of(1000) == LOOSE  # not open


def case_a_socket_not_accepted_yet():
    server = listener()
    client = connect(server)
    assert _core._place_of(client.fileno()) == LOOSE
    there, _ = server.accept()
    assert _core._place_of(client.fileno())[:2] == ("socket", inode(there.fileno()))


def case_a_number_used_again():
    a, b = socket.socketpair()
    number = a.fileno()
    c, d = socket.socketpair()
    assert _core._place_of(number)[1] == inode(b.fileno())
    os.dup2(c.fileno(), number)
    assert _core._place_of(number)[1] == inode(d.fileno())
    _r, w, place = pipe()
    os.dup2(w, number)
    assert _core._place_of(number) == place


def case_a_socket_of_another_network():
    """A connection belongs to the network namespace of who connected."""
    here = net_namespace()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "socket")
        server = socket.socket(socket.AF_UNIX)
        server.bind(path)
        server.listen()
        accepted = []
        accepter = threading.Thread(target=lambda: accepted.extend(server.accept()), daemon=True)
        accepter.start()

        def client():
            unshare(CLONE_NEWNET)
            end = socket.socket(socket.AF_UNIX)
            end.connect(path)
            until(lambda: _core._place_of(end.fileno()) != LOOSE, "accept()")
            assert _core._place_of(end.fileno())[2] == net_namespace() != here

        child = Child(client)
        accepter.join(20)
        assert _core._place_of(accepted[0].fileno()) == LOOSE
        child.end()


if __name__ == "__main__":
    run(globals())
