"""Children write through shmem_as_ndarray; the parent sees it."""

import ctypes
import multiprocessing
import sys

import numpy as np

import sharena

c_byte_Array_3 = ctypes.c_int8 * 3  # noqa: N816 # the name that it is pickled by


def write(locked, raw, value, nested):
    for _ in range(500):
        with locked.get_lock():
            a = sharena.shmem_as_ndarray(locked)
            a += 1
    sharena.shmem_as_ndarray(raw)[:] = [1, 2, 3]
    sharena.shmem_as_ndarray(value)[...] = 2.5
    sharena.shmem_as_ndarray(nested)[1, 2] = 12


def main(method):
    context = multiprocessing.get_context(method)
    shared = (
        context.Array("i", 4),
        context.RawArray(ctypes.c_uint16, 3),
        context.Value("d"),
        context.RawArray(c_byte_Array_3, 2),
    )
    seen = [sharena.shmem_as_ndarray(x) for x in shared]
    children = [context.Process(target=write, args=shared) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert seen[0].tolist() == [1000] * 4, seen[0]
    assert seen[1].tolist() == [1, 2, 3]
    assert seen[2] == np.float64(2.5)
    assert seen[3].tolist() == [[0, 0, 0], [0, 0, 12]]


if __name__ == "__main__":
    main(sys.argv[1])
