"""What fails before its last byte leaves is given back at once: transit_failing.py CASE."""

import io
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.queues
import os
import resource
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler

from judging import SkipError
from sending import (
    MIB,
    N,
    Signal,
    back_at_reap,
    close,
    given_back,
    good,
    meanwhile,
    mebi,
    on_signal,
    pending,
    pipe,
    run,
    tickets,
)
from support import until

import sharena


def unpicklable():
    return lambda: 0


class Raising:
    """An object whose pickling raises."""

    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        raise self.error


def raises(kind, function, *arguments, **keywords):
    try:
        function(*arguments, **keywords)
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was not raised")


# ---- pickling ----


def case_pickling_raises():
    """An 8 MiB array, then what can't be pickled: through whatever pickles a message."""
    r, w = pipe()
    here, there = multiprocessing.Pipe()
    simple = multiprocessing.SimpleQueue()
    for send in (w.send, here.send, simple.put, ForkingPickler.dumps):
        for error in (ValueError, KeyboardInterrupt, SystemExit):
            with given_back():
                raises(error, send, (mebi(8), [mebi(8)], Raising(error())))
        with given_back():
            raises(Exception, send, (mebi(8), unpicklable()))
    close(r, w, here, there)


def case_pickling_raises_within_pickling():
    """The message that an object pickles while it is pickled fails; the outer one goes on."""

    class Outer:
        def __reduce__(self):
            raises(ValueError, ForkingPickler.dumps, (mebi(8), Raising(ValueError())))
            return int, (5,)

    r, w = pipe()
    w.send((sharena.ones(N), Outer(), sharena.ones(N)))
    assert tickets() == 2
    a, five, b = r.recv()
    assert (a == 1).all()
    assert (b == 1).all()
    assert five == 5
    close(r, w)


class QuietQueue(multiprocessing.queues.Queue):
    """Tells of errors of its feeder instead of printing them."""

    failures: "list[Exception]" = []  # noqa: RUF012 # for the whole process

    @staticmethod
    def _on_queue_feeder_error(error, _obj):
        QuietQueue.failures.append(error)


def fed(queue, thing):
    """Put it, and wait for the feeder to fail."""
    QuietQueue.failures.clear()
    queue.put(thing)
    until(lambda: QuietQueue.failures, "the feeder's error")
    QuietQueue.failures.clear()


def case_pickling_raises_in_a_feeder():
    queue = QuietQueue(ctx=multiprocessing.get_context())
    with given_back():
        fed(queue, (mebi(8), unpicklable()))
        assert not tickets()
        queue.put(sharena.ones(N))  # until then the feeder's frame has the last object
        good(queue.get(timeout=20))
    queue.close()
    queue.join_thread()


def identity(x):
    return x


def return_unpicklable(a):
    return a, sharena.ones(MIB), unpicklable()


def case_pickling_raises_in_pools():
    a = sharena.ones(N)
    with multiprocessing.Pool(1) as pool, ProcessPoolExecutor(1) as executor:
        assert pool.apply(identity, (5,)) == executor.submit(identity, 5).result(20) == 5
        with given_back():
            for argument in ((mebi(8), unpicklable()), (a, Raising(ValueError()))):
                raises(Exception, pool.apply, identity, (argument,))
                raises(Exception, executor.submit(identity, argument).result, 20)
        for call in (pool.apply, lambda f, x: executor.submit(f, *x).result(20)):
            raises(Exception, call, return_unpicklable, (a,))
            until(lambda: not tickets(), "the worker's tickets")  # its result failed there
        good(pool.apply(identity, (a,)))


# ---- sending ----


def blocked_in_write(end, most=65536):
    until(lambda: pending(end) >= most, "the pipe to be full")


def large():
    """More than a pipe takes, with an array at each end."""
    return mebi(8), bytes(MIB), mebi(1)


def case_a_signal_in_the_middle_of_a_message():
    r, w = pipe()

    def interrupt():
        blocked_in_write(r)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    with given_back(), on_signal(), meanwhile(interrupt):
        raises(Signal, w.send, large())
    assert pending(r) == 65536
    close(r, w)


def case_a_signal_whose_handler_returns():
    """It changes nothing: the rest is written."""
    r, w = pipe()
    seen, got = [], []
    before = signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))

    def interrupt_and_read():
        for _ in range(3):
            blocked_in_write(r)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
        got.append(r.recv())

    with meanwhile(interrupt_and_read):
        w.send(large())
    signal.signal(signal.SIGUSR1, before)
    a, text, b = got.pop()
    assert seen
    assert good(a)
    assert good(b)
    assert text == bytes(MIB)
    close(r, w)


def case_a_signal_just_after_the_last_byte():
    """The bytes are out: the message is good, although send() raised."""
    r, w = pipe()
    got = []

    def interrupt_and_drain():
        # The handler is due as soon as write() returns, which this signal, that another
        # thread receives, does not interrupt: so it is called after the last byte.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
        blocked_in_write(r)
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        got.append(os.read(r.fileno(), 4))
        while sum(map(len, got)) < 4 + int.from_bytes(got[0], "big"):
            got.append(os.read(r.fileno(), MIB))

    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    with on_signal(), meanwhile(interrupt_and_drain):
        raises(Signal, w.send, large())
    assert tickets() == 2
    close(r, w)
    a, text, b = ForkingPickler.loads(b"".join(got)[4:])
    assert good(a)
    assert good(b)
    assert text == bytes(MIB)


