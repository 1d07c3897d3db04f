"""A dtype for which there was no memory is not taken for a damaged one: no_memory.py."""

import numpy as np
from support import importorskip

import sharena

hooks = importorskip("_testcapi")

DTYPES = [
    np.dtype("f8"),
    np.dtype("U9"),
    np.dtype([("a", "i4"), ("b", "f8", (2, 3)), ("c", [("x", "u1"), ("y", "S3")])]),
    np.dtype({"names": ["q"], "formats": ["f4"], "offsets": [8], "itemsize": 40}),
    np.dtype([(("title", "a"), "i4"), ("b", "f8")], align=True),
    np.dtype((np.record, [("a", "i4")])),
]


# For want of memory NumPy 2.5 itself takes a NULL for an object when it makes a dtype of a dict
# with such formats (in _convert_from_any; 2.4 does not).
if np.lib.NumpyVersion(np.__version__) >= "2.5.0":
    DTYPES = [d for d in DTYPES if not d.names or all(not d[n].shape for n in d.names)]


def without(first, last, work):
    """What comes of it when the requests for memory from `first` to before `last` fail."""
    hooks.set_nomemory(first, last)
    try:
        result = work()
    except BaseException as error:
        result = error
    finally:
        hooks.remove_mem_hooks()
    return result


def outcomes(work, dtype):
    """Each request fails in turn, alone and with some after it; the kinds of what came.

    With all after it the interpreter has no memory for the exception, and ends.
    """
    kinds = set()
    for failing in (1, 2, 4):
        for first in range(1, 200):
            result = without(first, first + failing, work)
            if not isinstance(result, BaseException):
                assert result.dtype == dtype
                assert result.dtype.fields == dtype.fields
                assert result.dtype.type is dtype.type
                assert result.dtype.isalignedstruct == dtype.isalignedstruct
            kinds.add(type(result))
    return kinds


def main():
    with sharena.Heap.create() as heap:
        for dtype in DTYPES:
            a = sharena.zeros(3, dtype=dtype, heap=heap)
            heap["x"] = a
            handle = sharena.handle(a)
            for work in (lambda: heap["x"], lambda h=handle: sharena.attach(h)):
                work()
                kinds = outcomes(work, dtype)
                assert np.ndarray in kinds, kinds
                assert kinds <= {np.ndarray, MemoryError}, (dtype, kinds)
                if dtype.names:
                    assert MemoryError in kinds, kinds


if __name__ == "__main__":
    main()
