"""Hooks into the ways in which multiprocessing sends messages.

A handle on its way keeps its array, so the heap must know when nobody can receive it any
more: the pickling failed, the send failed, the channel is closed, the child is gone.  The
picklers and connections of `multiprocessing` are told to say so: methods of their classes
are replaced, never the classes.  `_core` does the work; this module knows the names.

What these methods do to messages without shared arrays is what they did before, to the byte.
"""

from __future__ import annotations

import copyreg
import functools
import pickle
import sys
from collections.abc import Callable
from types import CodeType, FrameType, ModuleType
from typing import Any

from . import _core

__all__ = [
    "hook_connection",
    "hook_launcher",
    "hook_loky_queues",
    "hook_loky_reduction",
    "hook_pickler",
    "hook_queues",
]

# Code that pickles a message, sends it and drops the bytes: by id, for hashing a code object
# takes longer than pickling a handle.  The value finds the connection among its variables.
_keepers: dict[int, Callable[[dict[str, Any]], Any]] = {}
_passers: set[int] = set()  # code that only calls `dumps` for a keeper
_loaders: set[int] = set()  # code that takes a message as bytes and loads it
_codes: list[CodeType] = []  # keeps the ids above unique
_NO_METHOD = object()  # is no function, and not the None in _stock either


def _keeper(function: Any, connection_of: Callable[[dict[str, Any]], Any]) -> None:
    _codes.append(function.__code__)
    _keepers[id(function.__code__)] = connection_of
    _tell_keepers()


def _passer(function: Any) -> None:
    _codes.append(function.__code__)
    _passers.add(id(function.__code__))
    _tell_keepers()


def _tell_keepers() -> None:
    asked = tuple(c for c in _codes if id(c) in _keepers or id(c) in _passers)
    _core._set_keepers(asked, _keeps_bytes)


def _loader(function: Any) -> None:
    _codes.append(function.__code__)
    _loaders.add(id(function.__code__))


def _keeps_bytes(frame: FrameType | None) -> bool:
    """Whether the code that asked for a pickle sends it through a `Connection`, and no more.

    Only then is the message in one place: on its way through that connection.
    """
    while frame is not None and id(frame.f_code) in _passers:
        frame = frame.f_back
    if frame is None:
        return False
    connection_of = _keepers.get(id(frame.f_code))
    if connection_of is None:
        return False
    variables = frame.f_locals
    connection = connection_of(variables)
    if isinstance(variables, dict):
        # Before CPython 3.13 these are copies, kept with the frame: a feeder, which waits for
        # the next message in that frame, would hold the arrays of this one.
        variables.clear()
    return all(_called(connection, name) is method for name, method in _stock.items())


def _called(connection: Any, name: str) -> Any:
    """The function behind a method, which subclasses and instances may have replaced."""
    return getattr(getattr(connection, name, None), "__func__", _NO_METHOD)


# ---- multiprocessing ----


def hook_pickler(reduction: ModuleType) -> None:
    forking = reduction.ForkingPickler
    _core._own_pickling(
        forking,
        forking.__base__,
        forking._extra_reducers,
        copyreg.dispatch_table,
        pickle.DEFAULT_PROTOCOL,
    )
    forking.dumps = classmethod(_core.dumps)
    forking.dump = _dump


def _dump(self: Any, obj: Any) -> None:
    """Write a pickle of `obj` to the file of this pickler."""
    try:
        _core._dump(self, obj)
    finally:
        del self  # no traceback is to hold a pickler: older ones hide what they hold from gc


