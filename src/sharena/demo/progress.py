"""A progress bar of one line, on standard error, where that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

WIDTH = 30  # of the bar, in characters


class Progress:
    """Shows how many results have come; counts what it wrote itself."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.written = 0
        self._shown = sys.stderr.isatty()

    def over(self, results: Iterable[T], total: int) -> Iterator[T]:
        """Pass the results on, one step of the bar for each."""
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
        end = "\n" if done == total else ""
        line = f"\r{self.title:30}[{'#' * filled:{WIDTH}}] {done}/{total}{end}"
        sys.stderr.write(line)
        sys.stderr.flush()
        self.written += len(line)
