"""NumPy's own subclasses of `ndarray`, sent by handle as what they are.

Each travels as a small reduction that holds plain arrays, which the pickler then reduces by
themselves: a matrix, a recarray or a chararray its elements, a masked array its data and its
mask.  What is sent by value is sent as NumPy pickles it.

Picklers look reducers up by exact type, so classes derived from these, as any other subclass
of `ndarray`, are left to their own `__reduce_ex__`: nobody else knows what belongs to them.
Neither `numpy.ma` nor the module of chararray is imported here, which takes long; who has
such an array has imported them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from . import _core
from ._imports import when_imported

__all__ = ["install", "rebuild_masked", "rebuild_view"]

Reducer = Callable[..., Any]

PROTOCOL = 4  # as in reduce.c; NumPy pickles its subclasses alike in all later ones
CORE = "numpy.core" if int(np.__version__.partition(".")[0]) < 2 else "numpy._core"
# Where the classes are made: they are found there without a warning, also where their
# public names are deprecated.
VIEWS = {
    "matrix": "numpy.matrixlib.defmatrix",
    "recarray": f"{CORE}.records",
    "chararray": f"{CORE}.defchararray",
}
MASKED = "numpy.ma.core"


def install(register: Callable[[type, Reducer], None]) -> None:
    """Call `register` for each class, now or once its module is imported."""

    def add(kind: type, reducer: Reducer) -> None:
        register(kind, reducer)
        _core.subclasses.add(kind)  # what is_shared() is True for

    def add_view(name: str) -> Callable[[ModuleType], None]:
        return lambda module: add(vars(module)[name], reduce_view)

    for name, place in VIEWS.items():
        when_imported(place, add_view(name))
    when_imported(MASKED, lambda module: add(module.MaskedArray, reduce_masked))


def _by_value(a: Any, fallback: Reducer | None) -> Any:
    return a.__reduce_ex__(PROTOCOL) if fallback is None else fallback(a)


def _plain(a: Any) -> np.ndarray[Any, Any]:
    view: np.ndarray[Any, Any] = np.ndarray.view(a, np.ndarray)  # past overrides of view()
    return view


def reduce_view(a: Any, fallback: Reducer | None = None) -> Any:
    """The reducer for classes that add nothing to the elements."""
    plain = _plain(a)
    if not _core.by_handle(plain):
        return _by_value(a, fallback)
    return rebuild_view, (type(a).__name__, plain)


def rebuild_view(name: str, array: Any) -> Any:
    """The array as what it was, or the `Lost` that arrived in its place."""
    if isinstance(array, _core.Lost):
        return array
    return array.view(getattr(importlib.import_module(VIEWS[name]), name))


def reduce_masked(a: Any, fallback: Reducer | None = None) -> Any:
    """The reducer for masked arrays: data and mask each as it would travel by itself."""
    data, mask = _plain(a), a._mask
    masked = isinstance(mask, np.ndarray)  # and not nomask
    if not _core.by_handle(data) and not (masked and _core.by_handle(mask)):
        return _by_value(a, fallback)
    fill = a._fill_value  # None, or an array of no dimensions
    more = {
        "hard_mask": a._hardmask,
        "fill_value": fill if fill is None else fill[()],
        "_sharedmask": a._sharedmask,
    }
    if a._baseclass is not np.ndarray:
        more["_baseclass"] = a._baseclass
    return rebuild_masked, (data, mask if masked else None, more)


def rebuild_masked(data: Any, mask: Any, more: dict[str, Any]) -> Any:
    """The masked array, or the first of its parts that was lost."""
    for part in (data, mask):
        if isinstance(part, _core.Lost):
            return part
    from numpy import ma

    array: Any = ma.MaskedArray(
        data,
        mask=ma.nomask if mask is None else mask,
        keep_mask=mask is None,  # structured data has got one already
        hard_mask=more.pop("hard_mask"),
        fill_value=more.pop("fill_value"),
    )
    vars(array).update(more)
    return array
