"""A heap at its limit: short_full.py CASE.  What it is full of is in the message."""

import os
import re
import select
import sys
import time

from short_room import MIB, refused, says

import sharena

LIMIT = 64 * MIB
TABLES = 5 * MIB  # of names, of tickets, of sites, at most


def size_after(words, text):
    """The bytes of a size such as "62.5 MiB", which has four digits."""
    number, unit = re.search(re.escape(words) + r"([\d.]+) (bytes|KiB|MiB|GiB)", text).groups()
    return float(number) * 1024 ** ("bytes", "KiB", "MiB", "GiB").index(unit)


def case_live_arrays():
    heap = sharena.Heap.create(limit=LIMIT)
    arrays = [sharena.ones(10 * MIB, "u1", heap=heap) for _ in range(6)]
    text = refused(10 * MIB, heap, "is full: 10 MiB asked for", "limit of 64 MiB", "drop arrays")
    assert "(0 bytes are held only by handles" in text, text
    used = size_after("it uses ", text)
    assert 60 * MIB <= used <= LIMIT
    text = refused(100 * MIB, heap, "100 MiB asked for", "is 64 MiB", "larger limit")
    small = []
    try:
        while True:
            small.append(sharena.ones(100, "u1", heap=heap))
    except sharena.HeapFullError as error:
        says(str(error), "is full", "drop arrays")
    assert len(small) >= 10_000
    del arrays[0]
    assert sharena.ones(9 * MIB, "u1", heap=heap).all()
    assert not heap.check()


def case_tickets():
    heap = sharena.Heap.create(limit=LIMIT)
    handles = [sharena.handle(sharena.ones(10 * MIB, "u1", heap=heap)) for _ in range(6)]
    refused(
        10 * MIB,
        heap,
        "is full",
        "(60 MiB are held only by handles in flight)",
        "receive or expire handles",
    )
    assert sharena.attach(handles.pop()).all()  # received, as the message says
    assert sharena.ones(10 * MIB, "u1", heap=heap).all()
    assert heap.expire_tickets() == 5  # expired
    assert sharena.ones(60 * MIB, "u1", heap=heap).all()


def case_small_tickets():
    heap = sharena.Heap.create(limit="16MiB")
    handles = []
    try:
        while True:
            handles.append(sharena.handle(sharena.ones(1000, "u1", heap=heap)))
    except sharena.HeapFullError as error:
        held = size_after("metadata (", str(error))
    assert len(handles) * 1024 == heap.stats().inflight_bytes
    assert abs(held / heap.stats().inflight_bytes - 1) < 1e-3
    assert len(handles) > 8000
    assert all((sharena.attach(handle) == 1).all() for handle in handles)
    assert sharena.ones(8 * MIB, "u1", heap=heap).all()


def case_retained():
    """Retained memory is no reason to fail, for no other size."""
    heap = sharena.Heap.create(limit=LIMIT, retain=LIMIT)
    for size in (6 * MIB, 60 * MIB, 100, 3000, 100_000, 45 * MIB, 20_000, 1 * MIB):
        count = 40 * MIB // size or 1
        arrays = [sharena.ones(size, "u1", heap=heap) for _ in range(count)]
        assert all(a.all() for a in arrays[:: max(1, count // 100)])
        del arrays
    assert heap.stats().retained_bytes > 20 * MIB
    assert heap.stats().live_bytes == 0
    assert not heap.check()


# ---- the budget decays ---------------------------------------------------------------------


def descriptor(heap):
    mark = f"memfd:sharena:{heap.uuid[:8]}"
    for number in os.listdir("/proc/self/fd"):
        path = f"/proc/self/fd/{number}"
        if os.path.lexists(path) and mark in os.readlink(path):
            return int(number)
    raise AssertionError(f"no descriptor of {mark}")


def kept(heap):
    """(data, metadata) that the heap keeps, by stats; the file system must agree."""
    stats = heap.stats()
    blocks = os.fstat(descriptor(heap)).st_blocks * 512
    assert abs(blocks - stats.committed_bytes) <= 256 * 1024, (blocks, stats)
    return stats.committed_bytes - stats.metadata_bytes, stats.metadata_bytes


def quiet_seconds(heap, sizes):
    """Ten of them are what is asked for: a pause, and not a wait for something.

    Returns how often the calls were made, each time a decay's tenth of a second after the last.
    """
    end, passes = time.monotonic() + 10, 0
    while time.monotonic() < end:
        for size in sizes:
            sharena.attach(sharena.handle(sharena.ones(size, "u1", heap=heap)))
        select.select([], [], [], 0.1)
        passes += 1
    return passes


def case_decay(peak, size, *calls):
    peak, size = int(peak), int(size)
    heap = sharena.Heap.create(limit=2 * peak)
    budget = heap.stats().retain_bytes
    arrays = [sharena.empty(size, "u1", heap=heap) for _ in range(peak // size)]
    assert kept(heap)[0] >= peak
    del arrays
    assert kept(heap)[0] <= budget + 20 * MIB  # what a lane keeps of empty slabs
    passes = quiet_seconds(heap, [int(call) for call in calls])
    data, metadata = kept(heap)
    assert data <= budget, (data, budget)
    if any(int(call) > 64 * 1024 for call in calls):
        # 8 MiB each, down to an eighth of the budget; a busy machine passes less often, and a
        # coarse clock takes some passes, one in ten at most, for less than a tenth of a second
        left = max(budget // 4, budget - passes * 9 // 10 * 8 * MIB)
        assert data <= left, (data, left, budget, passes)
    heap.trim()
    data, metadata = kept(heap)
    print(f"peak {peak >> 20} MiB of {size} B: {metadata / peak:.1%} of metadata stays")
    assert data == 0, data
    assert metadata <= 0.26 * peak + TABLES


if __name__ == "__main__":
    case, *arguments = sys.argv[1:]
    globals()[f"case_{case}"](*arguments)
