"""sharena.Array, Value, RawArray, RawValue and RLock between processes.

dropin.py METHOD CASE
"""

import ctypes
import gc
import os
import pickle
import signal
import threading
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import support

import sharena


class Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_double), ("y", ctypes.c_int), ("tag", ctypes.c_char * 4)]


def run(ctx, target, *args):
    """A process's exit status."""
    process = ctx.Process(target=target, args=args)
    process.start()
    process.join(support.DEADLINE_S)
    assert process.exitcode == 0, process.exitcode


def write_all(everything):
    count, numbers, raw, point, text, grid = everything
    with count.get_lock():
        count.value += 1
    numbers[2:4] = [7.0, 8.0]
    raw[1] = 9
    with point:
        point.x = 2.5
        point.tag = b"ab"
    text.value = b"bye"
    grid[1][2] = 5


def make_all():
    return (
        sharena.Value("i", 41),
        sharena.Array("d", [1.0, 2.0, 3.0, 4.0]),
        sharena.RawArray(ctypes.c_short, 3),
        sharena.Value(Point, 1.0, 2),
        sharena.Array("c", b"hello"),
        sharena.RawArray(ctypes.c_int * 3, 2),
    )


def check_written(everything):
    count, numbers, raw, point, text, grid = everything
    assert count.value == 42
    assert count.as_ndarray()[()] == 42
    assert numbers[:] == [1.0, 2.0, 7.0, 8.0]
    assert numbers.as_ndarray().tolist() == [1.0, 2.0, 7.0, 8.0]
    assert list(raw) == [0, 9, 0]
    assert raw.as_ndarray().tolist() == [0, 9, 0]
    assert (point.x, point.y, point.tag) == (2.5, 2, b"ab")
    assert text.value == b"bye"
    assert text.raw == b"bye\0o"
    assert grid.as_ndarray().tolist() == [[0, 0, 0], [0, 0, 5]]


def case_arguments(ctx):
    everything = make_all()
    run(ctx, write_all, everything)
    check_written(everything)


def write_received(connection):
    while (message := connection.get()) is not None:
        write_all(message)


def case_queue(ctx):
    queue = ctx.Queue()
    process = ctx.Process(target=write_received, args=(queue,))
    process.start()
    everything = make_all()  # after the process was started
    queue.put(everything)
    queue.put(None)
    process.join(support.DEADLINE_S)
    assert process.exitcode == 0
    check_written(everything)


def double(array):
    with array.get_lock():
        array.as_ndarray()[:] *= 2
    return array


def case_pools(ctx):
    with ctx.Pool(2) as pool:
        arrays = [sharena.Array("q", range(i, i + 5)) for i in range(20)]
        for i, (array, same) in enumerate(zip(arrays, pool.map(double, arrays), strict=True)):
            assert array[:] == same[:] == [2 * k for k in range(i, i + 5)]
            same[0] = -1
            assert array[0] == -1  # it came back as the same memory
            assert repr(same.get_lock()) == "<sharena.RLock, free>"
        pool.close()
        pool.join()
    with ProcessPoolExecutor(2, mp_context=ctx) as executor:
        array = sharena.Array("d", 3)
        array[:] = [1, 2, 3]
        executor.submit(double, array).result(support.DEADLINE_S)
        assert array[:] == [2, 4, 6]


def answer(connection, lock):
    value = connection.recv()
    with value.get_lock(), lock:
        value.value += 1
    connection.send(value)


def case_pipe(ctx):
    ours, theirs = ctx.Pipe()
    lock = sharena.RLock()
    process = ctx.Process(target=answer, args=(theirs, lock))
    process.start()
    value = sharena.Value("d", 0.5, lock=lock)
    ours.send(value)
    same = ours.recv()
    process.join(support.DEADLINE_S)
    assert same.value == value.value == 1.5
    same.value = 3
    assert value.value == 3
    with same.get_lock():  # one lock, whatever object
        assert value.get_lock().locked()
        assert lock._count() == 1


def add(value, n):
    for _ in range(n):
        with value:
            value.value += 1


