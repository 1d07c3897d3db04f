"""Shared arrays through a loky executor: loky_pool.py FIRST,SECOND (to be imported)."""

import importlib
import importlib.util
import sys

for library in sys.argv[1].split(","):  # the order is what is tested
    importlib.import_module(library)

import loky  # noqa: E402 # after the loop
import numpy as np  # noqa: E402 # after the loop
from support import heap, no_leaks  # noqa: E402 # after the loop

import sharena  # noqa: E402 # after the loop


def negate(a):
    import sharena

    assert sharena.is_shared(a)
    a *= -1
    return a[1:], sharena.array(a.sum(axis=1))


def identity(x):
    return x


def make_lost():
    """An array whose handle is taken away before the receiver looks."""
    import sharena

    return Expiring(sharena.ones(1000))


class Expiring:
    def __init__(self, a):
        self.a = a

    def __reduce__(self):
        import pickle

        import loky.backend.reduction

        data = bytes(loky.backend.reduction.dumps(self.a))
        self.a = None
        sharena.Heap.default().expire_tickets(0)
        return pickle.loads, (data,)


def main():
    a = sharena.ones((4, 1000))
    with loky.ProcessPoolExecutor(2) as pool:
        view, sums = pool.submit(negate, a).result(30)
        assert (a == -1).all()
        assert sharena.is_shared(sums)
        assert sums.tolist() == [-1000] * 4
        a[1:] = 3
        assert (view == 3).all()
        assert (pool.submit(identity, np.ones(5)).result(30) == 1).all()
        nested = pool.submit(identity, {"x": [a[0], lambda: 3]}).result(30)
        nested["x"][0][...] = 9
        assert (a[0] == 9).all()
        assert type(pool.submit(make_lost).result(30)) is sharena.Lost
        if importlib.util.find_spec("pandas"):
            import pandas as pd  # after the pool: registered with loky, too

            frame = pd.DataFrame(a.T, copy=False)
            back = pool.submit(identity, frame).result(30)
            a[2, 0] = 77
            assert back[2].iloc[0] == 77
    assert heap().stats().processes >= 1


if __name__ == "__main__":
    with no_leaks():
        main()
