"""Rows of whole processes: a million arrays, import, attach, fork."""

import statistics
from collections.abc import Iterator

import measure
from measure import Row, Settings, fresh

import sharena


def million(settings: Settings) -> Iterator[Row]:
    """Very many small arrays."""
    count = settings.pick(1_000_000, 10_000)
    ours, peer = fresh("million", "sharena", count), fresh("million", "numpy", count)
    what = f"{count:,} arrays of 64 B"
    yield _limit("million", f"{what}: heap, each", ours["heap"], 110, "B")
    yield Row(
        "million",
        f"{what}: private, each, beyond NumPy's",
        ours["private"],
        peer["private"] - peer["data"],
        "B",
        ratio=ours["private"] - (peer["private"] - peer["data"]),
        bar=64,
        versus="NumPy's own without the data",
    )
    yield _limit("million", f"{what}: descriptors more", ours["descriptors"], 0, "")
    # Private tables of Python, glibc and sharena grow by mappings too; NumPy's do as well.
    yield Row(
        "million",
        f"{what}: mappings more than NumPy's",
        ours["mappings"],
        peer["mappings"],
        "",
        ratio=max(0, ours["mappings"] - peer["mappings"]),
        bar=0,
        versus="NumPy's",
    )


def _limit(case: str, what: str, value: float, bar: float, unit: str, *, peer: float = 0):
    """A row whose bar is an amount, not a ratio."""
    return Row(case, what, value, peer, unit, ratio=value - peer, bar=bar, versus="nothing")


def _median(probe: str, *arguments: object, count: int) -> float:
    return statistics.median(fresh(probe, *arguments)["ms"] for _ in range(count))


def start(settings: Settings) -> Iterator[Row]:
    """Beginnings of processes."""
    measure.pin(0)
    count = settings.pick(11, 2)
    yield _limit("start", "import sharena after numpy", _median("import", count=count), 30, "ms")
    name = "bench-attach"
    heap = sharena.Heap.create(name)
    try:
        attach = _median("attach", name, count=count)
    finally:
        heap.unlink()
    yield _limit("start", "attach to a heap", attach, 1, "ms")
    blocks = settings.pick(1_000_000, 10_000)
    count = settings.pick(3, 1)
    ours, peer = [], []
    for _ in range(count):
        ours.append(fresh("fork", "sharena", blocks)["ms"])
        peer.append(fresh("fork", "numpy", blocks)["ms"])
    row = _limit(
        "start",
        f"fork with {blocks:,} blocks, more than NumPy's",
        statistics.median(ours),
        20,
        "ms",
        peer=statistics.median(peer),
    )
    yield row
