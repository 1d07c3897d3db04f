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

from . import images, measure, picture, ways
from .images import InputError
from .progress import Progress

__all__ = ["InputError", "run"]


def run(source: Path | None, workers: int, size: int, output: Path) -> int:
    """The whole demo; returns the exit status."""
    stack = images.load(source)
    work = (
        f"{len(stack)} planes of {stack.shape[1]} x {stack.shape[2]} {stack.dtype}, "
        f"{stack.nbytes / 1e6:.1f} MB; median {size} x {size}; {workers} workers"
    )
    print(work)
    noise = "" if source else f" ({images.BAD:.0%} of its pixels made black or white)"
    if noise:
        print(f"each plane is of a photograph{noise}")
    with tempfile.TemporaryDirectory(prefix="sharena-demo-") as folder:
        path = os.path.join(folder, "stack.npy")
        np.save(path, stack)
        before = f"plane {len(stack) // 2}{noise}"
        planes, expected = _single_process(stack, size, before)
        del stack
        rows = {name: _observe(name, path, workers, size) for name in ways.WAYS}
    _print_table(rows)
    wrong = _verdict(rows, expected)
    output.mkdir(parents=True, exist_ok=True)
    picture.write(output / "sharena-demo.png", planes, _charts(rows), work)
    print(f"before, after and what it took: {output / 'sharena-demo.png'}")
    return 1 if wrong else 0


def _single_process(
    stack: ways.Stack, size: int, label: str
) -> tuple[dict[str, ways.Stack], list[str]]:
    """Filters `stack` here; returns a plane before and after, and the digests of all."""
    middle = len(stack) // 2
    before = stack[middle].copy()
    progress = Progress("single process")
    start = time.perf_counter()
    for plane in progress.over(iter(stack), len(stack)):
        ways.in_place(plane, size)
    print(f"single process: {time.perf_counter() - start:.2f} s")
    planes = {
        label: before,
        f"after a median of {size} x {size}": stack[middle].copy(),
    }
    return planes, ways.digests(stack)


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


def _charts(rows: dict[str, dict[str, Any]]) -> list[picture.Chart]:
    """The rows of the table; of memory, what the work took and not what idle workers have."""
    values = {
        ("seconds", ".2f"): {name: row["seconds"] for name, row in rows.items()},
        ("MB sent between processes", ".2f"): {n: row["sent"] / 1e6 for n, row in rows.items()},
        ("MB of memory beyond idle workers", ".0f"): {
            name: (row["peak"] - row["idle"]) / 1e6 for name, row in rows.items()
        },
    }
    return [picture.Chart(title, figures, form) for (title, form), figures in values.items()]


def _print_table(rows: dict[str, dict[str, Any]]) -> None:
    print(f"\n{'':30}{'seconds':>10}{'bytes sent':>15}{'peak memory':>15}{'beyond idle':>15}")
    for name, row in rows.items():
        peak, beyond = row["peak"] / 1e6, (row["peak"] - row["idle"]) / 1e6
        print(f"{name:30}{row['seconds']:10.2f}{row['sent']:15,}{peak:12.1f} MB{beyond:12.1f} MB")
    print("(memory: PSS of all processes, and committed pages that nobody maps; beyond what the")
    print("started workers had before the work)\n")


def _verdict(rows: dict[str, dict[str, Any]], expected: list[str]) -> int:
    """Compares each result with that of the single process; how many ways differ."""
    wrong = 0
    for name, row in rows.items():
        pairs = zip(row["digests"], expected, strict=True)
        planes = [i for i, (found, right) in enumerate(pairs) if found != right]
        if planes:
            wrong += 1
            print(f"{name}: planes {planes} differ from the single process's")
    if not wrong:
        print("all results equal the single process's, bit for bit")
    return wrong
