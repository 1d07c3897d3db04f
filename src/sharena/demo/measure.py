"""How much memory a family of processes really uses, seen from outside.

Adding up resident sizes counts a shared page once for each process.  The kernel's
proportional set size (PSS) divides each page by the number of processes that map it, so
its sum over all of them counts every mapped page once.  What that sum misses are pages of
a shared file that were committed and that nobody has mapped yet, or any more.

So the two kinds of memory are taken apart.  Of a file in shared memory, `st_blocks` counts
every page, those that somebody maps (the sum of its mappings' PSS) and the others; of
everything else the PSS is added up.  The result is the sum of all PSS and the committed
pages that nobody maps, without the error of reading processes one after the other while
they map more of the same file.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterable
from pathlib import Path

PERIOD_S = 0.05
BLOCK_BYTES = 512  # the unit of st_blocks, whatever the file system
# Files in shared memory: sharena's own heap and those of multiprocessing.shared_memory.
SHARED = ("/memfd:sharena:", "/dev/shm/")
# 7f12c9a00000-7f12d9a00000 rw-s 00000000 00:01 2049       /memfd:sharena:1f0c (deleted)
MAPPING = re.compile(rb"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ *(.*)")


def bytes_written(pids: Iterable[int]) -> int:
    """All that the processes ever wrote to pipes, sockets and files."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/io").read_text().splitlines():
            if line.startswith("wchar:"):
                total += int(line.split()[1])
    return total


def family(pid: int) -> list[int]:
    """The process and all its descendants that are alive."""
    found = [pid]
    for member in found:  # grows while it is read
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{member}/task"):
                children = Path(f"/proc/{member}/task/{task}/children").read_text()
                found.extend(int(child) for child in children.split())
    return found


def memory(pid: int) -> int:
    """Bytes that the family of `pid` uses now: PSS and committed pages nobody maps."""
    private = 0
    committed: dict[int, int] = {}  # bytes of each shared file, by inode
    for member in family(pid):
        with contextlib.suppress(OSError):  # it has just ended
            private += _private(Path(f"/proc/{member}/smaps").read_bytes())
            _add_files(member, committed)
    return private + sum(committed.values())


def _private(smaps: bytes) -> int:
    """The PSS of one process but for its mappings of shared files."""
    total = 0
    counts = True
    for line in smaps.splitlines():
        if line.startswith(b"Pss:"):
            total += int(line.split()[1]) * 1024 if counts else 0
        elif (mapping := MAPPING.fullmatch(line)) is not None:
            counts = not mapping[1].decode(errors="replace").startswith(SHARED)
    return total


def _add_files(pid: int, committed: dict[int, int]) -> None:
    """Notes the size of every shared file that the process has open."""
    for descriptor in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(descriptor.path).startswith(SHARED):
                status = os.stat(descriptor.path)
                committed[status.st_ino] = status.st_blocks * BLOCK_BYTES


class Sampler(threading.Thread):
    """Looks at a process and its descendants until told to stop; keeps the peak."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._pid = pid
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(PERIOD_S):
            self.peak = max(self.peak, memory(self._pid))

    def stop(self) -> int:
        """The peak, in bytes."""
        self._stopped.set()
        self.join()
        return self.peak
