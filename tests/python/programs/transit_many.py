"""Any number of arrays in a message: transit_many.py CASE [COUNT]."""

import contextlib
import multiprocessing
import os
import threading
import time
import warnings

from sending import close, good, pipe, run, tickets
from support import heap, until

import sharena

COUNT = int(os.environ.get("SHARENA_MANY", "200000"))


def many(count, where=None):
    """Arrays of their own, each with its number."""
    arrays = [sharena.empty(8, "i4", heap=where) for _ in range(count)]
    for i, a in enumerate(arrays):
        a[0] = i
    return arrays


def right(arrays, count):
    assert len(arrays) == count
    assert all(a[0] == i for i, a in enumerate(arrays))
    assert sharena.is_shared(arrays[0])
    assert sharena.is_shared(arrays[-1])
    return True


def add(arrays):
    for a in arrays:
        a[0] += 1
    return arrays


def case_through_a_pipe():
    r, w = pipe()
    sent = many(COUNT)
    thread = threading.Thread(target=w.send, args=[sent])
    thread.start()
    got = r.recv()
    thread.join(20)
    assert not tickets()
    assert right(got, COUNT)
    close(r, w)


def case_through_a_queue():
    queue = multiprocessing.Queue()
    queue.put(many(COUNT))
    assert right(queue.get(timeout=50), COUNT)
    queue.put(sharena.ones(3))
    assert good(queue.get(timeout=20))
    assert not tickets()
    queue.close()
    queue.join_thread()


def case_through_a_pool():
    sent = many(COUNT)
    with multiprocessing.Pool(1) as pool:
        back = pool.apply(add, (sent,))
    assert len(back) == COUNT
    assert all(a[0] == i + 1 for i, a in enumerate(sent))
    back[7][0] = 70
    assert sent[7][0] == 70
    assert not tickets()


def case_never_received():
    """So many come back, too."""
    r, w = pipe()
    ready = threading.Event()

    def send():
        ready.set()
        try:
            w.send(many(COUNT // 4))
        except OSError:
            return

    thread = threading.Thread(target=send)
    thread.start()
    ready.wait()
    until(lambda: tickets() == COUNT // 4, "the message to be written")
    r.close()  # in the middle of it
    thread.join(20)
    assert not tickets()
    w.close()


def case_views_of_one_block():
    """They share a ticket."""
    a = sharena.zeros(COUNT // 4)
    views = [a[i : i + 1] for i in range(COUNT // 4)]
    r, w = pipe()
    got = []
    thread = threading.Thread(target=lambda: got.append(r.recv()))
    thread.start()
    began = time.monotonic()
    w.send(views)
    thread.join(30)
    assert time.monotonic() - began < 20
    got[0][-1][0] = 5
    assert a[-1] == 5
    assert not tickets()
    close(r, w)


def by_value(where, a):
    """Three messages with the array go by value, with one warning, and all arrive."""
    queue = multiprocessing.Queue()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(3):
            queue.put([a, a[:1]])
            b, c = queue.get(timeout=20)
            assert b.tolist() == [5, 6]
            assert c.tolist() == [5]
            assert not sharena.is_shared(b)
    where.expire_tickets()
    queue.put(a)
    assert sharena.is_shared(queue.get(timeout=20))
    queue.close()
    queue.join_thread()
    return [(w.category, str(w.message)) for w in seen]


def export_until(error, a):
    """Handles to the array, until that many are refused."""
    count = 0
    try:
        while True:
            sharena.handle(a)
            count += 1
    except error:
        return count


def case_beyond_the_limit_of_tickets():
    with sharena.Heap.create(limit="512MiB") as other:
        a = sharena.array([5, 6], heap=other)
        assert export_until(sharena.TooManyHandlesError, a) > 1000
        ((category, text),) = by_value(other, a)
        assert category is sharena.ByValueWarning
        assert "no handle can be made" in text
        del a


def case_beyond_the_limit_of_memory():
    """The table of tickets would have to grow, and the heap is full."""
    with sharena.Heap.create(limit="16MiB") as small:
        a = sharena.array([5, 6], heap=small)
        held = []
        with contextlib.suppress(sharena.HeapFullError):
            while True:
                held.append(sharena.ones(5000, heap=small))
        export_until(sharena.HeapFullError, a)
        ((category, text),) = by_value(small, a)
        assert category is sharena.ByValueWarning
        assert "no handle can be made" in text
        del a, held


def case_m4():
    """70 000 hung the consumer, and the next send failed."""

    def child(q, r):
        r.put(len(q.get()))

    there, back = multiprocessing.Queue(), multiprocessing.Queue()
    p = multiprocessing.Process(target=child, args=(there, back), daemon=True)
    p.start()
    there.put([sharena.zeros(8) for _ in range(70_000)])
    assert back.get(timeout=30) == 70_000
    c, d = multiprocessing.Pipe()
    c.send(sharena.zeros(8))
    assert good(d.recv(), 0)
    p.join(20)
    close(c, d)
    there.close()
    there.join_thread()
    assert heap().stats().tickets == 0


if __name__ == "__main__":
    multiprocessing.set_start_method("fork")
    run(globals())
