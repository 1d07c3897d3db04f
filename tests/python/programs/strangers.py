"""Processes that have no default heap in common: strangers.py CASE.

This process never imports sharena, so each child it forks makes a heap of its own and
meets the heap of another through a handle.
"""

import multiprocessing
import os
import signal
import sys
import traceback

N = 1000


class Child:
    """A forked child that runs work(end of a pipe), and the pipe's other end."""

    def __init__(self, work):
        self.end, there = multiprocessing.Pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                self.end.close()
                work(there)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        there.close()

    def receive(self):
        assert self.end.poll(20), "no answer"
        return self.end.recv_bytes()

    def send(self, data=b""):
        self.end.send_bytes(data)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def join(self):
        _, status = os.waitpid(self.pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0


def creator(end):
    import sharena

    a = sharena.ones((4, N))
    end.send_bytes(sharena.handle(a, uses=3))
    end.recv_bytes()


def sender(end):
    """Passes on a view of what it was given."""
    import sharena

    a = sharena.attach(end.recv_bytes())
    end.send_bytes(sharena.handle(a[1:]))
    end.recv_bytes()


def bystander(end):
    """Holds something else in the same heap; it is never asked for anything."""
    import sharena

    a = sharena.attach(end.recv_bytes())
    other = sharena.zeros(10)
    end.send_bytes(b"attached")
    del a
    end.recv_bytes()
    assert (other == 0).all()


def receiver(end):
    import sharena

    try:
        a = sharena.attach(end.recv_bytes())
    except sharena.SharenaError as error:
        end.send_bytes(type(error).__name__.encode())
        return
    assert a.shape[-1] == N
    assert (a == 1).all()
    assert not sharena.Heap.default().check()
    end.send_bytes(b"ok")


def case_a_stranger_meets_the_heap():
    first, second = Child(creator), Child(receiver)
    second.send(first.receive())
    assert second.receive() == b"ok"
    first.send()
    first.join()
    second.join()


def case_sender_and_creator_are_gone():
    for end in (Child.kill, lambda child: (child.send(), child.join())):
        made, passed, watches, last = map(Child, (creator, sender, bystander, receiver))
        handle = made.receive()
        watches.send(handle)
        assert watches.receive() == b"attached"
        passed.send(handle)
        handle = passed.receive()
        end(made)
        end(passed)
        last.send(handle)
        assert last.receive() == b"ok"
        last.join()
        watches.send()
        watches.join()


def case_the_heap_is_gone():
    """Its last user took it away: the receiver is told, at once."""
    made, last = Child(creator), Child(receiver)
    handle = made.receive()
    made.kill()
    last.send(handle)
    assert last.receive() in (b"HeapNotFoundError", b"StaleHandleError")
    last.join()


def identity(x):
    return x


def with_a_pool(end):
    """A pool that was started before sharena was imported at all."""
    context = multiprocessing.get_context("forkserver")
    with context.Pool(1) as pool:
        pool.apply(identity, (1,))
        import sharena

        a = sharena.ones((4, N))
        back = pool.apply(identity, (a,))
        a[0, 0] = 5
        assert back[0, 0] == 5
        child = pool.apply(sharena.zeros, (N,))
        assert sharena.is_shared(child)
    end.send_bytes(b"ok")


def case_a_forkserver_that_knows_nothing():
    child = Child(with_a_pool)
    assert child.receive() == b"ok"
    child.join()


if __name__ == "__main__":
    globals()[f"case_{sys.argv[1]}"]()
