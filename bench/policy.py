"""Rows of memory policies: what NumPy allocates itself, in the heap and in private memory."""

import io
from collections.abc import Iterator

import measure
import numpy as np
from measure import Row, Settings, compare

import sharena

# What is made, how often `np.empty` and `a + b` in a loop, and the bar of both.
MADE = (
    ("64 B", 8, 20_000, 20_000, 1.2),
    ("800 B", 100, 20_000, 20_000, 1.2),
    ("8 KiB", 1024, 20_000, 10_000, 1.0),
    ("1 MiB", 131_072, 20_000, 200, 1.0),
)
TEXT = " ".join(map(str, range(20_000)))


def _inside(action):
    def run() -> float:
        with sharena.allocating():
            return action()

    return run


def policy(settings: Settings) -> Iterator[Row]:
    """Inside allocating(), beside the same statement outside."""
    measure.pin(0)
    names = {"empty": np.empty, "fromiter": np.fromiter, "loadtxt": np.loadtxt}
    names |= {"fromstring": np.fromstring, "StringIO": io.StringIO, "text": TEXT}

    def row(what: str, statement: str, number: int, bar: float, **more: object) -> Row:
        action = measure.loop(statement, settings.pick(number, 20), names | more)
        return compare(
            "policy",
            what,
            tuple(measure.rounds([_inside(action), action], settings.pick(21, 3))),
            "ns",
            bar=bar,
            versus="NumPy's own",
        )

    for size, n, empties, sums, bar in MADE:
        a = np.ones(n)
        yield row(f"np.empty, {size}", f"empty({n})", empties, bar)
        yield row(f"a + b, {size}", "a + b", sums, bar, a=a, b=a.copy())
    yield row("np.fromiter, 10^4 numbers", "fromiter(range(10_000), float)", 50, 1.5)
    yield row("np.fromstring, 2 * 10^4 numbers", "fromstring(text, sep=' ')", 20, 1.5)
    yield row("np.loadtxt, 2 * 10^4 numbers", "loadtxt(StringIO(text))", 5, 1.5)
    for n, m in ((100, 200), (10_000, 20_000), (200_000, 400_000)):
        yield row(
            f"resize, {8 * n} to {8 * m} bytes",
            f"a = empty({n}); a.resize({m}, refcheck=False)",
            settings.pick(200 if n > 1000 else 5000, 20),
            1.5,
        )
