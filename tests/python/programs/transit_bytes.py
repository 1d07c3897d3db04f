"""Messages without shared arrays: transit_bytes.py stock|shared prints what is sent.

Both must print the same: with "stock" sharena is not imported.
"""

import array
import collections
import datetime
import decimal
import functools
import hashlib
import multiprocessing
import multiprocessing.connection
import os
import pickle
import sys
import threading
from multiprocessing.reduction import ForkingPickler

import numpy as np

if sys.argv[1] == "shared":
    import sharena


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self):
        self.a, self.b = 1, [self]


class Reduced:
    def __reduce__(self):
        return Reduced, (), {"x": np.arange(3)}, iter([1, 2]), iter({"k": 3}.items())

    def append(self, x):
        pass

    def extend(self, x):
        pass

    def __setitem__(self, k, v):
        pass


class Copyreg:
    pass


class Registered(Copyreg):
    pass


def method_of():
    return [].append


def again():
    inner = [1, "x", np.arange(4)]
    return [inner, inner, (inner, "x")]


def recursive():
    a = [1]
    a.append({"a": a})
    return a


OBJECTS = {
    "ints": lambda: (1, 2, 3, 4, 5),
    "numbers": lambda: [0, -1, 255, 256, 65535, 65536, 1 << 31, 1 << 64, -(1 << 300), 1.5, 2j],
    "texts": lambda: ["", "x", "é\u20ac\U0001f600", "\ud800", "x" * 300, b"", b"x" * 300],
    "nothing": lambda: None,
    "containers": lambda: {"a": [1, (2, {3, 4})], "b": {}, "c": frozenset([1]), None: ()},
    "many": lambda: [list(range(3000)), {str(i): i for i in range(3000)}],
    "large": lambda: [bytes(200_000), "x" * 100_000, bytearray(100_000)],
    "frames": lambda: [b"y" * 70_000, 1, b"z" * 70_000, "w" * 10],
    "recursive": recursive,
    "again": again,
    "classes": lambda: [
        Slotted(),
        Reduced(),
        Slotted,
        len,
        os.path.join,
        collections.OrderedDict,
    ],
    "standard": lambda: [
        datetime.datetime(2020, 1, 2),
        decimal.Decimal("1.5"),
        collections.deque([1]),
        functools.partial(int, "3"),
        array.array("d", [1.0]),
        range(5),
        slice(1, 2),
        Ellipsis,
    ],
    "method": lambda: [multiprocessing.Process.start, "x".join],
    "bound": method_of,
    "registered": lambda: [Registered(), Copyreg()],
    "numpy scalars": lambda: [np.float64(1.5), np.int8(3), np.dtype("i4"), np.bool_(True)],
    "numpy": lambda: [np.arange(10), np.ones((3, 4), "f4", order="F"), np.zeros((2, 0))],
    "numpy alone": lambda: np.arange(10),
    "numpy views": lambda: [np.arange(20)[::2], np.arange(6).reshape(2, 3).T, np.array(3)],
    "numpy texts": lambda: [np.array(["a", "bc"]), np.array([b"a"]), np.array([1, "x"], object)],
    "numpy large": lambda: [np.zeros(100_000), np.arange(3)],
    "numpy records": lambda: np.zeros(3, [("a", "i4"), ("b", "U3")]),
    "numpy matrix": lambda: [np.matrix([[1, 2]]), np.ma.array([1, 2], mask=[0, 1])],
    "numpy recarray": lambda: [np.rec.array([(1, 2.0)], names="a,b"), np.char.array(["a"])],
    "error": lambda: ValueError("x", 3),
}


def reduce_registered(_):
    return Registered, ()


ForkingPickler.register(Registered, reduce_registered)


def over_the_wire(make):
    r, w = os.pipe()
    connection = multiprocessing.connection.Connection(w)
    got = []

    def drain():
        while True:
            data = os.read(r, 1 << 20)
            if not data:
                return
            got.append(data)

    thread = threading.Thread(target=drain)
    thread.start()
    connection.send(make())
    connection.close()
    thread.join()
    os.close(r)
    return b"".join(got)


def main():
    for name, make in OBJECTS.items():
        for protocol in (None, *range(pickle.HIGHEST_PROTOCOL + 1)):
            try:
                data = bytes(ForkingPickler.dumps(make(), protocol))
            except (TypeError, pickle.PicklingError) as error:
                data = repr(error).encode()
            tell(f"{name}: {protocol}", data)
        tell(f"{name}: sent", over_the_wire(make))
    if sys.argv[1] == "shared":
        assert not sharena.Heap.default().tickets()


def tell(what, data):
    print(what, len(data), hashlib.sha256(data).hexdigest())


if __name__ == "__main__":
    main()
