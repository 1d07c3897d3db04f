"""Who is there when a handle is made, sent and loaded: lifetimes.py METHOD CASE."""

import gc
import os
import pickle
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.reduction import ForkingPickler

import numpy as np
from support import heap, run_case

import sharena

N = 1000


def filled():
    return sharena.ones((4, N))


def threads_worker(inbox, outbox):
    def serve():
        while (item := inbox.get()) is not None:
            number, a = item
            a += number
            outbox.put((number, a, sharena.full(10, float(number))))

    threads = [threading.Thread(target=serve) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def case_eight_threads(context, rounds=25):
    inbox, outbox = context.Queue(), context.Queue()
    child = context.Process(target=threads_worker, args=(inbox, outbox))
    child.start()
    arrays = [sharena.zeros((8, 100)) for _ in range(8)]
    failures = []

    def send(number):
        for _ in range(rounds):
            inbox.put((number, arrays[number][number]))

    def receive():
        for _ in range(rounds):
            number, row, new = outbox.get()
            same = row.ctypes.data == arrays[number][number].ctypes.data
            if not (new == number).all() or not same:
                failures.append(number)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    threads += [threading.Thread(target=receive) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(8):
        inbox.put(None)
    child.join()
    assert not failures
    for number, a in enumerate(arrays):
        # += is not atomic between eight threads of the worker: what is certain is that
        # only this row changed, and only in steps of its number.
        assert (np.delete(a, number, axis=0) == 0).all()
        assert number == 0 or (a[number] % number == 0).all()
        assert number == 0 or (a[number] > 0).all()


def send_and_vanish(end, how):
    end.send(sharena.array(np.arange(float(N))))
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(0)


def case_sender_gone(context):
    for how in ("exit", "kill"):
        here, there = context.Pipe(duplex=False)
        child = context.Process(target=send_and_vanish, args=(there, how))
        child.start()
        child.join()  # the handle waits in the pipe; nobody holds the block
        assert here.poll()
        heap().reap()
        a = here.recv()
        assert sharena.is_shared(a)
        assert (a == np.arange(N)).all()
        del a


def case_loaded_never(context):
    a = filled()
    ForkingPickler.dumps(a)
    del a
    assert any(ticket.uses for ticket in heap().tickets())
    assert heap().expire_tickets(0) == 1


def load_bytes(data, column):
    a = pickle.loads(data)
    a[:, column] += 1  # its own: two workers may be at it at once
    return float(a[0, column])


def case_loaded_many_times(context):
    a = filled()
    data = bytes(ForkingPickler.dumps(a))
    with context.Pool(2) as pool:
        seen = pool.starmap(load_bytes, [(data, i) for i in range(6)], chunksize=1)
    assert seen == [2.0] * 6
    assert (a[:, :6] == 2).all()
    here = pickle.loads(data)
    here[...] = 2
    assert (a == 2).all()
    del a, here
    gc.collect()
    heap().reap()  # forked workers held what they inherited till their end
    lost = pickle.loads(data)
    assert type(lost) is sharena.Lost
    try:
        lost.shape  # noqa: B018
    except sharena.StaleHandleError:
        pass
    else:
        raise AssertionError("a lost array could be used")


def case_handle_with_uses(context):
    a = filled()
    data = sharena.handle(a, uses=3)
    del a
    arrays = [sharena.attach(data) for _ in range(3)]
    arrays[0][0, 0] = 5
    assert arrays[2][0, 0] == 5
    del arrays
    try:
        sharena.attach(data)
    except sharena.StaleHandleError:
        pass
    else:
        raise AssertionError("the block outlived its holders")


def identity(x):
    return x


def add_one(a):
    a += 1
    return a


def make(n):
    return sharena.full(n, float(n))


class Spoils:
    """Raises while it is loaded."""

    def __setstate__(self, state):
        raise RuntimeError("spoiled")

    def __getstate__(self):
        return 1


def case_an_exception_while_loading(context):
    """The executor breaks, as it would without us; the arrays of the task come back."""
    a = filled()
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        pool.submit(identity, 1).result(20)
        for task in ((a, Spoils()), (Spoils(), sharena.ones(N))):
            try:
                pool.submit(identity, task).result(20)
            except (BrokenProcessPool, RuntimeError):
                continue
            raise AssertionError("the exception got lost")
    heap().reap()
    heap().expire_tickets(0)
    assert (a == 1).all()


def case_pool_before_first_array(context):
    with context.Pool(2) as pool:
        pool.map(identity, range(4))
        a = filled()
        assert pool.apply(add_one, (a,))[0, 0] == 2
        assert (a == 2).all()
        results = pool.map(make, [3, 4, 5])
        for n, result in zip([3, 4, 5], results, strict=True):
            assert sharena.is_shared(result)
            assert result.tolist() == [n] * n


if __name__ == "__main__":
    run_case(globals())
