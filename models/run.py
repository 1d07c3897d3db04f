#!/usr/bin/env python3
"""Run the models: every case of cases.txt is one complete search by spin.

    run.py                all cases (an hour and a half, one at a time, at most 7 GB)
    run.py --quick        those marked quick (two minutes, two at a time)
    run.py NAME...        the cases of these models, or these cases
    run.py --trail CASE   the shortest way to the fault that a case finds
    run.py --list         the cases

An `ok` case passes when the search is complete and finds no fault; a `caught`
case (a mutant: one rule of the design dropped) when a fault is found.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
MEMORY_MB = 7000
DEPTH = 400_000
LIMIT_S = 1800
# Partial-order reduction can't be had with `provided`; states are stored hash-compacted.
COMPILE = ["-w", "-DSAFETY", "-DNOREDUCE", "-DHC4", "-DVECTORSZ=2048", f"-DMEMLIM={MEMORY_MB}"]


class Case(NamedTuple):
    model: str
    label: str
    quick: bool
    caught: bool
    flags: list[str]

    @property
    def name(self) -> str:
        return f"{self.model}/{self.label}"


class Result(NamedTuple):
    fault: str
    complete: bool
    states: str
    seconds: float


def read_cases() -> list[Case]:
    """Rows of cases.txt.

    `MODEL:` opens a model; `WHEN ok LABEL FLAG...`; `WHEN caught MUTANT... : FLAG...`.
    """
    cases: list[Case] = []
    model = ""
    for line in (HERE / "cases.txt").read_text().splitlines():
        words = line.split("#")[0].split()
        if not words:
            continue
        if words[0].endswith(":"):
            model = words[0][:-1]
            continue
        quick = {"quick": True, "full": False}[words[0]]
        caught = {"caught": True, "ok": False}[words[1]]
        if caught:
            split = words.index(":")
            mutants, flags = words[2:split], words[split + 1 :]
            # A+B drops two rules at once; a label in parentheses tells cases of one mutant apart.
            for mutant in mutants:
                dropped = [f"M_{m}" for m in mutant.split("(")[0].split("+")]
                cases.append(Case(model, mutant, quick, True, flags + dropped))
        else:
            cases.append(Case(model, words[2], quick, False, words[3:]))
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), sorted(n for n in names if names.count(n) > 1)
    return cases


def missing_mutants(cases: list[Case]) -> list[str]:
    """Mutants that a model has and no case drops."""
    tried = {(c.model, flag) for c in cases if c.caught for flag in c.flags}
    return [
        f"{path.stem}: {mutant}"
        for path in sorted(HERE.glob("*.pml"))
        for mutant in sorted(set(re.findall(r"\bM_[A-Z0-9]+", path.read_text())))
        if (path.stem, mutant) not in tried
    ]


def search(case: Case, folder: Path, *options: str) -> Result:
    """Build and run the verifier of a case in a folder of its own."""
    flags = [f"-D{flag}" for flag in case.flags]
    model = HERE / f"{case.model}.pml"
    spin = ["spin", "-a", *flags, model]
    subprocess.run(spin, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    optimize = "-O0" if case.quick else "-O2"  # compiling is most of a quick case
    compiler = ["gcc", optimize, *COMPILE, *options, "-o", "pan", "pan.c"]
    subprocess.run(compiler, cwd=folder, check=True)
    start = time.monotonic()
    verifier = ["timeout", str(LIMIT_S), "./pan", "-E", f"-m{DEPTH}"]
    # it says by its exit status whether it found a fault, which may be what is wanted
    out = subprocess.run(
        verifier, cwd=folder, text=True, stdout=subprocess.PIPE, check=False
    ).stdout
    seconds = time.monotonic() - start
    fault = re.search(r"pan:\d+: (assertion violated.*) \(at depth", out)
    states = re.search(r"([\d.e+]+) states, stored", out)
    cut_short = re.search(r"not completed|too small|MEMLIM|out of memory", out)
    complete = "errors: 0" in out and not cut_short
    return Result(fault[1] if fault else "", complete, states[1] if states else "?", seconds)


def search_apart(case: Case) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        return search(case, Path(folder))


def run(cases: list[Case], jobs: int) -> int:
    failed = 0
    pool = ThreadPoolExecutor(jobs)
    for case, result in zip(cases, pool.map(search_apart, cases), strict=True):
        good = bool(result.fault) if case.caught else result.complete
        failed += not good
        found = "no fault" if result.complete else "search not complete"
        found = "fault found" if result.fault else found
        mark = "ok    " if good else "FAILED"
        size = f"{float(result.states):12,.0f} states {result.seconds:7.1f} s"
        print(f"{mark} {case.name:42} {found:12} {size}", flush=True)
    print(f"{len(cases) - failed} passed, {failed} failed")
    return 1 if failed else 0


def trail(case: Case) -> int:
    with tempfile.TemporaryDirectory() as folder:
        result = search(case, Path(folder), "-DBFS")
        if not result.fault:
            print(f"{case.name}: no fault found")
            return 1
        flags = [f"-D{flag}" for flag in case.flags]
        pan_trail = next(Path(folder).glob("*.trail"))
        replay = ["spin", "-t", "-p", "-k", pan_trail, *flags, HERE / f"{case.model}.pml"]
        out = subprocess.run(
            replay, cwd=folder, text=True, stdout=subprocess.PIPE, check=True
        ).stdout
    print(f"{case.name}: {result.fault}")
    pattern = r"^ *\d+:\s+proc +(\d+) \((\w+):\d+\) \S+:(\d+) \(state \d+\)\s+\[(.*)\]$"
    for step in re.findall(pattern, out, re.M):
        proc, kind, line, statement = step
        if kind != ":init:" and not re.match(r"\.?\(?goto|assert|\(1\)", statement):
            print(f"{kind + ' ' + proc:14} {line:>4}  {statement}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="model, or MODEL/CASE")
    parser.add_argument("--quick", action="store_true", help="only the cases marked quick")
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="cases at a time (default: 2 with --quick, else 1)"
    )
    parser.add_argument("--list", action="store_true", help="print the cases and stop")
    parser.add_argument(
        "--trail", metavar="CASE", help="print the shortest way to the fault of MODEL/CASE"
    )
    args = parser.parse_args()
    cases = read_cases()
    if missing := missing_mutants(cases):
        print("mutants without a case:", *missing, sep="\n    ")
        return 2
    wanted = [*args.names, *([args.trail] if args.trail else [])]
    if unknown := [n for n in wanted if not any(n in (c.model, c.name) for c in cases)]:
        parser.error(f"no such model or case: {', '.join(unknown)}")
    if args.trail:
        return trail(next(c for c in cases if c.name == args.trail))
    names = set(args.names)
    cases = [
        c
        for c in cases
        if (c.quick or not args.quick) and (not names or {c.model, c.name} & names)
    ]
    if args.list:
        for c in cases:
            when, wanted_result = (
                ("quick" if c.quick else "full"),
                ("caught" if c.caught else "ok"),
            )
            print(f"{c.name:42} {when:5} {wanted_result:6} {' '.join(c.flags)}")
        return 0
    return run(cases, args.jobs or (2 if args.quick else 1))


if __name__ == "__main__":
    sys.exit(main())
