"""Children write through shmem_as_ndarray; the parent sees it."""

import ctypes
import multiprocessing
import multiprocessing.shared_memory
import sys

import numpy as np

import sharena

c_byte_Array_3 = ctypes.c_int8 * 3  # noqa: N816 # the name that it is pickled by


class Reading(ctypes.Structure):
    _fields_ = (("count", ctypes.c_int64), ("place", ctypes.c_double * 2))


class Stamped(Reading):
    _fields_ = (("when", ctypes.c_uint32.__ctype_be__),)


def write(locked, raw, value, nested, others):
    for _ in range(500):
        with locked.get_lock():
            a = sharena.shmem_as_ndarray(locked)
            a += 1
    sharena.shmem_as_ndarray(raw)[:] = [1, 2, 3]
    sharena.shmem_as_ndarray(value)[...] = 2.5
    sharena.shmem_as_ndarray(nested)[1, 2] = 12
    memory, *structures = others
    sharena.shmem_as_ndarray(memory, dtype=Reading)["place"][:, 1] = 3.5
    for x in structures:
        with sharena.get_lock(x):
            a = sharena.shmem_as_ndarray(x)
            a["count"] += 1
            a["place"][..., 1] = 0.5
            a["when"] = 258


def main(method):
    context = multiprocessing.get_context(method)
    shared = (
        context.Array("i", 4),
        context.RawArray(ctypes.c_uint16, 3),
        context.Value("d"),
        context.RawArray(c_byte_Array_3, 2),
    )
    seen = [sharena.shmem_as_ndarray(x) for x in shared]
    several, alone = context.Array(Stamped, 3), context.Value(Stamped, 5)
    readings = sharena.shmem_as_ndarray(several)
    memory = multiprocessing.shared_memory.SharedMemory(create=True, size=48)
    others = (memory, several, alone)
    children = [context.Process(target=write, args=(*shared, others)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert seen[0].tolist() == [1000] * 4, seen[0]
    assert seen[1].tolist() == [1, 2, 3]
    assert seen[2] == np.float64(2.5)
    assert seen[3].tolist() == [[0, 0, 0], [0, 0, 12]]
    assert readings["count"].tolist() == [2] * 3
    assert readings["place"].tolist() == [[0, 0.5]] * 3
    assert [x.when for x in several] == [258] * 3
    assert sharena.shmem_as_ndarray(memory, dtype="f8").tolist() == [0, 0, 3.5] * 2
    memory.close()
    memory.unlink()
    reading = alone.get_obj()
    assert (reading.count, reading.place[1], reading.when) == (7, 0.5, 258)


if __name__ == "__main__":
    main(sys.argv[1])
