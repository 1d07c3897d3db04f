"""Makes the picklers that talk to other processes send handles.

`multiprocessing` (and `concurrent.futures` above it) pickles with `ForkingPickler`, loky
with a pickler of its own; each has a table of reducers by exact type.  The reducer for
`numpy.ndarray` is put into both, and those for pandas once pandas is there.  A reducer
that somebody registered earlier is asked about everything that we do not send by handle.
None of these libraries is imported here, `multiprocessing` neither, which takes longer than
the rest of sharena: the reducers are there when the library is.
"""

from __future__ import annotations

import functools
import importlib
import pickle
import sys
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from . import _core, _pandas
from ._imports import when_imported

__all__ = ["install"]

Reducer = Callable[[Any], Any]

LOKY = ("loky.backend.reduction", "joblib.externals.loky.backend.reduction")


class Channel(NamedTuple):
    """One library's way of pickling for other processes."""

    table: dict[type, Reducer]
    pickler: Callable[[], type[pickle.Pickler]]


_channels: list[Channel] = []
_pandas_types: frozenset[type] = frozenset()  # empty until pandas is imported


def install() -> None:
    """Register with what is imported, and wait for what is not: once in a process.

    A package that is imported again, after somebody took it out of `sys.modules`, goes on
    with the modules of the first import: `_core` brings them back before they are asked for.
    """
    if __name__ in _core._loaded:
        return
    prefix = f"{__package__}."
    _core._loaded.update(
        (name, module)
        for name, module in sys.modules.items()
        if name.startswith(prefix) and module is not _core
    )
    if not isinstance(getattr(pickle.__spec__, "loader", None), SourceFileLoader):
        # The standard library is frozen, and such loaders may refuse to be waited for.
        importlib.import_module("multiprocessing.reduction")
    when_imported("multiprocessing.reduction", _add_multiprocessing)
    for name in LOKY:
        when_imported(name, _add_loky)
    when_imported("pandas", _add_pandas)


def _open(channel: Channel) -> None:
    _channels.append(channel)
    earlier = channel.table.get(np.ndarray)
    channel.table[np.ndarray] = (
        _core.reduce_array
        if earlier is None
        else functools.partial(_core.reduce_array, fallback=earlier)
    )
    _register_pandas(channel)


def _add_multiprocessing(module: ModuleType) -> None:
    forking = module.ForkingPickler
    _open(Channel(forking._extra_reducers, lambda: forking))


def _add_loky(module: ModuleType) -> None:
    _open(Channel(module._dispatch_table, module.get_loky_pickler))


def _add_pandas(module: ModuleType) -> None:
    global _pandas_types  # noqa: PLW0603 # set once, when pandas is imported
    _pandas_types = _pandas.types(module)
    for channel in _channels:
        _register_pandas(channel)


def _register_pandas(channel: Channel) -> None:
    for kind in _pandas_types:
        earlier = channel.table.get(kind)
        channel.table[kind] = _pandas.reducer(_pandas_types, channel.pickler, earlier)
