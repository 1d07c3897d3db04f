"""Every constructor against the installed NumPy's: programs for test_numpy_answers.py.

Each call is made twice, with NumPy's function and with ours, and the two answers are
compared: value, dtype, shape, strides and flags, or the type of the exception, and the
warnings.  Where sharena differs on purpose numpy_differences.py says so and why.

`numpy_answers.py` makes all calls; it fails when an answer differs otherwise, when a
difference of the list never came up, or when there were too few calls.
"""

import itertools
import json
import os
import signal
import sys
import traceback
import warnings

import numpy as np
import numpy_differences as differences
import numpy_inputs as inputs
from numpy_inputs import UNSET

import sharena

CALLS = 50_000
BATCH = 250 if inputs.LOSES_ERRORS else 10_000  # see in_child()
FLAGS = ("C_CONTIGUOUS", "F_CONTIGUOUS", "WRITEABLE", "ALIGNED")
SHOWN = 40


class Call:
    """One call of a constructor, which can be made of NumPy and of sharena."""

    def __init__(self, name, *args, **kwargs):
        self.name = name
        self.args = args
        self.kwargs = {key: value for key, value in kwargs.items() if value is not UNSET}

    def __repr__(self):
        words = [repr(value)[:160] for value in self.args]
        words += [f"{key}={value!r:.160}" for key, value in self.kwargs.items()]
        return f"{self.name}({', '.join(words)})"

    def of(self, module):
        args = [value.make() if isinstance(value, inputs.Fresh) else value for value in self.args]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                result = getattr(module, self.name)(*args, **self.kwargs)
            except Exception as error:
                result = error
        return Answer(result, {warning.category for warning in caught})

    def values_and_dtype(self):
        """What is put into the new array, and the dtype= that it is to have, or None."""
        values = self.args[1:2] if self.name.startswith("full") else self.args[:1]
        at = 2 if self.name.startswith("full") else 1
        dtype = self.args[at] if len(self.args) > at else self.kwargs.get("dtype")
        if dtype is None and self.name == "full_like" and isinstance(self.args[0], np.ndarray):
            dtype = self.args[0].dtype
        return (*values, None)[0], dtype

    def changed(self, **kwargs):
        """The same call with other keywords; UNSET takes one away."""
        return Call(self.name, *self.args, **{**self.kwargs, **kwargs})

    def with_copy(self):
        """A call of array() that copies and is like this one otherwise."""
        names = {"array": ("object", "dtype"), "copy": ("a", "order", "subok")}
        given = dict(zip(names.get(self.name, ("a", "dtype", "order")), self.args, strict=False))
        given.update(self.kwargs, copy=True)
        given.pop("device", None)
        if self.name == "ascontiguousarray":
            given.update(order="C", ndmin=1)
        source = given.pop("object" if self.name == "array" else "a")
        return Call("array", source, **given)

    def with_copy_of_array(self):
        """The same of the array that the argument's __array__ gives if no copy is asked for."""
        call = self.with_copy()
        dtype = call.kwargs.pop("dtype", None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            array = np.asarray(call.args[0], dtype)
        return Call("array", array, **call.kwargs)

    def plain(self):
        """The same call with plain arrays instead of those of a subclass."""

        def plain(value):
            return value.view(np.ndarray) if isinstance(value, np.ndarray) else value

        kwargs = {key: plain(value) for key, value in self.kwargs.items()}
        return Call(self.name, *map(plain, self.args), **kwargs)

    def same(self, ours, warned=()):
        """Whether NumPy's answer to this call is ours."""
        numpys = self.of(np)
        numpys.warned |= set(warned)
        return fault(self, numpys, ours) is None


class Answer:
    def __init__(self, result, warned):
        self.result = result
        self.warned = warned
        self.raised = isinstance(result, Exception)

    def __repr__(self):
        warned = f" with {self.warned}" if self.warned else ""
        if self.raised or not isinstance(self.result, np.ndarray):
            return f"{type(self.result).__name__}: {self.result!s:.200}{warned}"
        a = self.result
        values = repr(a.tolist()) if 0 < a.size < 20 else ""
        return f"{type(a).__name__} {a.dtype} {a.shape} {a.strides} {values:.200}{warned}"


# ---- comparing ----


def same_values(a, b):
    """Bit for bit, but for padding, which nobody has to keep."""
    if a.ndim > 32:  # more than tobytes() takes everywhere
        a, b = a.reshape(-1), b.reshape(-1)
    if a.tobytes() == b.tobytes():
        return True
    if a.dtype.names is not None:
        return all(same_values(a[name], b[name]) for name in a.dtype.names)
    if a.dtype.kind in "fc":  # a long double has padding, a NaN many forms
        return bool(np.array_equal(a, b, equal_nan=True))
    return False


def same_dtype(a, b):
    return (
        a == b
        and a.str == b.str
        and a.metadata == b.metadata
        and a.isalignedstruct == b.isalignedstruct
        and a.type is b.type
    )


def fault(call, numpys, ours):
    """What differs, or None."""
    if numpys.raised or ours.raised:
        if numpys.raised and ours.raised and type(numpys.result) is type(ours.result):
            return None
        return "the exception"
    a, b = numpys.result, ours.result
    if type(b) is not np.ndarray or type(a) is not np.ndarray:
        return "the type"
    if not same_dtype(a.dtype, b.dtype):
        return "the dtype"
    if a.shape != b.shape:
        return "the shape"
    if a.strides != b.strides:
        return "the strides"
    if any(a.flags[flag] != b.flags[flag] for flag in FLAGS):
        return "the flags"
    if not call.name.startswith("empty") and not same_values(a, b):
        return "the values"
    if numpys.warned != ours.warned:
        return "the warnings"
    if sharena.is_shared(b) != (b.nbytes > 0):
        return "the place"
    return None


def compare(call, report):
    numpys, ours = call.of(np), call.of(sharena)
    what = fault(call, numpys, ours)
    if what is not None and not differences.explain(call, numpys, ours):
        report.append(f"{what}: {call}\n    NumPy: {numpys}\n    ours:  {ours}")


# ---- what can't be compared ----


def is_left_to_chance(call):
    """NumPy copies padding, names an address, or leaves elements unset."""
    value, dtype = call.values_and_dtype()
    if isinstance(value, np.longdouble | inputs.Fresh) and call.name != "full":
        return not any(dtype is number for number in inputs.NUMBERS)
    if not isinstance(dtype, str | tuple) or dtype not in inputs.SUBARRAYS:
        return False
    if isinstance(value, np.ndarray):
        return value.flags.f_contiguous and not value.flags.c_contiguous
    return isinstance(value, inputs.Arrays) or call.kwargs.get("order", "C") != "C"


def holds(dtype, kinds):
    if dtype.base.kind in kinds:
        return True
    return any(holds(dtype[i], kinds) for i in range(len(dtype.names or ())))


def crashes_numpy(call):
    """Before 2.4 a cast from text to dates that fails sets its error without the GIL."""
    if not inputs.LOSES_ERRORS:
        return False
    value, dtype = call.values_and_dtype()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dates = holds(np.empty(0, dtype).dtype, "mM")
            return dates and holds(np.asarray(value).dtype, "SUVO")
        except Exception:
            return False


# ---- the calls ----


def new_calls():
    """empty, zeros and ones."""
    names = ("empty", "zeros", "ones")
    for name, shape, dtype in itertools.product(names, inputs.SHAPES, inputs.DTYPES):
        yield Call(name, shape, dtype)
    for name, shape, dtype in itertools.product(names, inputs.HUGE_SHAPES, inputs.SIZED_DTYPES):
        yield Call(name, shape, dtype)
    for name, shape, dtype, order in itertools.product(
        names, inputs.FEW_SHAPES, inputs.FEW_DTYPES, inputs.ORDERS
    ):
        yield Call(name, shape, dtype=dtype, order=order)
    for name, shape, dtype in itertools.product(names, inputs.FEW_SHAPES, inputs.FEW_DTYPES):
        for key, values in (("device", inputs.DEVICES), ("like", inputs.LIKES)):
            for value in values:
                yield Call(name, shape, dtype, **{key: value})
    for name in names:
        yield Call(name)
        yield Call(name, 1, 2, 3, 4)
        yield Call(name, 1, shape=1)
        yield Call(name, 1, size=1)
        yield Call(name, 2, "f4", "F")
        yield Call(name, shape=(2, 3), dtype="f4")


def full_calls():
    for dtype, value in itertools.product(inputs.DTYPES, inputs.ANYTHING):
        yield Call("full", 3, value, dtype)
    for shape, dtype, value in itertools.product(
        [*inputs.SHAPES, *inputs.HUGE_SHAPES], (None, "i1", "S"), (1, 300, "x", [1, 2, 3], None)
    ):
        yield Call("full", shape, value, dtype)
    for shape, dtype, value, order in itertools.product(
        inputs.FEW_SHAPES, inputs.FEW_DTYPES, (1, 300, [1, 2, 3], 1.5, None), inputs.ORDERS
    ):
        yield Call("full", shape, value, dtype=dtype, order=order)
    for value, like, device in itertools.product((1, 300), inputs.LIKES, inputs.DEVICES):
        yield Call("full", 3, value, "u1", like=like, device=device)
    yield Call("full", 3)
    yield Call("full", 3, 1, "i4", "C", None)
    yield Call("full", (2, 3), fill_value=[1, 2, 3], dtype="f4")


def like_calls():
    plain = ("empty_like", "zeros_like", "ones_like")
    for name, model, dtype in itertools.product(plain, inputs.ANYTHING, inputs.FEW_DTYPES):
        yield Call(name, model, dtype)
    for name, model, order, shape in itertools.product(
        plain, inputs.ARRAYS, inputs.GOOD_ORDERS, (UNSET, None, (2, 3, 4), (3, 2), 5, -1)
    ):
        yield Call(name, model, order=order, shape=shape)
    few = inputs.PRIVATE[:6]
    for name, model, dtype in itertools.product(plain, few, inputs.DTYPES):
        yield Call(name, model, dtype)
        yield Call(name, model, dtype, shape=(2, 2, 2))
    for name, model, order in itertools.product(plain, few, inputs.ORDERS):
        yield Call(name, model, "i2", order)
    for name, shape in itertools.product(plain, [*inputs.SHAPES, *inputs.HUGE_SHAPES]):
        yield Call(name, inputs.PRIVATE[2], shape=shape)
        yield Call(name, inputs.PRIVATE[2], "f4", "A", shape=shape)
    for name, model, subok in itertools.product(
        plain, [*inputs.SUBCLASSES, *inputs.MATRICES], inputs.SUBOKS
    ):
        yield Call(name, model, subok=subok)
    for name, device in itertools.product(plain, inputs.DEVICES):
        yield Call(name, [1.5], device=device)
    for model, value in itertools.product(inputs.ARRAYS, inputs.ANYTHING):
        yield Call("full_like", model, value)
    for dtype, value in itertools.product(inputs.DTYPES, (1, 300, float("nan"), "7", None)):
        yield Call("full_like", inputs.PRIVATE[0], value, dtype)
    yield Call("full_like", [1])
    yield Call("empty_like")


def array_calls():
    for value, dtype in itertools.product(inputs.ANYTHING, inputs.DTYPES):
        yield Call("array", value, dtype)
    for value, order, ndmin in itertools.product(
        inputs.ANYTHING, inputs.GOOD_ORDERS, (UNSET, 1, 2, 4)
    ):
        yield Call("array", value, order=order, ndmin=ndmin)
    for value, copy in itertools.product(inputs.ANYTHING, inputs.COPIES):
        yield Call("array", value, copy=copy)
    few = [3.5, [1, 2], [[1, 2], [3, 4]], inputs.PRIVATE[1], inputs.SHARED[1], inputs.SHARED[0]]
    keywords = {
        "order": inputs.ORDERS,
        "ndmin": inputs.NDMINS,
        "ndmax": inputs.NDMAXES,
        "like": inputs.LIKES,
        "subok": inputs.SUBOKS,
        "copy": inputs.COPIES,
    }
    for value, dtype in itertools.product(few, (None, "f4", "i8", "S", "(2,)i4", "nonsense")):
        for one, other in itertools.combinations(keywords, 2):
            pairs = list(itertools.product(keywords[one], keywords[other]))
            for x, y in pairs[:: max(1, len(pairs) // 25)]:
                yield Call("array", value, dtype, **{one: x, other: y})
        for key, choices in keywords.items():
            for choice in choices:
                yield Call("array", value, dtype, **{key: choice})
    for value, subok in itertools.product([*inputs.SUBCLASSES, *inputs.MATRICES], inputs.SUBOKS):
        yield Call("array", value, subok=subok)
        yield Call("copy", value, subok=subok)
    yield Call("array")
    yield Call("array", [1], "f4", True)
    yield Call("array", object=[1, 2], dtype="f4")


def convert_calls():
    """asarray, ascontiguousarray and copy."""
    few = [None, "f4", "i8", "S", "U1", "M8", "(2,)i4", RECORD, "O"]
    for value, dtype in itertools.product(inputs.ANYTHING, few):
        yield Call("asarray", value, dtype)
        yield Call("ascontiguousarray", value, dtype)
    for value, order in itertools.product(inputs.ANYTHING, inputs.ORDERS):
        yield Call("asarray", value, order=order)
        yield Call("copy", value, order)
    for value, copy in itertools.product(inputs.ANYTHING, inputs.COPIES):
        yield Call("asarray", value, copy=copy)
    for value, like, device in itertools.product(([1], 2), inputs.LIKES, inputs.DEVICES):
        yield Call("asarray", value, like=like, device=device)
        yield Call("ascontiguousarray", value, like=like)


RECORD = inputs.RECORD


# ---- running them ----


def comparable(calls):
    for call in calls:
        if not is_left_to_chance(call) and not crashes_numpy(call):
            yield call


def compare_all(calls):
    report = []
    for call in calls:
        compare(call, report)
    return {"report": report, "used": [function.__name__ for function in differences.used]}


def in_child(calls):
    """Compare in a child, whose NumPy nobody uses afterwards.

    NumPys before 2.4 give back too much where a cast fails, and crash in the end: what fewer
    calls survive was not ours.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(10 if inputs.LOSES_ERRORS else 120)  # a damaged one may wait for ever
        try:
            result = json.dumps(compare_all(calls)).encode()
            with open(write, "wb") as pipe:
                pipe.write(result)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(write)
    with open(read, "rb") as pipe:
        result = pipe.read()
    _, status = os.waitpid(pid, 0)
    if status != 0 and inputs.LOSES_ERRORS and len(calls) > 1:
        half = len(calls) // 2
        one, other = in_child(calls[:half]), in_child(calls[half:])
        return {key: one[key] + other[key] for key in one}
    if status != 0:
        return {"report": [f"status {status} between {calls[0]} and {calls[-1]}"], "used": []}
    return json.loads(result)


def main():
    report, used, count = [], set(), 0
    for make in (new_calls, full_calls, like_calls, array_calls, convert_calls):
        calls = comparable(make())
        while batch := list(itertools.islice(calls, BATCH)):
            result = in_child(batch)
            report += result["report"]
            used |= set(result["used"])
            count += len(batch)
    for line in report[:SHOWN]:
        print(line)
    unused = [each.__name__ for each in differences.DIFFERENCES if each.__name__ not in used]
    print(f"{count} calls, {len(report)} differences, unused reasons: {unused}")
    return bool(report or unused or count < CALLS)


if __name__ == "__main__":
    sys.exit(main())
