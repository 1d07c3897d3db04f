"""What cannot be acquired arrives as a Lost, and nobody hangs: lost.py METHOD CASE."""

import gc
import pickle
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
