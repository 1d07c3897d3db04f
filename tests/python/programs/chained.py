"""A reducer for ndarray that was registered before sharena: chained.py."""

import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np

calls = []


def earlier(a):
    calls.append(a.shape)
    return a.__reduce_ex__(4)


ForkingPickler.register(np.ndarray, earlier)

import sharena  # noqa: E402 # after the other one, on purpose


def main():
    private, shared = np.ones(7), sharena.ones(5)
    assert (pickle.loads(ForkingPickler.dumps(private)) == 1).all()
    assert calls == [(7,)]
    data = ForkingPickler.dumps([shared, private, shared[:0]])
    assert calls == [(7,), (7,), (0,)]
    back = pickle.loads(data)
    assert sharena.is_shared(back[0])
    with sharena.by_value():
        assert not sharena.is_shared(pickle.loads(ForkingPickler.dumps(shared)))
    assert calls[3:] == [(5,)]


if __name__ == "__main__":
    main()