def case_a_signal_at_any_time():
    """Of each message all arrives, or nothing is left."""

    def handler(*_):
        if armed:
            raise Signal

    armed = []
    signal.signal(signal.SIGALRM, handler)
    counts = [0, 0]
    r, w = pipe()
    for i in range(1000):
        thing = (sharena.full(N, i), [sharena.full(N, -i)] * 3)
        signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + i % 100))
        try:
            armed.append(1)
            w.send(thing)
            armed.clear()
        except Signal:
            armed.clear()
        del thing
        arrived = r.poll(0)
        if arrived:
            a, (b, _, _) = r.recv()
            assert good(a, i)
            assert good(b, -i)
            del a, b
        assert not tickets(), (i, arrived)
        counts[arrived] += 1
    assert all(counts), counts
    close(r, w)


def case_no_reader_is_left():
    r, w = pipe()
    r.close()
    with given_back():
        raises(BrokenPipeError, w.send, mebi(8))
    w.close()
    here, there = multiprocessing.Pipe()
    there.close()
    with given_back():
        raises(BrokenPipeError, here.send, mebi(8))
    simple = multiprocessing.SimpleQueue()
    simple._reader.close()
    with given_back():
        raises(BrokenPipeError, simple.put, mebi(8))


def case_no_reader_is_left_for_a_feeder():
    queue = QuietQueue(ctx=multiprocessing.get_context())
    queue._reader.close()
    with given_back():
        fed(queue, mebi(8))


def case_the_reader_leaves_in_the_middle():
    for r, w in (pipe(), multiprocessing.Pipe()):

        def leave(r=r):
            blocked_in_write(r)
            r.close()

        with given_back(), meanwhile(leave):
            raises(OSError, w.send, large())
        w.close()


def case_a_connection_that_is_closed():
    r, w = pipe()
    number = w.fileno()
    os.close(number)
    with given_back():
        raises(OSError, w.send, mebi(8))
    w._handle = None
    with given_back():
        raises(OSError, w.send, mebi(8))
    r.close()


def case_no_room_in_a_nonblocking_pipe():
    r, w = pipe()
    os.set_blocking(w.fileno(), False)
    with given_back():
        raises(BlockingIOError, w.send, large())
    close(r, w)


def case_a_send_of_ones_own():
    """A subclass, or an instance, that replaces _send() gets every message."""
    sizes = []

    class Counting(Connection):
        def _send(self, buf, *rest):
            sizes.append(len(buf))
            super()._send(buf, *rest)

    r, w = os.pipe()
    r, w = Connection(r), Counting(w)
    w.send((5, "x"))
    w.send(sharena.ones(N))
    assert len(sizes) == 2
    assert r.recv() == (5, "x")
    good(r.recv())
    there, here = pipe()
    original = here._send
    here._send = lambda buf: (sizes.append(len(buf)), original(buf))
    here.send(sharena.ones(N))
    assert len(sizes) == 3
    good(there.recv())
    close(r, w, here, there)


def case_a_queue_lets_go_of_what_it_sent():
    """Its feeder waits for the next message, and holds nothing of the last."""
    queue = multiprocessing.Queue()
    with given_back():
        queue.put(mebi(8))
        good(queue.get(timeout=20))
        until(lambda: not heap_blocks(), "the feeder to let go")
    queue.close()
    queue.join_thread()


def heap_blocks():
    return sharena.Heap.default().stats().blocks


# ---- processes that can't be started ----


def nothing(*_):
    pass


def start(context, *arguments):
    context.Process(target=nothing, args=arguments).start()


def starting():
    for method in ("spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        child = context.Process(target=nothing)
        child.start()  # starts the helpers, too
        child.join()
        yield context


def case_arguments_that_cannot_be_pickled():
    for context in starting():
        with given_back():
            raises(Exception, start, context, mebi(8), unpicklable())
            raises(ValueError, start, context, mebi(8), Raising(ValueError()))


def case_no_descriptor_for_a_process():
    for context in starting():
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        with given_back():
            resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, limits[1]))
            try:
                raises(OSError, start, context, mebi(8))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def case_no_program_for_a_process():
    """The child is started, and can't become an interpreter: it ends without loading."""
    context = multiprocessing.get_context("spawn")
    multiprocessing.set_executable("/nonexistent")
    with back_at_reap():
        child = context.Process(target=nothing, args=(mebi(8),))
        child.start()
        child.join()
    assert child.exitcode


def case_no_program_and_no_zombie():
    """The same where children vanish as soon as they end."""
    if not hasattr(os, "pidfd_open"):
        raise SkipError("no pidfd")
    context = multiprocessing.get_context("spawn")
    multiprocessing.set_executable("/nonexistent")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with back_at_reap():
        start(context, mebi(8))


def case_a_pickler_of_the_callers_own():
    """A file may have got a part of it: good as long as its maker lives, or until expired."""
    file = io.BytesIO()
    raises(ValueError, ForkingPickler(file).dump, (mebi(1), Raising(ValueError())))
    assert tickets() == 1
    sharena.Heap.default().expire_tickets(0)


if __name__ == "__main__":
    multiprocessing.set_start_method("fork")
    sys.stderr.flush()
    run(globals())
