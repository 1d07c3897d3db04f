"""Holds a sparse heap of 1 TiB: short_sparse.py NAME.

Says "ready PID" when it is there, with one process that died holding a block; then a line of
its standard input is an order: what it did with the file's committed bytes comes back.
"""

import os
import random
import signal
import sys

import sharena

HANDLES = 3000  # one that names another heap is looked for everywhere


def committed(heap):
    return os.stat(f"/dev/shm/sharena.{heap.name}").st_blocks * 512


def die_holding(heap):
    pid = os.fork()
    if pid == 0:
        held = sharena.ones(100_000, heap=heap)
        os.kill(os.getpid(), signal.SIGKILL)
        del held
    os.waitpid(pid, 0)


def random_handles(heap, good):
    """Real ones with some bytes changed, and noise."""
    chance = random.Random(1)
    errors = 0
    for _ in range(HANDLES):
        data = bytearray(good)
        for _ in range(chance.randrange(1, 9)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            sharena.attach(bytes(data))
        except (sharena.SharenaError, ValueError, TypeError):
            errors += 1
    assert errors > HANDLES // 2, errors


def main(name):
    heap = sharena.Heap.create(name, limit="1GiB", reserve="1TiB")
    kept = sharena.ones(1000, heap=heap)
    good = sharena.handle(kept, uses=16)
    die_holding(heap)
    orders = {
        "check": heap.check,
        "handles": lambda: random_handles(heap, good),
        "stats": heap.stats,
        "blocks": heap.blocks,
        "tickets": heap.tickets,
        "processes": heap.processes,
        "names": lambda: list(heap),
        "reap": heap.reap,
        "committed": lambda: None,
    }
    print("ready", os.getpid(), flush=True)
    for line in sys.stdin:
        before = committed(heap)
        orders[line.strip()]()
        print(before, committed(heap), flush=True)
    heap.unlink(force=True)


if __name__ == "__main__":
    main(sys.argv[1])
