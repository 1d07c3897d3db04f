"""Rows of the C library: blocks, lifetimes, scaling, remote release, latency, growing."""

from collections.abc import Iterator

import native
from measure import Row, Settings, compare

SMALL = (16, 32, 64, 96, 128, 192, 256)
LARGE = (512, 1024, 2048, 4096, 8192, 16384, 32768)


def _worst(what: str, rows: list[Row], bar: float, goal: float) -> Row:
    """A range of sizes is held to its bar where it is worst."""
    worst = max(rows, key=lambda row: row.ratio)
    return Row(
        "blocks",
        f"allocate+release, {what}",
        worst.ours,
        worst.peer,
        worst.unit,
        ratio=worst.ratio,
        bar=bar,
        goal=goal,
        versus=f"mimalloc; the worst size, {worst.what.strip()}",
    )


def blocks(settings: Settings) -> Iterator[Row]:
    """Batches of 500 blocks."""
    rounds, pairs = settings.pick(7, 3), settings.pick(100_000, 10_000)
    cases = native.figures("batch", rounds, pairs, processes=settings.pick(7, 1))
    rows = {
        size: compare("blocks", f"  {size} B", cases[str(size)], "ns", versus="mimalloc")
        for size in SMALL + LARGE
    }
    for what, sizes, bar in (("16 to 256 B", SMALL, 1.2), ("512 B to 32 KiB", LARGE, 1.0)):
        some = [rows[size] for size in sizes]
        yield _worst(what, some, bar, 0.8)
        yield from some
    yield compare(
        "blocks", "  two calls that do nothing", cases["calls"], "ns", versus="mimalloc, 64 B"
    )
    yield compare(
        "blocks",
        "allocate+release, mix of 16 B to 32 KiB",
        cases["mix"],
        "ns",
        bar=1.0,
        goal=0.8,
        versus="mimalloc",
    )


def lifetimes(settings: Settings) -> Iterator[Row]:
    """Random lifetimes."""
    plan = ((10_000, 1.4, 9, 200_000), (1_000_000, 1.0, 5, 500_000))
    for full, bar, rounds, steps in plan:
        live = settings.pick(full, full // 100)
        cases = native.figures(
            "lifetimes",
            live,
            settings.pick(rounds, 3),
            settings.pick(steps, 10_000),
            processes=settings.pick(3, 1),
        )
        yield compare(
            "lifetimes",
            f"random lifetimes, {live:,} live",
            cases[str(live)],
            "ns",
            bar=bar,
            goal=0.8,
            versus="mimalloc",
        )


def scaling(settings: Settings) -> Iterator[Row]:
    """From one process to two."""
    cases = native.figures("scaling", settings.pick(21, 3), settings.pick(1_000_000, 20_000))
    row = compare("scaling", "", cases["scaling"], "x")
    yield Row(
        "scaling",
        "1 to 2 processes, throughput kept",
        row.ours,
        row.peer,
        "",
        ratio=row.ratio,
        bar=0.95,
        goal=1.0,
        at_least=True,
        versus="mimalloc in two processes",
    )


def remote(settings: Settings) -> Iterator[Row]:
    """Release by another process."""
    cases = native.figures("remote", settings.pick(21, 3), settings.pick(40, 4))
    yield compare(
        "remote",
        "release by another process",
        cases["release"],
        "ns",
        bar=2.0,
        goal=1.0,
        versus="mimalloc, by another thread",
    )
    yield compare("remote", "  allocation by the producer", cases["allocate"], "ns")
    yield compare("remote", "  all that both do, with handles", cases["all"], "ns")


def latency(settings: Settings) -> Iterator[Row]:
    """Percentiles of single calls."""
    cases = native.figures("latency", settings.pick(1_000_000, 50_000))
    for case, (ours, peer) in cases.items():
        if peer == [0]:
            yield Row("latency", case, ours[0], float("nan"), "ns")
        else:
            yield compare("latency", case, (ours, peer), "ns", versus="mimalloc")


def grow(settings: Settings) -> Iterator[Row]:
    """An array that grows."""
    limit = settings.pick(1024, 16)
    cases = native.figures("grow", limit, settings.pick(5, 2))
    for case, what in (("first", "in a new heap"), ("again", "in warm memory")):
        yield compare(
            "grow",
            f"growing by 1.5x up to {limit} MiB, {what}",
            cases[case],
            "ms",
            bar=1.5,
            versus="glibc's realloc",
        )
