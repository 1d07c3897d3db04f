"""What cannot be acquired arrives as a Lost, and nobody hangs: lost.py METHOD CASE."""

import dataclasses
import gc
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.reduction import ForkingPickler

import numpy as np
from support import heap, importorskip, run_case

import sharena

N = 1000


def make(n):
    return sharena.full(n, float(n))


def return_lost(_):
    """A result that is lost on its way: its handle expires before the parent looks."""
    return Expiring(sharena.full(N, 3.0))


class Expiring:
    """Pickles as its array, whose ticket is taken away at once."""

    def __init__(self, a):
        self.a = a

    def __reduce__(self):
        data = bytes(ForkingPickler.dumps(self.a))
        self.a = None
        gc.collect()
        heap().expire_tickets(0)
        return pickle.loads, (data,)


class ExpiringInside:
    """The same for an array within another object."""

    def __init__(self, make):
        self.make = make

    def __reduce__(self):
        data = bytes(ForkingPickler.dumps(self.make()))
        gc.collect()
        heap().expire_tickets(0)
        return pickle.loads, (data,)


def take(user):
    """The array of an object, which lets it go."""
    return vars(user).pop("x")


class Signal:
    """Uses its array while it is unpickled."""

    def __init__(self, x):
        self.x, self.mean = x, float(x.mean())

    def __getstate__(self):
        return {"x": Expiring(take(self))}

    def __setstate__(self, state):
        self.__init__(state["x"])


@dataclasses.dataclass(frozen=True)
class Record:
    """Does so in its constructor."""

    x: object
    mean: float = dataclasses.field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "mean", float(self.x.mean()))

    def __reduce__(self):
        return Record, (Expiring(take(self)),)


class FailedError(Exception):
    """An exception that does so."""

    def __init__(self, x):
        super().__init__("failed")
        self.x, self.mean = x, float(x.mean())

    def __reduce__(self):
        return FailedError, (Expiring(take(self)),)


USERS = (Signal, Record)


def make_user(kind):
    return kind(sharena.ones(N))


def fail_with_array(_):
    raise FailedError(sharena.ones(N))


def tell(x):
    return type(x) is sharena.Lost, isinstance(x, (Signal, Record))


def use(x):
    return float(x[0])


def is_lost(x):
    return type(x) is sharena.Lost


def case_lost(context):
    with context.Pool(2) as pool:
        lost = pool.apply_async(return_lost, (0,)).get(20)
        assert is_lost(lost)
        for attempt in (
            lambda: lost[0],
            lambda: lost + 1,
            lambda: np.asarray(lost),
            lambda: lost.shape,
            lambda: len(lost),
            lambda: list(lost),
        ):
            try:
                attempt()
            except sharena.StaleHandleError:
                continue
            raise AssertionError("a lost array could be used")
        assert "Lost" in repr(lost)
        # As an argument: the task fails with the stored error, the Pool goes on.
        pending = pool.apply_async(use, (Expiring(sharena.ones(N)),))
        try:
            pending.get(20)
        except sharena.StaleHandleError:
            pass
        else:
            raise AssertionError("the task ran on a lost array")
        assert pool.apply_async(make, (3,)).get(20).tolist() == [3.0] * 3


def lost_frame():
    import pandas as pd

    return pd.DataFrame(sharena.zeros((N, 3)), columns=list("xyz"), copy=False)


def lost_series():
    import pandas as pd

    return pd.Series(sharena.zeros(N), copy=False)


def lost_index():
    import pandas as pd

    return pd.Index(sharena.array(np.arange(N)), copy=False)


def lost_dict():
    return {"a": sharena.zeros(N), "b": 5}


def lost_sparse():
    import scipy.sparse

    matrix = scipy.sparse.csr_array(np.eye(4))
    matrix.data = sharena.array(matrix.data)
    return matrix


def return_inside(make_it):
    return ExpiringInside(make_it)


def case_lost_inside(context):
    with context.Pool(2) as pool:
        found = pool.apply_async(return_inside, (lost_dict,)).get(20)
        assert is_lost(found["a"])
        assert found["b"] == 5


def case_lost_inside_pandas(context):
    importorskip("pandas")
    with context.Pool(2) as pool:
        for make_it in (lost_frame, lost_series, lost_index):
            result = pool.apply_async(return_inside, (make_it,)).get(20)
            assert is_lost(result), (make_it, type(result))


def case_lost_inside_scipy(context):
    importorskip("scipy.sparse")
    with context.Pool(2) as pool:
        sparse = pool.apply_async(return_inside, (lost_sparse,)).get(20)
        assert is_lost(sparse.data)


def case_objects_in_a_pool(context):
    with context.Pool(2) as pool:
        for kind in USERS:
            assert is_lost(pool.apply_async(make_user, (kind,)).get(20))
            sent = [make_user(kind) for _ in range(20)]
            told = pool.map_async(tell, sent, chunksize=1).get(20)
            assert told == [(True, False)] * 20, told
        try:
            pool.apply_async(fail_with_array, (0,)).get(20)
        except sharena.StaleHandleError:
            pass
        else:
            raise AssertionError("a lost exception raised nothing")
        assert pool.apply_async(make, (3,)).get(20).tolist() == [3.0] * 3


def case_objects_in_an_executor(context):
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        for kind in USERS:
            assert is_lost(pool.submit(make_user, kind).result(20))
            assert pool.submit(tell, make_user(kind)).result(20) == (True, False)
        error = pool.submit(fail_with_array, 0).exception(20)
        assert type(error) is sharena.StaleHandleError, error
        assert pool.submit(make, 3).result(20).tolist() == [3.0] * 3


def echo(connection, simple, queue):
    """Tells of what came through the pipe."""
    simple.put(tell(connection.recv()))
    queue.put(tell(connection.recv()[1]))


def case_objects_in_queues(context):
    here, there = context.Pipe()
    simple, queue = context.SimpleQueue(), context.Queue()
    child = context.Process(target=echo, args=(there, simple, queue), daemon=True)
    child.start()
    there.close()
    here.send(make_user(Signal))
    assert simple.get() == (True, False)
    here.send(["beside", make_user(Record)])
    assert queue.get(timeout=20) == (True, False)
    child.join(20)
    assert child.exitcode == 0
    for kind in USERS:  # and in this process
        simple.put([kind, make_user(kind)])
        back = simple.get()
        assert back[0] is kind
        assert is_lost(back[1])
        queue.put({"x": make_user(kind)})
        assert is_lost(queue.get(timeout=20)["x"])


def case_damaged_handle(context):
    """Bytes that are no handle never raise inside the interprocess pickler."""
    a = sharena.ones((4, N))
    function, arguments = ForkingPickler._extra_reducers[np.ndarray](a)[:2]
    for position in range(0, len(arguments[0]), 7):
        data = bytearray(arguments[0])
        data[position] ^= 0xFF
        result = function(bytes(data), *arguments[1:])
        assert type(result) in (sharena.Lost, np.ndarray), type(result)
    assert is_lost(function(b"", *arguments[1:]))
    function(*arguments)
    heap().expire_tickets(0)


if __name__ == "__main__":
    run_case(globals())
