"""Loads a message once more, with a `Lost` in the place of whatever fails.

Imported by `_core.loads` when an array of the message was lost.  The opcodes that run
somebody's code (a constructor, `__setstate__`, the `append` or `__setitem__` of a container,
a hash) are pickle's own, but an exception in one leaves a `Lost` on the stack, with the error
of the array that was lost last before.  So the innermost object that needs the array is
replaced, and what contains it is whole.  Errors of the stream itself, and of looking up a
class, are raised.

An object can fail after others have got references to it: it is in pickle's memo before
`__setstate__` runs.  Each later reference through the memo becomes the same `Lost`.  Only
what refers to the object from within it, in a cycle, and survives it, keeps what there is.

pandas puts many objects together without a look at the arrays.  A frame with an array missing
answers some questions and raises at others, so here it fails at once.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

from ._core import Lost, latest_lost
from ._core import loads as load_message

__all__ = ["hides", "loads"]

_Stock: Any = pickle._Unpickler  # the one of pickle.py, not of C
_Load = Callable[[Any], None]

# An executor raises the exception that a worker sent, and tests whether there is one, in a
# thread of its own.  A Lost can do neither; the error that it holds can.
_REBUILD_ERROR = ("rebuild_exc", "_rebuild_exc")


def loads(data: Any, /, *, buffers: Any = (), **options: Any) -> Any:
    """`pickle.loads` in which an object that fails becomes a `Lost`."""
    return _Unpickler(io.BytesIO(data), buffers=buffers, **options).load()


def hides(data: Any) -> bool:
    """Whether the message, though it was loaded, may hold an object that had to fail."""
    return b"pandas" in bytes(data)  # the names of what it calls stand in it


def _lost() -> Lost:
    """In an `except` clause: a `Lost`; without one to blame the exception goes on."""
    latest = latest_lost()
    if latest is None:
        raise  # noqa: PLE0704 # the caller's
    return Lost(latest.error)


def _of_pandas(x: Any) -> bool:
    """Whether it is a function or a class of pandas, or a class derived from one."""
    kinds = x.__mro__ if isinstance(x, type) else (x,)
    modules = (getattr(kind, "__module__", None) for kind in kinds)
    return any(isinstance(name, str) and name.startswith("pandas.") for name in modules)


def _holds_lost(x: Any, depth: int = 4) -> bool:
    """Whether there is a `Lost` in the nested containers that pandas pickles."""
    if type(x) is dict:
        x = x.values()
    elif type(x) not in (tuple, list):
        return type(x) is Lost
    return depth > 0 and any(_holds_lost(item, depth - 1) for item in x)


def _refuse_lost(user: Any, parts: Any) -> None:
    if _of_pandas(user) and _holds_lost(parts):
        raise ValueError("pandas would hide that an array was lost")


def _making(load: _Load, operands: int) -> _Load:
    """An opcode that puts one new object in the place of its operands; -1: of a mark."""

    def load_made(self: Any) -> None:
        outer = self.metastack[-1] if operands < 0 else self.stack
        height = len(outer) - max(operands, 0)
        if height < 0:
            raise IndexError("pop from empty list")
        try:
            load(self)
        except Exception:
            self.stack[height:] = [_lost()]

    return load_made


def _filling(load: _Load, operands: int) -> _Load:
    """An opcode that hands its operands to the object below them; -1: those of a mark."""

    def load_filled(self: Any) -> None:
        target = self.metastack[-1][-1] if operands < 0 else self.stack[-1 - operands]
        if type(target) is Lost:
            if operands < 0:
                self.pop_mark()
            else:
                del self.stack[-operands:]
            return
        try:
            load(self)
        except Exception:
            self.replace(target, _lost())

    return load_filled


def _remembering(load: _Load) -> _Load:
    """An opcode that fetches an object from the memo."""

    def load_remembered(self: Any) -> None:
        load(self)
        value = self.stack[-1]
        if id(value) in self.replaced:
            self.stack[-1] = self.replaced[id(value)][1]

    return load_remembered


def _call(function: Any, arguments: Any) -> Any:
    """What REDUCE does, with what is known of some functions."""
    if function is pickle.loads:  # a message in the message: lose no more than there
        function = load_message
    elif (
        getattr(function, "__name__", None) in _REBUILD_ERROR
        and type(arguments) is tuple
        and arguments
        and type(arguments[0]) is Lost
    ):
        error = arguments[0].error
        arguments = (type(error)(*error.args), *arguments[1:])
    _refuse_lost(function, arguments)
    return function(*arguments)


def _load_reduce(self: Any) -> None:
    arguments = self.stack.pop()
    self.stack[-1] = _call(self.stack[-1], arguments)


def _load_build(self: Any) -> None:
    state, instance = self.stack[-1], self.stack[-2]
    try:
        _refuse_lost(type(instance), state)
    except ValueError:
        self.stack.pop()
        raise
    _Stock.load_build(self)


class _Unpickler(_Stock):  # type: ignore[misc]
    dispatch: ClassVar[dict[int, _Load]] = dict(_Stock.dispatch)

    def __init__(self, file: io.BytesIO, **options: Any) -> None:
        super().__init__(file, **options)
        # What failed, so that no other object gets its id, and what stands for it.
        self.replaced: dict[int, tuple[Any, Lost]] = {}

    def replace(self, failed: Any, lost: Lost) -> None:
        """Put `lost` in the place of the topmost object, and of what the memo has of it."""
        self.stack[-1] = lost
        self.replaced[id(failed)] = (failed, lost)

    def _instantiate(self, kind: Any, arguments: Any) -> None:
        try:
            super()._instantiate(kind, arguments)
        except Exception:
            self.append(_lost())


_OWN: dict[bytes, _Load] = {pickle.REDUCE: _load_reduce, pickle.BUILD: _load_build}


def _wrap(wrap: Callable[..., _Load], operands: dict[bytes, int]) -> None:
    for code, count in operands.items():
        load = _OWN.get(code, _Stock.dispatch[code[0]])
        _Unpickler.dispatch[code[0]] = wrap(load, count)


_wrap(
    _making,
    {
        pickle.REDUCE: 2,
        pickle.NEWOBJ: 2,
        pickle.NEWOBJ_EX: 3,
        pickle.DICT: -1,
        pickle.FROZENSET: -1,
    },
)
_wrap(
    _filling,
    {
        pickle.BUILD: 1,
        pickle.APPEND: 1,
        pickle.SETITEM: 2,
        pickle.APPENDS: -1,
        pickle.SETITEMS: -1,
        pickle.ADDITEMS: -1,
    },
)
for _code in (pickle.GET, pickle.BINGET, pickle.LONG_BINGET):
    _Unpickler.dispatch[_code[0]] = _remembering(_Stock.dispatch[_code[0]])
