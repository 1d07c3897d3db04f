"""Runs a function right after some other library has been imported.

sharena registers its reducers with libraries that it must not import itself (which takes
longer than sharena does) and that may be imported before or after it.  A finder at the head of
`sys.meta_path` recognises the few names it waits for, lets the finders behind it find the
module, and appends the function to what its loader does.  It answers `None` for every
other name and leaves `sys.meta_path` when nothing is waited for.
"""

from __future__ import annotations

import importlib
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

Callback = Callable[[ModuleType], None]

_lock = threading.Lock()
_waiting: dict[str, Callback] = {}
_asking = threading.local()  # other hooks ask all finders as well: ends the ping-pong


def when_imported(name: str, callback: Callback) -> None:
    """Call `callback(module)` now if the module is imported, else once it has been."""
    with _lock:
        _waiting[name] = callback
        if _finder not in sys.meta_path:
            sys.meta_path.insert(0, _finder)
    module = sys.modules.get(name)
    if module is None:
        return
    if getattr(module.__spec__, "_initializing", False):
        # Another thread is importing it, and passed our finder before it was there.  The
        # import system waits for that thread, or gives up where the two would wait for
        # each other.
        module = importlib.import_module(name)
    _run(name, module)


def _run(name: str, module: ModuleType) -> None:
    """Run the callback waiting for `name`, if nobody has; never fail the import."""
    with _lock:
        callback = _waiting.pop(name, None)
        if not _waiting and _finder in sys.meta_path:
            sys.meta_path.remove(_finder)
    if callback is None:
        return
    try:
        callback(module)
    except Exception as error:
        warnings.warn(
            f"sharena could not register its reducers with {name}, whose arrays will "
            f"travel by value: {error!r}",
            RuntimeWarning,
            stacklevel=3,
        )


class _Finder:
    """Finds nothing itself; hooks the loader that another finder returns."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname not in _waiting or getattr(_asking, "name", None) == fullname:
            return None
        _asking.name = fullname
        try:
            spec = self._ask_the_others(fullname, path, target)
        finally:
            del _asking.name
        if spec is not None:
            _hook(spec)
        return spec

    def _ask_the_others(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            find_spec = getattr(finder, "find_spec", None)
            if finder is self or find_spec is None:
                continue
            spec: ModuleSpec | None = find_spec(fullname, path, target)
            if spec is not None:
                return spec
        return None


def _hook(spec: ModuleSpec) -> None:
    """Make the spec's loader call `_run` after the module's own code.

    The loader object keeps its type (others test for it); one attribute of this instance
    shadows its method for one call.  A loader without instance attributes is left alone.
    """
    loader = spec.loader
    original = getattr(loader, "exec_module", None)
    if loader is None or original is None:
        return

    def exec_module(module: ModuleType) -> None:
        if module.__spec__ is not spec:  # a loader that several modules share
            original(module)
            return
        vars(loader).pop("exec_module", None)
        original(module)
        _run(spec.name, module)

    try:
        loader.exec_module = exec_module  # type: ignore[method-assign]
    except AttributeError:
        return


_finder = _Finder()
