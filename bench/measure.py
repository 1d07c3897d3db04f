"""Clocks, rounds that alternate, medians, programs in a fresh process."""

import gc
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

HERE = pathlib.Path(__file__).resolve().parent
CPUS = sorted(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Settings:
    """How much to measure: `quick` only shows that each row yields a number."""

    quick: bool

    def pick(self, full: int, quick: int) -> int:
        return quick if self.quick else full


@dataclass(frozen=True)
class Row:
    """One figure beside its peer's, and what was demanded of their ratio."""

    case: str
    what: str
    ours: float
    peer: float
    unit: str
    bar: float | None = None  # None: printed only
    goal: float | None = None
    at_least: bool = False  # the bar is a lower bound
    ratio: float = float("nan")
    versus: str = ""
    cause: str = ""  # measured: what keeps the ratio from its bar

    @property
    def holds(self) -> bool | None:
        """Whether the bar holds; None: there is none."""
        if self.bar is None:
            return None
        # As it is printed: to three digits.
        ratio = float(f"{self.ratio:.3g}")
        return ratio >= self.bar if self.at_least else ratio <= self.bar


def pin(nth: int) -> None:
    """Stay on the nth of the CPUs that this process had at its start."""
    os.sched_setaffinity(0, {CPUS[nth % len(CPUS)]})


def unpin() -> None:
    os.sched_setaffinity(0, CPUS)


def rounds(actions: Iterable[Callable[[], float]], count: int) -> list[list[float]]:
    """Call each action once a round, in turn; return the figures of each."""
    actions = list(actions)
    figures: list[list[float]] = [[] for _ in actions]
    for nth in range(count):
        order = range(len(actions))
        for i in order if nth % 2 == 0 else reversed(order):
            figures[i].append(actions[i]())
    return figures


def ratio(ours: list[float], peer: list[float]) -> float:
    """The median of the ratios of the rounds: what slows a round down slows both."""
    return statistics.median(a / b for a, b in zip(ours, peer, strict=True))


def compare(case: str, what: str, figures: tuple[list[float], list[float]], unit: str, **bars):
    """Make a row of the figures of ours and of the peer's."""
    ours, peer = figures
    faster = bars.pop("faster", False)
    value = ratio(peer, ours) if faster else ratio(ours, peer)
    return Row(
        case,
        what,
        statistics.median(ours),
        statistics.median(peer),
        unit,
        ratio=value,
        at_least=faster,
        **bars,
    )


def loop(statement: str, number: int, names: dict[str, object], scale: float = 1e9):
    """An action: the CPU time of one execution of the statement, in ns.

    Nothing but the statement is in the loop.  CPU time, because what other processes take
    of this CPU is nobody's doing here; the kernel's work for the statement counts.
    """
    source = (
        "def action(_repeat=[None] * number, _clock=clock):\n"
        "    _start = _clock()\n"
        "    for _ in _repeat:\n"
        f"        {statement}\n"
        "    return (_clock() - _start) / len(_repeat) * scale\n"
    )
    space = {**names, "number": number, "clock": time.thread_time, "scale": scale}
    exec(compile(source, f"<{statement}>", "exec"), space)
    action = space["action"]

    def collected() -> float:
        gc.collect()
        gc.disable()
        try:
            return action()
        finally:
            gc.enable()

    action()
    return collected


def fresh(probe: str, *arguments: object, **environment: str):
    """Run a function of fresh.py in a new interpreter; return what it measured.

    Its default heap is its own, unless it is given the name of another.
    """
    kept = {key: value for key, value in os.environ.items() if key != "SHARENA_HEAP"}
    done = subprocess.run(
        [sys.executable, str(HERE / "fresh.py"), probe, *map(str, arguments)],
        check=True,
        env={**kept, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout)