def case_the_lock_excludes(ctx):
    value = sharena.Value("l")
    processes = [ctx.Process(target=add, args=(value, 3000)) for _ in range(3)]
    for process in processes:
        process.start()
    threads = [threading.Thread(target=add, args=(value, 3000)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for worker in processes + threads:
        worker.join(support.DEADLINE_S)
    assert value.value == 18000


def die_with_it(array, told):
    array.get_lock().acquire()
    array.get_lock().acquire()
    array[0] = 1
    told.set()
    signal.pause()


def take_over(array, ready, results):
    ready.set()
    with array:
        results.put((array.get_lock().abandoned(), array[0]))


def case_the_holder_is_killed(ctx):
    array = sharena.Array("i", 2)
    lock = array.get_lock()
    told, ready, results = ctx.Event(), ctx.Event(), ctx.Queue()
    holder = ctx.Process(target=die_with_it, args=(array, told))
    holder.start()
    assert told.wait(support.DEADLINE_S)
    waiter = ctx.Process(target=take_over, args=(array, ready, results))
    waiter.start()
    assert ready.wait(support.DEADLINE_S)
    assert lock.locked()
    assert not lock.acquire(block=False)
    assert not lock.acquire(timeout=0.06)
    assert "held by another" in repr(lock)
    os.kill(holder.pid, signal.SIGKILL)
    assert results.get(timeout=support.DEADLINE_S) == (True, 1)
    waiter.join(support.DEADLINE_S)
    holder.join(support.DEADLINE_S)
    with array:
        assert not lock.abandoned()


def not_the_owner(lock, results):
    try:
        lock.release()
    except AssertionError as error:
        results.put(str(error))
    results.put(lock.acquire(timeout=0.06))


def case_a_child_does_not_hold_it(ctx):
    lock, results = sharena.RLock(), ctx.SimpleQueue()
    with lock:
        run(ctx, not_the_owner, lock, results)
    assert results.get() == "attempt to release recursive lock not owned by thread"
    assert results.get() is False
    assert not lock.locked()


def notify(condition, value):
    with condition:
        value.value = 1
        condition.notify_all()


def case_a_condition_over_it(ctx):
    value = sharena.Value("i")
    condition = ctx.Condition(value.get_lock())
    process = ctx.Process(target=notify, args=(condition, value))
    with condition, condition:
        process.start()
        assert condition.wait_for(lambda: value.value, support.DEADLINE_S)
    process.join(support.DEADLINE_S)
    assert process.exitcode == 0


def case_what_is_gone_arrives_as_lost(ctx):
    """A message loaded twice, when nobody has the memory any more."""
    from multiprocessing.reduction import ForkingPickler

    for make in (lambda: sharena.Array("d", 3), lambda: sharena.RawValue("d"), sharena.RLock):
        thing = make()
        data = bytes(ForkingPickler.dumps([thing]))
        del thing
        gc.collect()
        (first,) = ForkingPickler.loads(data)
        assert type(first) is not sharena.Lost
        del first
        gc.collect()
        (second,) = ForkingPickler.loads(data)
        assert type(second) is sharena.Lost
        assert isinstance(second.error, sharena.StaleHandleError), second.error


def case_installed(ctx):
    """multiprocessing's own functions, before and after."""
    before = ctx.Array("i", 3)
    sharena.install_multiprocessing()
    sharena.install_multiprocessing()
    blocks = support.live()[0]
    numbers, count, raw = ctx.Array("i", 3), ctx.Value("d", 1.5), ctx.RawArray("i", 3)
    assert support.live()[0] == blocks + 3
    assert all(sharena.is_shared(sharena.shmem_as_ndarray(x)) for x in (numbers, count, raw))
    assert not sharena.is_shared(sharena.shmem_as_ndarray(before))
    run(ctx, write_installed, before, numbers, count, raw)
    assert before[:] == numbers[:] == [1, 2, 3]
    assert count.value == 2.5
    assert list(raw) == [4, 5, 6]
    with ctx.Pool(1) as pool:  # raw ones at any time
        assert pool.apply(sum_of, (raw,)) == 15
        pool.close()
        pool.join()


def write_installed(before, numbers, count, raw):
    before[:] = numbers[:] = [1, 2, 3]
    count.value += 1
    raw[:] = [4, 5, 6]


def sum_of(raw):
    return int(raw.as_ndarray().sum()) if hasattr(raw, "as_ndarray") else sum(raw)


def case_plain_pickle_refuses(ctx):
    for thing in (*make_all(), sharena.RLock()):
        try:
            pickle.dumps(thing)
        except (TypeError, pickle.PicklingError) as error:  # a block, a type without a name
            assert "Block" in str(error) or "_Array_" in str(error), error
        else:
            raise AssertionError(f"{thing!r} was copied")


def as_argument(pair):
    array, view = pair
    view[1] = 4.0
    return array[1]


def case_arrays_of_it_travel_too(ctx):
    array = sharena.Array("d", 3)
    view = array.as_ndarray()
    assert isinstance(view, np.ndarray)
    assert sharena.is_shared(view)
    with ctx.Pool(1) as pool:
        assert pool.apply(as_argument, ((array, view),)) == 4.0
        del array
        assert pool.apply(np.sum, (view,)) == 4.0
        pool.close()
        pool.join()


if __name__ == "__main__":
    support.run_case(globals())