def hook_connection(module: ModuleType) -> None:
    global _original_send_bytes  # noqa: PLW0603 # once, when it is imported
    connection, base = module.Connection, module._ConnectionBase
    _original_send_bytes = connection._send_bytes
    theirs = (connection._send, connection._send_bytes, connection.send_bytes)
    # Whoever replaced one before us must see every message: then no connection keeps to this.
    untouched = all(getattr(method, "__globals__", None) is vars(module) for method in theirs)
    _stock.update(
        _send_bytes=_send_bytes,
        _send=connection._send if untouched else None,
        send_bytes=connection.send_bytes,
    )
    connection._send_bytes = _send_bytes
    base.recv_bytes = _raw(base.recv_bytes)
    base.recv_bytes_into = _raw_into(base.recv_bytes_into)
    _keeper(base.send, lambda variables: variables["self"])


_original_send_bytes: Any = None
_stock: dict[str, Any] = {"_send": None}  # methods by which a message reaches _send_bytes()


def _send_bytes(self: Any, buf: Any) -> None:
    if not _core._send_message(self._handle, buf):
        _original_send_bytes(self, buf)


def _raw(original: Callable[..., bytes]) -> Callable[..., bytes]:
    """`recv_bytes`, whose caller may forward the message, or load it when the pipe is gone."""

    @functools.wraps(original)
    def recv_bytes(self: Any, maxlength: int | None = None) -> bytes:
        data = original(self, maxlength)
        if id(sys._getframe(1).f_code) not in _loaders:
            _core._keep_handles(data)
        return data

    return recv_bytes


def _raw_into(original: Callable[..., int]) -> Callable[..., int]:
    @functools.wraps(original)
    def recv_bytes_into(self: Any, buf: Any, offset: int = 0) -> int:
        try:
            size = original(self, buf, offset)
        except Exception as error:  # BufferTooShort carries the message
            if error.args and isinstance(error.args[0], bytes):
                _core._keep_handles(error.args[0])
            raise
        with memoryview(buf) as view, view.cast("B") as flat:
            start = offset // view.itemsize * view.itemsize
            _core._keep_handles(flat[start : start + size])
        return size

    return recv_bytes_into


def hook_queues(module: ModuleType) -> None:
    for queue in (module.Queue, module.SimpleQueue):
        _loader(queue.get)
    _hook_feeders(module)


def _hook_feeders(module: ModuleType) -> None:
    """The code of a queues module that puts: multiprocessing's, or one shaped like it."""
    feed = module.Queue.__dict__.get("_feed")
    if isinstance(feed, staticmethod):
        _keeper(feed.__func__, lambda v: getattr(v.get("send_bytes"), "__self__", None))
    if "put" in vars(module.SimpleQueue):
        _keeper(module.SimpleQueue.put, lambda v: getattr(v.get("self"), "_writer", None))


def hook_launcher(module: ModuleType) -> None:
    """A module whose `Popen` pickles the arguments of the process that it starts."""
    original = module.Popen._launch

    @functools.wraps(original)
    def _launch(self: Any, process_obj: Any) -> Any:
        return _core._launch(original, self, process_obj)

    module.Popen._launch = _launch


# ---- loky ----


def hook_loky_reduction(module: Any) -> None:
    original = module.dump

    @functools.wraps(module.dumps)
    def dumps(obj: Any, reducers: Any = None, protocol: int | None = None) -> memoryview:
        def make(file: Any) -> Any:
            return module._LokyPickler(file, reducers=reducers, protocol=protocol)

        # What None means to cloudpickle, and to pickle.
        by_cloudpickle = module.get_loky_pickler_name() == "cloudpickle"
        default = 5 if by_cloudpickle else pickle.DEFAULT_PROTOCOL
        return _core._dumps_with(make, obj, default if protocol is None else protocol)

    @functools.wraps(original)
    def dump(obj: Any, file: Any, reducers: Any = None, protocol: int | None = None) -> None:
        pickler = module._LokyPickler(file, reducers=reducers, protocol=protocol)
        _core._dump(pickler, obj, type(pickler).dump)

    _passer(dumps)
    module.dumps = dumps
    module.dump = dump


def hook_loky_queues(module: Any) -> None:
    module.dumps = sys.modules[module.__name__.rpartition(".")[0] + ".reduction"].dumps
    _hook_feeders(module)
