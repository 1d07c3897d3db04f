"""Where sharena answers otherwise than NumPy on purpose.

Each function below is one such difference: its docstring is the reason, and it returns whether
both answers are just what that reason leads to.  numpy_answers.py fails when one never is.
"""

import numpy as np
import numpy_inputs as inputs

import sharena

DIFFERENCES = []


def difference(function):
    DIFFERENCES.append(function)
    return function


def difference_if(possible):
    """One that comes up with some NumPys only."""
    return difference if possible else lambda function: function


def takes(name, **kwargs):
    try:
        getattr(np, name)([1], **kwargs)
    except TypeError:
        return False
    return True


def is_array(answer):
    return isinstance(answer.result, np.ndarray)


def string_type():
    return getattr(getattr(np, "dtypes", None), "StringDType", ())


def holds_strings(dtype):
    """StringDType, at any depth of fields and sub-arrays."""
    if isinstance(dtype.base, string_type() or ()):
        return True
    return any(holds_strings(dtype[i]) for i in range(len(dtype.names or ())))


def holds_text(call, answer, words):
    return isinstance(answer.result, TypeError) and words in str(answer.result)


def target_dtype(call, numpys):
    """The dtype of the result, also of one that NumPy could not fill with these values."""
    if is_array(numpys):
        return numpys.result.dtype
    value, dtype = call.values_and_dtype()
    return np.asarray(value).dtype if dtype is None else np.empty(0, dtype).dtype


@difference
def objects(call, numpys, ours):
    """A Python object lives in one process; other processes could not follow its pointer."""
    if not holds_text(call, ours, "Python objects"):
        return False
    dtype = target_dtype(call, numpys)
    return dtype.hasobject and not holds_strings(dtype)


@difference_if(string_type())
def strings_of_any_length(call, numpys, ours):
    """An array of StringDType holds pointers to strings in the memory of its process."""
    if not holds_text(call, ours, "lie in private memory"):
        return False
    return holds_strings(target_dtype(call, numpys))


@difference
def subclasses_of_models(call, numpys, ours):
    """*_like make a plain ndarray, which is what travels, whatever subok= says."""
    if not call.name.endswith("_like") or not isinstance(call.args[0], np.ndarray):
        return False
    return type(call.args[0]) is not np.ndarray and call.changed(subok=False).same(
        ours, numpys.warned
    )


@difference
def subclasses_asked_for(call, numpys, ours):
    """Nor can array() and copy() make the subclass that subok=True asks for: they say so."""
    if call.name not in ("array", "copy") or "subok" not in call.kwargs:
        return False
    return type(numpys.result) is not np.ndarray and holds_text(call, ours, "plain numpy.ndarray")


@difference
def private_memory_is_copied(call, numpys, ours):
    """What NumPy gives back uncopied is copied, because it is not in the heap."""
    if not is_array(numpys):
        return False
    if numpys.result.flags.owndata and numpys.result is not call.args[0]:
        return False
    return not sharena.is_shared(numpys.result) and call.with_copy().same(ours, numpys.warned)


@difference
def copies_that_were_forbidden(call, numpys, ours):
    """Where a copy was forbidden, that is an error."""
    if not is_array(numpys) or sharena.is_shared(numpys.result) or "copy" not in call.kwargs:
        return False
    words = "Unable to avoid copy"
    return forbids(call) and isinstance(ours.result, ValueError) and words in str(ours.result)


def forbids(call):
    try:
        np.array([1], copy=call.kwargs["copy"])
    except ValueError:
        return True
    return False


@difference_if(takes("asarray", copy=None))
def one_copy_less(call, numpys, ours):
    """An __array__ is asked for what it has, not for a copy: the copy is made in the heap."""
    if not isinstance(call.args[0], inputs.Arrays | inputs.OldArrays) or not is_array(numpys):
        return False
    return call.with_copy_of_array().same(ours, ours.warned)


@difference
def likes_of_others(call, numpys, ours):
    """like= with an __array_function__ of its own would make something outside the heap."""
    return call.kwargs.get("like") is not None and holds_text(call, ours, "plain numpy.ndarray")


@difference
def dispatch_of_others(call, numpys, ours):
    """For the same reason the __array_function__ of an argument is not asked."""
    values = [*call.args, *call.kwargs.values()]
    others = [x for x in values if isinstance(x, inputs.Like)]
    return bool(others) and call.plain().same(ours)


@difference
def full_heaps(call, numpys, ours):
    """No room is HeapFullError, a MemoryError that says how much there is."""
    return isinstance(numpys.result, MemoryError) and isinstance(
        ours.result, sharena.HeapFullError
    )


@difference_if(not takes("asarray", copy=None) or not takes("array", ndmax=1))
def newer_keywords(call, numpys, ours):
    """The keywords of newer NumPys are there with an older one too."""
    newer = {"copy", "device", "ndmax"}
    known = {key: value for key, value in call.kwargs.items() if key not in newer}
    return holds_text(call, numpys, "unexpected keyword argument") and known != call.kwargs


@difference_if(not takes("asarray", copy=None))
def copy_none_of_older_numpys(call, numpys, ours):
    """copy=None means with NumPy 1, which refuses it, what it means with NumPy 2."""
    if call.kwargs.get("copy", True) is not None or not isinstance(numpys.result, ValueError):
        return False
    plain = call.changed(copy=False)
    answer = plain.of(np)
    return plain.same(ours) or explain(plain, answer, ours)


used = set()


def explain(call, numpys, ours):
    for function in DIFFERENCES:
        if function(call, numpys, ours):
            used.add(function)
            return True
    return False
