"""multiprocessing.shared_memory.SharedMemory, in a heap.

All blocks of a user lie in one named heap, which is joined with the first use; its name has the
memory format in it, so that programs with another sharena have another one.  A name there
leads to a weak handle, written down in an array: it can be loaded while some process has the
block open, and is stale afterwards.  So the names of the dead lead nowhere, whoever was
killed, and a block is freed with its last user.

Names are looked up and changed under one lock, which is robust; each change is one step, so
a killed holder leaves nothing to repair.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from . import _core

__all__ = ["SharedMemory"]

ENTRY = "/"  # what the names of entries start with in the heap
LONGEST = 62  # bytes of a name that an entry can have as it is
CROWDED = 512  # entries from which on those of the dead are thrown away
PATIENCE_S = 5
LOCK_BYTES = 16


class _Registry:
    """The names of a user's blocks."""

    def __init__(self) -> None:
        self.heap = _join(f"shm{_core._FORMAT}.{os.geteuid()}")
        memory = self.heap.setdefault("lock", np.zeros(LOCK_BYTES, "u1"))
        self._lock: Any = _core._lock_over(memory, 0)
        self._crowded = CROWDED

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Nobody else looks up or changes names meanwhile: it is never for long."""
        if not self._lock.acquire(timeout=PATIENCE_S):
            raise _core.HeapBusyError(
                "another process has been changing the names of shared memory for "
                f"{PATIENCE_S} seconds; is it stopped?"
            )
        try:
            yield
        finally:
            self._lock.release()

    def entry(self, key: str) -> bytes | None:
        """What the name leads to: a weak handle."""
        try:
            return self.heap[key].tobytes()
        except KeyError:
            return None

    def find(self, key: str) -> np.ndarray[Any, Any] | None:
        """The block, as bytes; None: nobody has it open.  Clear up after the dead before."""
        entry = self.entry(key)
        try:
            return None if entry is None else _core.attach(entry)
        except _core.StaleHandleError:
            return None

    def name(self, key: str, memory: np.ndarray[Any, Any]) -> None:
        if len(self.heap) >= self._crowded:
            self._forget_the_dead()
        self.heap[key] = np.frombuffer(_core._weak_handle(memory), "u1")

    def _forget_the_dead(self) -> None:
        """Not again before there are half as many more."""
        for key in self.heap.keys():  # noqa: SIM118 # it has no iterator of its own
            if key.startswith(ENTRY) and self.find(key) is None:
                del self.heap[key]
        self._crowded = max(CROWDED, len(self.heap) * 3 // 2)


def _join(name: str) -> _core.Heap:
    while True:
        try:
            return _core.Heap.attach(name)
        except _core.HeapNotFoundError:
            pass
        try:
            return _core.Heap.create(name, retain=0)
        except _core.HeapExistsError:  # another process, just now
            continue


_first = threading.Lock()
_registries: list[_Registry] = []  # none, or one


def _renew_lock() -> None:
    global _first  # noqa: PLW0603 # another thread of the parent may have had it
    _first = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def _registry() -> _Registry:
    if not _registries:
        with _first:
            if not _registries:
                _registries.append(_Registry())
    return _registries[0]


def _make_name() -> str:
    return f"/psm_{os.urandom(4).hex()}"  # as multiprocessing's, with its slash


def _key(name: str) -> str:
    """What a name is called in the heap."""
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, not {type(name).__name__}")
    plain = name.lstrip("/")  # as shm_open() takes them
    if not plain or "\0" in plain:
        raise ValueError(f"name must not be empty or hold a NUL, got {name!r}")
    coded = os.fsencode(plain)
    if len(coded) > LONGEST:
        import hashlib  # few names are so long

        return ENTRY + hashlib.sha256(coded).hexdigest()[:LONGEST]
    return ENTRY + plain


def _error(number: int, name: str) -> OSError:
    return OSError(number, os.strerror(number), name)


class SharedMemory:
    """`multiprocessing.shared_memory.SharedMemory` in a heap.

    Used as the original.  What differs: the memory goes with the last process that has it
    open, be it killed, and no resource tracker is needed for that; where there is no room,
    creating raises instead of a later SIGBUS; arrays over `buf` can be sent as handles.

    The name lives until `unlink` or until no process has the block open.  After that, the
    first `unlink` still succeeds.

    Parameters
    ----------
    name : str, optional
        Without one, which needs ``create=True``, a new one is made up.
    create : bool
        Make a block, rather than open one that exists.
    size : int
        In bytes, of a new block, which reads as zeros.
    track : bool
        Means nothing: there is nothing to track.

    Attributes
    ----------
    name : str
    size : int
        In bytes, exactly as it was asked for.
    buf : memoryview
        The memory; None after `close`.

    Raises
    ------
    ValueError
        A size that is not positive, or no name where one is needed.
    FileExistsError
        Some process has a block of that name open.
    FileNotFoundError
        No process has one open.
    HeapFullError
        No room; it is a MemoryError too.
    HeapBusyError
        Another process was stopped while it changed a name.
    TooManyNamesError, TooManyProcessesError
        More than a thousand blocks with names, or more than 60 processes with blocks.
    """

    _name: str | None = None
    _block: Any = None
    _buf: memoryview | None = None
    _entry: bytes | None = None  # what the name led to
    _flags = os.O_RDWR
    _track = True

    def __init__(
        self, name: str | None = None, create: bool = False, size: int = 0, *, track: bool = True
    ) -> None:
        if not size >= 0:
            raise ValueError(f"'size' must be a positive integer, got {size}")
        if create:
            self._flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
            if size == 0:
                raise ValueError("'size' must be a positive number different from zero")
        if name is None and not self._flags & os.O_EXCL:
            raise ValueError("'name' can only be None if create=True")
        self._track = track
        if name is None:
            memory = self._open_new(size)
        else:
            self._name = f"/{name}" if isinstance(name, str) else name
            memory = self._open(self._name, size)
        self._size = memory.size
        self._block = _core._block_of(memory)
        del memory
        self._unused = self._references()
        self._buf = memoryview(self._block)[: self._size]

    def _open_new(self, size: int) -> np.ndarray[Any, Any]:
        while True:
            name = _make_name()
            try:
                memory = self._open(name, size)
            except FileExistsError:
                continue
            self._name = name
            return memory

    def _open(self, name: str, size: int) -> np.ndarray[Any, Any]:
        key, registry = _key(name), _registry()
        registry.heap._clear_dead()
        new = None  # made before: zeroing it takes its time
        if self._flags & os.O_CREAT:
            new = _core.zeros(size, "u1", heap=registry.heap)
        with registry.changing():
            memory = registry.find(key)
            if memory is None and new is not None:
                registry.name(key, new)
                memory = new
            elif memory is None:
                raise _error(errno.ENOENT, name)
            elif self._flags & os.O_EXCL:
                del memory, new  # else the traceback would have them open
                raise _error(errno.EEXIST, name)
            self._entry = registry.entry(key)
            return memory

    def __reduce__(self) -> tuple[Any, ...]:
        return self.__class__, (self.name, False, self.size)

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.name!r}, size={self.size})"

    @property
    def buf(self) -> memoryview | None:
        """The memory, until `close`."""
        return self._buf

    @property
    def name(self) -> str:
        """What another process opens it by."""
        name = self._name or ""
        return name[1:] if name.startswith("/") else name

    @property
    def size(self) -> int:
        """In bytes."""
        return self._size

    def close(self) -> None:
        """Give up the memory here; doing so twice does no harm.

        Raises
        ------
        BufferError
            Something in this process still uses `buf`, an array for example.
        """
        if self._buf is not None:
            self._buf.release()
            self._buf = None
        if self._block is not None and self._references() > self._unused:
            raise BufferError("cannot close: an array or a memoryview still uses the memory")
        self._block = None

    def _references(self) -> int:
        """Memoryviews and arrays refer to the block, however they came from `buf`."""
        return sys.getrefcount(self._block)

    def unlink(self) -> None:
        """Take the name away; who has the block open keeps it.

        Raises
        ------
        FileNotFoundError
            The name was taken away already.
        """
        if not self._name:
            return
        registry = _registry()
        key = _key(self._name)
        with registry.changing():
            entry = registry.entry(key)
            if entry is None:
                raise _error(errno.ENOENT, self._name)
            if entry == self._entry:  # else it is the name of another block by now
                del registry.heap[key]
