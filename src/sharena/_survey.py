"""Finds the heaps of this user, attached to or not.

A named heap is a file in /dev/shm; an unnamed one is a memfd that exists only as long as
some process has it open, so it is looked for among the descriptors of all processes.
Looking changes nothing: a heap is opened for reading, and only to learn its uuid.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path("/dev/shm")
PREFIX = "sharena."
MEMFD = re.compile(r"/memfd:sharena:([0-9a-f]{8}) \(deleted\)")
NAMED = re.compile(rf"{FOLDER}/{re.escape(PREFIX)}([A-Za-z0-9._-]+)")

FileId = tuple[int, int]  # device and inode


# Where the superblock keeps the uuid (struct super_shm): never moved in any format.
UUID_AT, UUID_BYTES = 96, 16


@dataclass
class Backing:
    """The file behind a heap, and who has it open."""

    name: str | None
    uuid: str  # all of it, or the 8 digits of a memfd's name when it can't be read
    committed_bytes: int
    openers: dict[int, int] = field(default_factory=dict)  # pid → a descriptor

    @property
    def title(self) -> str:
        return self.name or self.uuid

    def answers_to(self, text: str) -> bool:
        """Whether a user who types `text` means this heap."""
        return text == self.name or (len(text) >= 8 and self.uuid.startswith(text.lower()))


@dataclass(frozen=True)
class Process:
    """What /proc tells about a process that is alive."""

    state: str  # one letter, as in ps
    parent: int

    @property
    def stopped(self) -> bool:
        return self.state in "Tt"

    def orphaned(self, holders: Collection[int]) -> bool:
        """Left behind by a parent that is gone.

        In a container a program may be process 1 itself, and its workers no orphans: then
        it is among those that hold the heap.
        """
        return self.parent == 1 and 1 not in holders


def backings() -> list[Backing]:
    """All heaps of this user, named ones first."""
    found: dict[FileId, Backing] = {}
    for path in sorted(FOLDER.glob(PREFIX + "*")):
        with contextlib.suppress(OSError):
            _note(found, path, path.name.removeprefix(PREFIX), "")
    for pid in _my_processes():
        with contextlib.suppress(OSError):
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    _look_at(found, pid, int(descriptor))
    return list(found.values())


def _look_at(found: dict[FileId, Backing], pid: int, descriptor: int) -> None:
    path = Path(f"/proc/{pid}/fd/{descriptor}")
    target = os.readlink(path)
    if (match := MEMFD.fullmatch(target)) is not None:
        _note(found, path, None, match[1]).openers[pid] = descriptor
    elif (match := NAMED.fullmatch(target)) is not None:
        _note(found, path, match[1], "").openers[pid] = descriptor


def _note(found: dict[FileId, Backing], path: Path, name: str | None, uuid: str) -> Backing:
    status = path.stat()
    key = status.st_dev, status.st_ino
    if key not in found:
        if status.st_uid != os.geteuid():
            raise PermissionError(path)
        if status.st_size > UUID_AT + UUID_BYTES:
            uuid = _uuid(path) or uuid
        found[key] = Backing(name, uuid, status.st_blocks * 512)
    return found[key]


def _uuid(path: Path) -> str:
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return os.pread(descriptor, UUID_BYTES, UUID_AT).hex()
        finally:
            os.close(descriptor)
    return ""


def _my_processes() -> list[int]:
    """Processes of this user, but for this one."""
    mine = []
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{entry}").st_uid == os.geteuid():
                    mine.append(int(entry))
    return sorted(mine)


def file_of(name: str) -> Path:
    """The file of the heap of that name."""
    return FOLDER / (PREFIX + name)


def process(pid: int) -> Process | None:
    """The process's state and parent, or None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, parent = text.rpartition(")")[2].split()[:2]
    return Process(state, int(parent))
