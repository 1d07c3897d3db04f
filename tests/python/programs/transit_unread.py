"""What nobody can read any more comes back: transit_unread.py CASE."""

import gc
import multiprocessing
import os
import signal
import socket
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from judging import Child, become_nobody, dumpable
from sending import (
    MIB,
    N,
    Signal,
    back_at_reap,
    close,
    fill,
    good,
    mebi,
    pipe,
    run,
    tickets,
)
from support import heap, until, wait_for_exit

import sharena

# ---- closed unread ----


def case_a_pipe():
    with back_at_reap():
        r, w = pipe()
        w.send((mebi(8), mebi(8)))
        r.close()
        heap().reap()  # the one who wrote knows at once, and alone
        assert not tickets()
        r, w = pipe()
        w.send(mebi(8))
        close(r, w)


def case_a_socket_pair():
    with back_at_reap():
        here, there = multiprocessing.Pipe()
        here.send(mebi(8))
        there.send(mebi(8))
        close(here, there)


def case_a_socket_of_a_listener():
    with back_at_reap():
        with multiprocessing.connection.Listener(family="AF_UNIX") as listener:
            got = []
            accepter = threading.Thread(target=lambda: got.append(listener.accept()))
            accepter.start()
            client = multiprocessing.connection.Client(listener.address)
            accepter.join(20)
        client.send(mebi(8))
        got[0].send(mebi(8))
        close(client, *got)


def case_queues():
    with back_at_reap():
        queues = [multiprocessing.Queue(), multiprocessing.JoinableQueue()]
        for queue in queues:
            queue.put(mebi(8))
            queue.put(mebi(8))
            queue.close()
            queue.join_thread()  # which writes them
        simple = multiprocessing.SimpleQueue()
        simple.put(mebi(8))
        assert tickets() == 5
        simple.close()
        del queue, queues


def case_interrupted_while_received():
    """What a signal took out of a pipe in part, or did not load, comes back with the pipe."""

    def handler(*_):
        if armed:
            raise Signal

    armed = []
    signal.signal(signal.SIGALRM, handler)
    interrupted = 0
    with back_at_reap():
        for i in range(300):
            r, w = pipe()
            w.send((mebi(1), bytes(i * 100)))
            signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + i % 60))
            try:
                armed.append(1)
                r.recv()
                armed.clear()
            except Signal:
                armed.clear()
                interrupted += 1
            close(r, w)
        unread()
    assert interrupted


def case_read_in_part():
    """What was read is the reader's; the rest of the channel comes back."""
    with back_at_reap():
        r, w = pipe()
        for i in range(3):
            w.send(mebi(1, i))
        first = r.recv()
        close(r, w)
        for _ in range(5):
            heap().reap()
            assert good(first, 0)
        unread()
        del first


def had(size_mib, where):
    try:
        return good(mebi(size_mib, heap=where))
    except sharena.HeapFullError:
        return False


def case_before_a_refusal():
    """Dead messages make room for whoever asks."""
    with sharena.Heap.create(limit="32MiB") as small:
        for kind, keeps_writer in ((pipe, True), (pipe, False), (multiprocessing.Pipe, False)):
            r, w = kind()
            for _ in range(5):
                w.send(mebi(4, heap=small))
            assert tickets(small) == 5
            r.close()
            if not keeps_writer:  # then other processes may hinder a verdict for a while
                w.close()
                until(lambda: had(20, small), "room")
            assert good(mebi(20, heap=small))
            assert not tickets(small)
            w.close()
            gc.collect()
        assert small.stats().blocks == 0


def case_by_itself():
    """Nobody reaps: it is enough that the heap is used."""
    reader, beside = pipe()

    def large(where):
        mebi(2, heap=where)

    same = {}

    def send(where):
        beside.send(same[where])
        good(reader.recv())

    def small(where):
        for _ in range(256):
            sharena.ones(N, heap=where)

    uses = {use: sharena.Heap.create() for use in (large, send, small)}
    same[uses[send]] = sharena.ones(N, heap=uses[send])  # made once
    for where in uses.values():
        r, w = pipe()
        w.send(mebi(8, heap=where))
        a, b = multiprocessing.Pipe()
        a.send(mebi(8, heap=where))
        close(r, w, a, b)
        assert tickets(where) == 2

    def back(use):
        use(uses[use])
        return not tickets(uses[use])

    def all_back():  # each heap is used, whatever the others did
        done = [back(use) for use in uses]
        return all(done)

    until(all_back, "the heaps to sweep in passing")
    same.clear()
    close(reader, beside)


def case_an_end_that_was_inherited():
    """A process that has a reading end keeps the message until it ends."""
    r, w = pipe()
    child = Child(drop=[w.fileno()])
    with back_at_reap():
        w.send(mebi(8))
        close(r, w)
        for _ in range(5):
            heap().reap()
            assert tickets() == 1
        child.end()


