"""Messages that lose an array on their way."""

import gc
import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np

import sharena

N = 100


def dumps(obj, protocol=None):
    return bytes(ForkingPickler.dumps(obj, protocol))


def expire():
    """End every handle that is under way."""
    gc.collect()
    sharena.Heap.default().expire_tickets(0)


GONE = dumps(sharena.ones(N))
expire()


class Gone:
    """Arrives as an array whose handle nobody kept."""

    def __reduce__(self):
        return pickle.loads, (GONE,)


def use(x):
    return float(np.mean(x))


class Object:
    """REDUCE, with the class itself."""

    def __init__(self, x):
        self.x, self.mean = x, use(x)

    def __reduce__(self):
        return type(self), (self.x,)


class Broken:
    """An Object whose array is lost."""

    def __reduce__(self):
        return Object, (Gone(),)


class Lazy:
    """Keeps an array and doesn't touch it."""

    def __init__(self, x):
        self.x = x
