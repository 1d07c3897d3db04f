"""Makes the picklers that talk to other processes send handles, and bear what is lost.

`multiprocessing` (and `concurrent.futures` above it) pickles with `ForkingPickler`, loky
with a pickler of its own; each has a table of reducers by exact type.  The reducers for
`numpy.ndarray` and NumPy's own subclasses of it are put into both.  A reducer that somebody
registered earlier is asked about everything that we do not send by handle.  Both libraries
load with `ForkingPickler.loads`, for which `_core.loads` is put, unless somebody has done so
with another function.
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
from typing import Any

import numpy as np

from . import _core, _subclasses, _transit
from ._imports import when_imported

__all__ = ["install", "register"]

Reducer = Callable[[Any], Any]

LOKY = ("loky.backend.", "joblib.externals.loky.backend.")

_tables: list[dict[type, Reducer]] = []
_reducers: dict[type, Callable[..., Any]] = {
    np.ndarray: _core.reduce_array,
    _core.Block: _core.reduce_block,
}


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
    when_imported("multiprocessing.connection", _transit.hook_connection)
    when_imported("multiprocessing.queues", _transit.hook_queues)
    when_imported("multiprocessing.popen_spawn_posix", _transit.hook_launcher)
    when_imported("multiprocessing.popen_forkserver", _transit.hook_launcher)
    for package in LOKY:
        when_imported(package + "reduction", _add_loky)
        when_imported(package + "queues", _transit.hook_loky_queues)
        when_imported(package + "popen_loky_posix", _transit.hook_launcher)
    _subclasses.install(register)


def _open(table: dict[type, Reducer]) -> None:
    _tables.append(table)
    for kind, reducer in _reducers.items():
        _put(table, kind, reducer)


def _put(table: dict[type, Reducer], kind: type, reducer: Callable[..., Any]) -> None:
    earlier = table.get(kind)
    table[kind] = reducer if earlier is None else functools.partial(reducer, fallback=earlier)


def register(kind: type, reducer: Callable[..., Any]) -> None:
    """For a class that has come to be known: in all tables, and in those to come."""
    _reducers[kind] = reducer
    for table in _tables:
        _put(table, kind, reducer)


def _add_multiprocessing(module: ModuleType) -> None:
    forking = module.ForkingPickler
    _open(forking._extra_reducers)
    _transit.hook_pickler(module)
    if forking.loads is pickle.loads:
        forking.loads = staticmethod(_core.loads)


def _add_loky(module: ModuleType) -> None:
    _open(module._dispatch_table)
    _transit.hook_loky_reduction(module)
