"""Arrays on their way beside other code: transit_others.py CASE."""

import copyreg
import io
import multiprocessing
import multiprocessing.connection
import multiprocessing.queues
import os
import pickle
import threading
from multiprocessing.reduction import ForkingPickler

import numpy as np
from sending import MIB, N, bystanders, close, good, meanwhile, mebi, pipe, run, tickets
from support import heap, importorskip, until

import sharena

# ---- picklers ----


class Point:
    def __init__(self, x):
        self.x = x


class Later:
    pass


class Registered:
    """Pickled as whoever registered last says."""


def registered_as(value):
    return lambda _: (Point, (value,))


def through_a_pipe(thing):
    r, w = pipe()
    w.send(thing)
    got = r.recv()
    close(r, w)
    return got


def case_later_registrations():
    """register() holds from the next message on, for all classes but those sent by handle."""
    for value in (3, 4):
        ForkingPickler.register(Registered, registered_as(value))
        thing, a = through_a_pipe([Registered(), sharena.ones(N)])
        assert thing.x == value
        assert good(a)
    copyreg.pickle(Later, registered_as(5))
    assert through_a_pipe(Later()).x == 5
    assert good(through_a_pipe(sharena.ones(N)))


def case_somebody_registers_arrays_after_us():
    """He has the say."""
    ours = ForkingPickler._extra_reducers[np.ndarray]
    ForkingPickler.register(np.ndarray, lambda a: (Point, (a.tolist(),)))
    a = sharena.ones(2)
    assert through_a_pipe(a).x == [1, 1]
    assert through_a_pipe([a])[0].x == [1, 1]
    ForkingPickler.register(np.ndarray, ours)
    assert good(through_a_pipe(a))


class Sub(ForkingPickler):
    """As other libraries derive from it: with tables, and methods, of their own."""

    _extra_reducers = {}  # noqa: RUF012 # as in ForkingPickler
    made = 0

    def __init__(self, *args):
        super().__init__(*args)
        Sub.made += 1
        self.dispatch_table[Registered] = registered_as("mine")

    def persistent_id(self, thing):
        return "nine" if type(thing) is int and thing == 9 else None


class Load(pickle.Unpickler):
    def persistent_load(self, what):
        assert what == "nine"
        return 9


def load(data):
    return Load(io.BytesIO(data)).load()


def case_a_subclass_of_the_pickler():
    a = np.ones(3)
    data = bytes(Sub.dumps([9, Registered(), a]))
    nine, thing, b = load(data)
    assert nine == 9
    assert thing.x == "mine"
    assert b.tolist() == [1, 1, 1]
    assert Sub.made == 1
    file = io.BytesIO()
    Sub(file).dump([9, Registered(), a])
    assert file.getvalue() == data
    Sub.register(Point, lambda p: (Point, (-p.x,)))
    assert load(Sub.dumps(Point(3))).x == -3
    assert through_a_pipe(Point(3)).x == 3

    class Plain(ForkingPickler):
        pass

    r, w = pipe()
    w.send_bytes(Plain.dumps(sharena.ones(N)))
    assert good(r.recv())
    close(r, w)


def case_a_queue_of_ones_own():
    """Subclasses of the queues, with methods of their own."""

    class Twice(multiprocessing.queues.Queue):
        def put(self, thing, *rest):
            super().put([thing, thing], *rest)

        def get(self, *rest):
            first, second = super().get(*rest)
            assert first is second
            return first

    queue = Twice(ctx=multiprocessing.get_context())
    queue.put(mebi(1, 2))
    bystanders()
    assert good(queue.get(True, 20), 2)
    queue.close()
    queue.join_thread()


# ---- threads and forks ----


def case_threads_that_send():
    """Each through a pipe of its own, and all through one queue."""
    queue = multiprocessing.Queue()

    def work(value):
        r, w = pipe()
        for _ in range(100):
            w.send([sharena.full(N, value), value])
            a, same = r.recv()
            assert good(a, value)
            assert same == value
            queue.put(a)
        close(r, w)

    threads = [threading.Thread(target=work, args=[i]) for i in range(4)]
    for thread in threads:
        thread.start()
    sums = [0] * 4
    for _ in range(400):
        a = queue.get(timeout=20)
        sums[int(a[0])] += 1
    for thread in threads:
        thread.join(20)
    assert sums == [100] * 4
    queue.close()
    queue.join_thread()


def case_a_fork_while_another_thread_sends():
    """The child has the other's half-written message, and gives nothing of it back."""
    r, w = pipe()
    with meanwhile(lambda: w.send((mebi(1, 2), bytes(MIB), mebi(1, 3)))):
        until(lambda: tickets() == 2, "the send")
        for _ in range(5):
            pid = os.fork()
            if pid == 0:
                here, there = multiprocessing.Pipe()
                here.send(sharena.ones(N))
                good(there.recv())
                heap().reap()
                os._exit(0 if tickets() == 2 else 1)
            _, status = os.waitpid(pid, 0)
            assert status == 0
        a, text, b = r.recv()
    assert good(a, 2)
    assert good(b, 3)
    assert len(text) == MIB
    close(r, w)


def case_a_fork_within_pickling():
    """A process is made while a message is written, and sends messages of its own."""

    class Forks:
        def __reduce__(self):
            pid = os.fork()
            if pid == 0:
                here, there = multiprocessing.Pipe()
                here.send(a)
                good(there.recv(), 2)
                os._exit(0)
            _, status = os.waitpid(pid, 0)
            assert status == 0
            return int, (5,)

    a = mebi(1, 2)
    b, five, c = through_a_pipe((a, Forks(), mebi(1, 3)))
    assert good(b, 2)
    assert good(c, 3)
    assert five == 5


# ---- libraries ----


def add(a):
    a += 1
    return a


def case_a_manager():
    with multiprocessing.Manager() as manager:
        items, queue = manager.list(), manager.Queue()
        items.append(mebi(1, 2))
        queue.put({"a": mebi(1, 3)})
        bystanders()
        assert good(items[0], 2)
        assert good(queue.get()["a"], 3)
        items.append(mebi(8))
        del items, queue
    until(lambda: heap().reap() or not heap().stats().blocks, "the manager's arrays")


def case_a_manager_that_is_killed():
    manager = multiprocessing.Manager()
    items = manager.list()
    items.append(mebi(8))
    manager._process.kill()
    manager._process.join()

    def back():
        heap().reap()
        return not heap().stats().blocks

    until(back, "the manager's arrays")


def executor_of(module):
    a = mebi(1, 2)
    pool = module.ProcessPoolExecutor(1)
    try:
        back = pool.submit(add, a).result(30)
        assert good(back, 3)
        assert good(a, 3)
        back[...] = 7
        assert good(a, 7)
        assert not tickets()
        try:
            pool.submit(add, (mebi(8), threading.Lock())).result(30)
        except Exception:  # loky wraps what it raises
            pass
        else:
            raise AssertionError("a lock was pickled")
        until(lambda: not tickets(), "what was not sent")
        futures = [pool.submit(add, a) for _ in range(20)]
        del a, back
        futures[-1].result(30)
    finally:
        pool.shutdown(kill_workers=True)
    del pool, futures


def case_loky():
    executor_of(importorskip("loky"))


def case_loky_of_joblib():
    importorskip("joblib")
    executor_of(importorskip("joblib.externals.loky"))


if __name__ == "__main__":
    multiprocessing.set_start_method("fork")
    run(globals())
