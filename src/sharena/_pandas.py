"""Lets pandas objects whose arrays were lost on the way arrive as one `Lost`.

The arrays inside a DataFrame, Series or Index are reduced one by one, so shared ones
travel as handles with no help from here.  But pandas uses them while it is unpickled, and
an array that arrives as a `Lost` raises there, in the receiving thread of a Pool, which
would then wait for ever.  So a pandas object with shared arrays is sent in two parts: its
arrays, which the surrounding pickler reduces as usual, and the pickle of the rest, with
numbers in place of the arrays.  The receiver puts them together only if none is lost.
"""

from __future__ import annotations

import functools
import io
import pickle
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from . import _core

__all__ = ["rebuild", "reducer", "types"]

Reducer = Callable[[Any], Any]


def types(pandas: ModuleType) -> frozenset[type]:
    """The public types of pandas that own arrays.

    Subclasses defined elsewhere are not found: picklers look reducers up by exact type.
    """
    owners = (pandas.DataFrame, pandas.Series, pandas.Index)
    extension = pandas.api.extensions.ExtensionArray
    named = [*vars(pandas).values(), *vars(pandas.arrays).values()]
    return frozenset(
        kind
        for kind in named
        if isinstance(kind, type) and issubclass(kind, (*owners, extension))
    )


def reducer(
    kinds: frozenset[type],
    pickler: Callable[[], type[pickle.Pickler]],
    earlier: Reducer | None,
) -> Reducer:
    """The reducer for all of `kinds`.

    `pickler` returns the class in use, by which the rest of the object is pickled too;
    objects without shared arrays are left to `earlier`, or to pandas.
    """

    def reduce(obj: Any) -> Any:
        skeleton, leaves = _split(obj, pickler(), kinds)
        if any(type(leaf) is np.ndarray and _core.is_shared(leaf) for leaf in leaves):
            return rebuild, (skeleton, leaves)
        if earlier is not None:
            return earlier(obj)
        return obj.__reduce_ex__(pickle.DEFAULT_PROTOCOL)

    return reduce


@functools.cache
def _skeleton_pickler(base: Any) -> Any:
    """A pickler like `base` that puts arrays into its list `leaves`."""

    class Skeleton(base):  # type: ignore[misc]
        def persistent_id(self, part: Any) -> int | None:
            if type(part) is not np.ndarray and not _is_arrow(part):
                return None
            number: int = self.numbers.setdefault(id(part), len(self.leaves))
            if number == len(self.leaves):
                self.leaves.append(part)
            return number

    return Skeleton


def _is_arrow(part: Any) -> bool:
    """Arrow's arrays stay out of the skeleton, so that none is pickled twice."""
    return type(part).__module__.startswith("pyarrow.")


def _split(obj: Any, base: Any, kinds: frozenset[type]) -> tuple[bytes, list[Any]]:
    """Pickle `obj` with a number for each array in it; return the pickle and the arrays."""
    file = io.BytesIO()
    pickler = _skeleton_pickler(base)(file)
    pickler.leaves = []
    pickler.numbers = {}
    for kind in kinds:  # pandas objects inside are taken apart as well
        pickler.dispatch_table.pop(kind, None)
    pickler.dump(obj)
    return file.getvalue(), pickler.leaves


class _Unpickler(pickle.Unpickler):
    def __init__(self, skeleton: bytes, leaves: list[Any]) -> None:
        super().__init__(io.BytesIO(skeleton))
        self._leaves = leaves

    def persistent_load(self, number: Any) -> Any:
        return self._leaves[number]


def rebuild(skeleton: bytes, leaves: list[Any]) -> Any:
    """The object again, or the first of its arrays that was lost."""
    for leaf in leaves:
        if isinstance(leaf, _core.Lost):
            return leaf
    return _Unpickler(skeleton, leaves).load()
