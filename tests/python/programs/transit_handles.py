"""handle(): good until a shortage that nobody alive is behind: transit_handles.py CASE."""

import multiprocessing
import os
import signal
import time

from judging import Child
from sending import bystanders, close, fill, good, mebi, pipe, run, tickets
from support import heap, until

import sharena


def raises_stale(data):
    try:
        sharena.attach(data)
    except sharena.StaleHandleError:
        return
    raise AssertionError("the handle is good")


def of_a_dead_exporter(where, *values):
    """Handles to 2 MiB each, made one after the other by a process that is gone then."""
    r, w = os.pipe()

    def export():
        for value in values:
            data = sharena.handle(mebi(2, value, heap=where))
            os.write(w, len(data).to_bytes(2, "big") + data)
            now = time.monotonic()
            until(lambda now=now: time.monotonic() > now + 0.003, "the next millisecond")

    child = Child(export)
    child.kill()
    os.close(w)
    with open(r, "rb") as file:
        return [file.read(int.from_bytes(file.read(2), "big")) for _ in values]


def case_a_living_exporter():
    """Its handles stay, whatever the shortage."""
    with sharena.Heap.create(limit="16MiB") as small:
        handles = [sharena.handle(mebi(2, i, heap=small)) for i in range(3)]
        held, text = fill(small)
        assert "6 MiB" in text, text
        assert tickets(small) == 3
        del held
        for i, data in enumerate(handles):
            assert good(sharena.attach(data), i)


def case_a_dead_exporter_without_a_shortage():
    (loose,) = of_a_dead_exporter(heap(), 5)
    bystanders()
    assert good(sharena.attach(loose), 5)


def case_a_shortage_ends_those_of_the_dead():
    """The oldest first, and no more than it needs; those of the living stay."""
    with sharena.Heap.create(limit="32MiB") as small:
        mine = sharena.handle(mebi(2, 9, heap=small))
        old, young, youngest = of_a_dead_exporter(small, 1, 2, 3)
        held = []
        while tickets(small) == 4:
            held.append(mebi(1, heap=small))
        raises_stale(old)
        assert good(sharena.attach(youngest), 3)
        rest, _ = fill(small)
        raises_stale(young)
        assert good(sharena.attach(mine), 9)
        del held, rest


def case_a_shortage_asks_the_judge_first():
    """What nobody can read goes before what somebody might."""
    with sharena.Heap.create(limit="32MiB") as small:
        (loose,) = of_a_dead_exporter(small, 5)
        r, w = pipe()
        for _ in range(10):
            w.send(mebi(2, heap=small))
        r.close()  # a writing end tells at once, whatever hides in other processes
        assert good(mebi(24, heap=small))
        w.close()
        assert good(sharena.attach(loose), 5)


def case_by_hand():
    """expire_tickets() ends any: in a living channel, of a living exporter."""
    with sharena.Heap.create() as other:
        r, w = pipe()
        w.send(mebi(1, heap=other))
        loose = sharena.handle(mebi(1, heap=other))
        assert other.expire_tickets(3600) == 0
        assert tickets(other) == 2
        assert other.expire_tickets() == 2
        assert other.stats().blocks == 0
        raises_stale(loose)
        assert isinstance(r.recv(), sharena.Lost)
        close(r, w)


def case_by_an_explicit_timeout():
    """ticket_timeout= ends any as well, by itself, and nothing else has a clock."""
    with (
        sharena.Heap.create(ticket_timeout=0.2) as timed,
        sharena.Heap.create() as untimed,
    ):
        r, w = pipe()
        for where in (timed, untimed):
            w.send(mebi(1, heap=where))
        loose = [sharena.handle(mebi(1, 2, heap=where)) for where in (timed, untimed)]

        def ended():
            timed.reap()
            untimed.reap()
            return not tickets(timed)

        until(ended, "the time to be over")
        assert tickets(untimed) == 2
        assert isinstance(r.recv(), sharena.Lost)
        assert good(r.recv())
        raises_stale(loose[0])
        assert good(sharena.attach(loose[1]), 2)
        close(r, w)


def case_several_uses():
    """Of which some are spent: the rest is good until its maker is dead and memory short."""
    data = sharena.handle(mebi(1, 2), uses=128)
    for _ in range(127):
        assert good(sharena.attach(data), 2)
        assert tickets() == 1
    bystanders()
    assert good(sharena.attach(data), 2)
    raises_stale(data)


def case_open_of_the_dead():
    """A process killed while it pickles has sent nothing: it comes back by itself."""

    class Killer:
        def __reduce__(self):
            os.kill(os.getpid(), signal.SIGKILL)

    r, w = pipe()
    pid = os.fork()
    if pid == 0:
        w.send((mebi(8), Killer()))
    os.waitpid(pid, 0)
    heap().reap()
    assert not tickets()
    assert not heap().stats().blocks
    close(r, w)


if __name__ == "__main__":
    multiprocessing.set_start_method("fork")
    run(globals())