def hidden_stranger():
    """Starts a process of the same user, no child of ours, whose descriptors nobody sees."""
    ready, say = os.pipe()
    wait, control = os.pipe()
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            close_fds(ready, control)
            dumpable(False)
            os.write(say, str(os.getpid()).encode())
            os.read(wait, 1)
        os._exit(0)
    os.waitpid(child, 0)
    close_fds(say, wait)
    pid = int(os.read(ready, 20))
    os.close(ready)
    try:
        os.listdir(f"/proc/{pid}/fd")
    except PermissionError:
        return control
    raise AssertionError("its descriptors can be seen")


def close_fds(*fds):
    for fd in fds:
        os.close(fd)


def case_beside_a_bystander_that_hides_its_descriptors():
    """One of the same user that is not dumpable, as an agent of keys is."""
    become_nobody()
    stranger = hidden_stranger()
    small = sharena.Heap.create(limit="32MiB")
    r, w = pipe()
    w.send(mebi(8, heap=small))
    a, b = multiprocessing.Pipe()
    a.send(mebi(8, heap=small))
    assert tickets(small) == 2
    close(r, w, a, b)

    def back():
        small.reap()
        return not tickets(small)

    until(back, "the memory of what nobody can read")
    os.close(stranger)
    small.close()


# ---- pools ----


def slow(a):
    return a[: int(a.sum(dtype=float) > 0)]


def case_an_executor_with_a_killed_worker():
    for _ in range(2):
        with back_at_reap():
            big = mebi(64)
            pool = ProcessPoolExecutor(2)
            futures = [pool.submit(slow, big) for _ in range(20)]
            futures[0].result(20)
            victim = next(iter(pool._processes))
            os.kill(victim, signal.SIGKILL)
            wait_for_exit(victim)
            try:
                futures[-1].result(20)
            except BrokenProcessPool:
                pass
            else:
                raise AssertionError("nothing broke")
            pool.shutdown()
            assert good(big)
            del futures
            del pool
            assert heap().stats().live_bytes >= 64 * MIB
            del big
            unread()


def unread():
    """Something on its way, so that there is something to come back."""
    r, w = pipe()
    w.send(mebi(1))
    close(r, w)


def ignore_interrupts():
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def touch(a):
    a += 1


def case_an_interrupted_pool():
    """Ctrl-C in Pool.map, whose workers leave it to their parent."""
    for _ in range(2):
        with back_at_reap():
            stack = sharena.zeros((2000, 5000))
            try:
                with multiprocessing.Pool(2, ignore_interrupts) as pool:
                    pool.apply(touch, (stack[0],))
                    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
                    while True:
                        pool.map(touch, stack, chunksize=1)
            except KeyboardInterrupt:
                pass
            del stack, pool
            unread()


def results(n):
    return [mebi(1) for _ in range(n)]


def case_a_terminated_pool():
    with back_at_reap():
        big = mebi(16)
        pool = multiprocessing.Pool(2)
        pool.apply(touch, (big,))
        waiting = [pool.apply_async(slow, (big,)) for _ in range(50)]
        waiting += [pool.apply_async(results, (4,)) for _ in range(10)]
        waiting[0].get(20)
        pool.terminate()
        pool.join()
        del pool, waiting, big
        unread()


# ---- arguments of processes ----

GATE = "SHARENA_TEST_GATE"

if __name__ == "__mp_main__" and GATE in os.environ:
    # A child that is slow: this runs before its arguments are loaded.
    with socket.socket(socket.AF_UNIX) as gate:
        gate.connect("\0" + os.environ[GATE])
        gate.recv(1)


def check(a, answer):
    answer.send(bool(good(a)))


class Slow:
    """A child under `method` that waits before it loads an array of 8 MiB."""

    def __init__(self, method, where=None):
        server = socket.socket(socket.AF_UNIX)
        server.bind("")
        server.listen()
        self.context = multiprocessing.get_context(method)
        self.context.set_forkserver_preload([])  # or the server itself would be slow
        os.environ[GATE] = server.getsockname()[1:].decode()
        self.answer, there = multiprocessing.Pipe()
        self.child = self.context.Process(target=check, args=(mebi(8, heap=where), there))
        self.child.start()
        there.close()
        server.settimeout(20)
        self.gate, _ = server.accept()
        server.close()

    def open(self):
        self.gate.close()


def case_a_child_killed_before_it_loads():
    for method in ("spawn", "forkserver"):
        with back_at_reap():
            slow_one = Slow(method)
            assert tickets() == 1
            slow_one.child.kill()
            slow_one.child.join()
            close(slow_one.answer, slow_one.gate)


def case_a_slow_child():
    """Whatever happens meanwhile, its arguments stay."""
    for method in ("spawn", "forkserver"):
        small = sharena.Heap.create(limit="32MiB")
        slow_one = Slow(method, small)
        for _ in range(5):
            small.reap()
        held, _ = fill(small)
        assert len(held) > 16
        assert tickets(small) == 1
        slow_one.open()
        assert slow_one.answer.poll(20)
        assert slow_one.answer.recv() is True
        slow_one.child.join()
        slow_one.answer.close()


if __name__ == "__main__":
    dumpable(True)
    multiprocessing.set_start_method("fork")
    run(globals())
