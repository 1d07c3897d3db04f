"""`python -m sharena demo`: filter a stack of real images in place with several processes.

The same work is done by one process (the truth to compare with), by sharena, by pickling
the planes, and by `multiprocessing.shared_memory`; a table shows what each took.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from . import images, measure, ways
from .images import InputError
from .progress import Progress

__all__ = ["InputError", "run"]


def run(source: Path | None, workers: int, size: int, output: Path) -> int:
    """The whole demo; returns the exit status."""
    stack = images.load(source)
    print(
        f"{len(stack)} planes of {stack.shape[1]} x {stack.shape[2]} {stack.dtype}, "
        f"{stack.nbytes / 1e6:.1f} MB; median {size} x {size}; {workers} workers"
    )
    with tempfile.TemporaryDirectory(prefix="sharena-demo-") as folder:
        path = os.path.join(folder, "stack.npy")
        np.save(path, stack)
        expected = _single_process(stack, size, output)
        del stack
        rows = {name: _observe(name, path, workers, size) for name in ways.WAYS}
    _print_table(rows)
    return _verdict(rows, expected)


def _single_process(stack: ways.Stack, size: int, output: Path) -> list[str]:
    """Filters `stack` here; returns its digests and writes the picture."""
    middle = len(stack) // 2
    before = stack[middle].copy()
    progress = Progress("single process")
    start = time.perf_counter()
    for plane in progress.over(iter(stack), len(stack)):
        ways.in_place(plane, size)
    print(f"single process: {time.perf_counter() - start:.2f} s")
    picture = output / "sharena-demo.png"
    output.mkdir(parents=True, exist_ok=True)
    images.write_before_after(before, stack[middle], picture)
    print(f"before and after: {picture}")
    return ways.digests(stack)


def _observe(name: str, path: str, workers: int, size: int) -> dict[str, Any]:
    """Runs one way in a process of its own, with a heap of its own, and watches that."""
    environment = {k: v for k, v in os.environ.items() if k != "SHARENA_HEAP"}
    command = [sys.executable, "-m", "sharena.demo", name, path, str(workers), str(size)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as child:
        sampler = measure.Sampler(child.pid)
        sampler.start()
        out, _ = child.communicate()
        peak = sampler.stop()
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    row: dict[str, Any] = json.loads(out)
    row["peak"] = peak
    return row


def _print_table(rows: dict[str, dict[str, Any]]) -> None:
    print(f"\n{'':30}{'seconds':>10}{'bytes sent':>15}{'peak memory':>15}")
    for name, row in rows.items():
        print(f"{name:30}{row['seconds']:10.2f}{row['sent']:15,}{row['peak'] / 1e6:12.1f} MB")
    print("(peak memory: PSS of all processes, and committed pages that nobody maps)\n")


def _verdict(rows: dict[str, dict[str, Any]], expected: list[str]) -> int:
    """Compares each result with that of the single process."""
    wrong = 0
    for name, row in rows.items():
        pairs = zip(row["digests"], expected, strict=True)
        planes = [i for i, (found, right) in enumerate(pairs) if found != right]
        if planes:
            wrong += 1
            print(f"{name}: planes {planes} differ from the single process's")
    if not wrong:
        print("all results equal the single process's, bit for bit")
    return 1 if wrong else 0
