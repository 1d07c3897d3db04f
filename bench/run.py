#!/usr/bin/env python3
"""Measure sharena against its peers: bench/run.py [CASE] [--quick] [--strict] [--json FILE].

Prints a line for each row of the table of performance bars: the figures of sharena and of
its peer in this very run, their ratio, the bar and the goal; at the end how many bars hold.
With --strict it exits with 1 when one does not and no cause was measured.  --markdown prints
the README's table instead.
docs/performance.md says what each row means.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import sys
from collections.abc import Callable, Iterator

import blocks
import create
import fragmentation
import handover
import large
import policy
import process
import scalability
from measure import Row, Settings, unpin

CASES: dict[str, Callable[[Settings], Iterator[Row]]] = {
    "blocks": blocks.blocks,
    "lifetimes": blocks.lifetimes,
    "scaling": blocks.scaling,
    "remote": blocks.remote,
    "latency": blocks.latency,
    "create": create.create,
    "middle": create.middle,
    "fill": create.fill,
    "peers": create.peers,
    "policy": policy.policy,
    "warm": large.warm,
    "cold": large.cold,
    "pipe": handover.pipe,
    "pickle": handover.pickled,
    "message": handover.message,
    "read": handover.read,
    "scalability": scalability.scalability,
    "million": process.million,
    "grow": blocks.grow,
    "fragmentation": fragmentation.fragmentation,
    "start": process.start,
}

HEADINGS = f"{'':52}{'sharena':>10} {'peer':>10}    {'ratio':>6}  {'bar':>6} {'goal':>5}"


def number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def bound(row: Row) -> str:
    return "" if row.bar is None else ("≥ " if row.at_least else "≤ ") + number(row.bar)


def line(row: Row) -> str:
    verdict = {None: "", True: "holds", False: "cause" if row.cause else "NO"}[row.holds]
    return (
        f"{row.what:52}{number(row.ours):>10} {number(row.peer):>10} {row.unit:2} "
        f"{number(row.ratio):>6}  {bound(row):>6} {number(row.goal) if row.goal else '':>5}  "
        f"{verdict:5}  {row.versus}"
    ).rstrip()


def measure_all(cases: list[str], settings: Settings) -> list[Row]:
    rows = []
    print(HEADINGS)
    for case in cases:
        print(f"{case}: {CASES[case].__doc__}")
        for row in CASES[case](settings):
            rows.append(row)
            print(line(row), flush=True)
        unpin()
    return rows


def as_json(row: Row) -> dict[str, object]:
    """The row's fields; what does not exist (a peer that can't) is null."""
    fields = {**dataclasses.asdict(row), "holds": row.holds}
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in fields.items()
    }


def summary(rows: list[Row]) -> str:
    barred = [row for row in rows if row.bar is not None]
    failed = [row for row in barred if not row.holds]
    text = f"{len(barred) - len(failed)} of {len(barred)} bars hold"
    for row in failed:
        text += (
            f"\n  {row.case}: {row.what.strip()} ({row.versus}): {number(row.ratio)}, "
            f"{bound(row)}"
        )
        text += f"; cause: {row.cause}" if row.cause else ""
    return text


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", help=f"one case: {', '.join(CASES)}")
    parser.add_argument("--case", help="the same")
    parser.add_argument(
        "--quick", action="store_true", help="few and small: only shows that it runs"
    )
    parser.add_argument(
        "--strict", action="store_true", help="exit with 1 when a bar does not hold"
    )
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the rows too")
    parser.add_argument(
        "--markdown", action="store_true", help="print the README's table instead"
    )
    arguments = parser.parse_args()
    arguments.case = arguments.case or arguments.name
    if arguments.case is not None and arguments.case not in CASES:
        parser.error(f"no case {arguments.case!r}; there are {', '.join(CASES)}")
    return arguments


def main() -> int:
    arguments = parse()
    settings = Settings(arguments.quick)
    if arguments.markdown:
        import table

        print(table.markdown(settings))
        return 0
    rows = measure_all([arguments.case] if arguments.case else list(CASES), settings)
    print(summary(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps([as_json(row) for row in rows], indent=1) + "\n")
    missed = any(row.holds is False and not row.cause for row in rows)
    return 1 if arguments.strict and missed else 0


if __name__ == "__main__":
    sys.exit(main())
