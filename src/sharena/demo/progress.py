"""A progress bar of one line, on standard error, where that is a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

WIDTH = 30  # of the bar, in characters


class Progress:
    """Shows how many results have come, how fast, and how long the others will take.

    It counts what it wrote itself.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.written = 0
        self._shown = sys.stderr.isatty()
        self._start = time.perf_counter()

    def over(self, results: Iterable[T], total: int) -> Iterator[T]:
        """Pass the results on, one step of the bar for each."""
        self._start = time.perf_counter()
        for done, result in enumerate(results, 1):
            yield result
            self._draw(done, total)

    def follow(self, results: Iterable[object], total: int) -> None:
        """Wait for results that nobody wants to see."""
        for _ in self.over(results, total):
            pass

    def _draw(self, done: int, total: int) -> None:
        if not self._shown:
            return
        filled = WIDTH * done // total
        rate = done / max(time.perf_counter() - self._start, 1e-9)
        left = f"{(total - done) / rate:5.1f} s left" if done < total else "done"
        end = "\n" if done == total else ""
        bar = f"[{'#' * filled:{WIDTH}}]"
        line = f"\r{self.title:30}{bar} {done}/{total} {rate:6.1f}/s {left:12}{end}"
        sys.stderr.write(line)
        sys.stderr.flush()
        self.written += len(line)
