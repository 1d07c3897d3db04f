"""What has to be measured in a new process: fresh.py PROBE ARGUMENT...

Each probe prints what it measured as JSON.  numpy and sharena are imported by the probe: for
one of them that is what is measured.
"""

import ctypes
import json
import os
import sys
import time


def import_() -> dict[str, float]:
    import numpy

    start = time.perf_counter()
    import sharena

    ms = (time.perf_counter() - start) * 1e3
    assert sharena.empty(1).dtype == numpy.float64
    return {"ms": ms}


def attach(name: str) -> dict[str, float]:
    import sharena

    start = time.perf_counter()
    heap = sharena.Heap.attach(name)
    ms = (time.perf_counter() - start) * 1e3
    heap.close()
    return {"ms": ms}


def read(handle: str, path: str, memmap_first: str) -> dict[str, float]:
    """Receive and read, which of the two first alternates."""
    import numpy as np

    import sharena

    def ours() -> float:
        return float(sharena.attach(bytes.fromhex(handle)).sum())

    def memmap() -> float:
        return float(np.memmap(path, "f8", "r").sum())

    figures = {}
    order = {"sharena": ours, "memmap": memmap}
    for name in reversed(order) if memmap_first == "1" else order:
        start = time.thread_time()
        total = order[name]()
        figures[name] = (time.thread_time() - start) * 1e3
        assert total > 0
    return figures


def pickled(library: str, count: str) -> list[float]:
    """dumps+loads of a tuple of five ints where nobody has imported sharena, or of a handle."""
    from multiprocessing.reduction import ForkingPickler

    import measure

    thing: object = (1, 2, 3, 4, 5)
    if library == "sharena":
        import sharena

        thing = sharena.zeros(1000)
    names = {"x": thing, "dumps": ForkingPickler.dumps, "loads": ForkingPickler.loads}
    action = measure.loop("loads(dumps(x))", int(count), names)
    action()
    return [action() for _ in range(5)]


# ---- cold memory ----


def _keep_mapping_anew() -> None:
    """Glibc adapts to what is freed and would keep it warm; then it would not be cold."""
    threshold = -3  # M_MMAP_THRESHOLD
    ctypes.CDLL(None).mallopt(threshold, 128 << 10)


def cold(size: str, peer: str, count: str) -> list[list[float]]:
    """Allocate, fill, drop, each time in memory that is new to the process."""
    import large

    _keep_mapping_anew()
    return large.cold_rounds(int(size), peer, int(count))


# ---- many arrays ----


def _private_bytes() -> int:
    """Anonymous memory: pages of the heap are shared even while one process maps them."""
    with open("/proc/self/smaps_rollup") as file:
        for line in file:
            if line.startswith("Anonymous:"):
                return int(line.split()[1]) << 10
    raise RuntimeError("no Anonymous: in smaps_rollup")


def _count_mappings() -> int:
    with open("/proc/self/maps") as file:
        return sum(1 for _ in file)


def million(library: str, count: str) -> dict[str, float]:
    """Bytes, descriptors and mappings that each of many arrays costs."""
    import numpy as np

    import sharena

    module = sharena if library == "sharena" else np
    n = int(count)
    arrays = [None] * n
    arrays[:] = [module.empty(8) for _ in range(100)] + arrays[100:]
    heap = sharena.Heap.default()
    before = (
        _private_bytes(),
        heap.stats().committed_bytes,
        len(os.listdir("/proc/self/fd")),
        _count_mappings(),
    )
    for i in range(100, n):
        arrays[i] = module.empty(8)
        arrays[i].fill(1)
    after = (
        _private_bytes(),
        heap.stats().committed_bytes,
        len(os.listdir("/proc/self/fd")),
        _count_mappings(),
    )
    private, heap_bytes, descriptors, mappings = (
        b - a for a, b in zip(before, after, strict=True)
    )
    made = n - 100
    return {
        "private": private / made,
        "heap": heap_bytes / made,
        "descriptors": descriptors,
        "mappings": mappings,
        "data": 64 + 16,  # what malloc() takes for the data
    }


def fork(library: str, count: str) -> dict[str, float]:
    """From the call of fork() until the child runs and the parent goes on."""
    import numpy as np

    import sharena

    module = sharena if library == "sharena" else np
    arrays = [module.empty(8) for _ in range(int(count))]
    reader, writer = os.pipe()
    start = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.write(writer, b"x")
        os._exit(0)
    os.read(reader, 1)
    ms = (time.perf_counter() - start) * 1e3
    os.waitpid(child, 0)
    assert len(arrays) == int(count)
    return {"ms": ms}


PROBES = {
    "import": import_,
    "attach": attach,
    "read": read,
    "pickled": pickled,
    "cold": cold,
    "million": million,
    "fork": fork,
}

if __name__ == "__main__":
    json.dump(PROBES[sys.argv[1]](*sys.argv[2:]), sys.stdout)
