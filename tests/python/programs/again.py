"""The package imported a second time: again.py CASE.

Whatever way it happens, the reducers are registered once and every array is counted once.
"""

import importlib
import importlib.util
import pickle
import sys
import warnings
from multiprocessing.reduction import ForkingPickler

import numpy as np

calls = []


def earlier(a):
    calls.append(a.shape)
    return a.__reduce_ex__(4)


ForkingPickler.register(np.ndarray, earlier)

from support import no_leaks  # noqa: E402 # imports sharena, as the next line

import sharena  # noqa: E402 # after the other one, on purpose

FIRST = sharena


def modules():
    return [name for name in sys.modules if name.split(".")[0] == "sharena"]


def forget(names):
    for name in names:
        del sys.modules[name]


def import_again():
    """As the first time; what the name `sharena` of this program stands for is the new one."""
    global sharena  # noqa: PLW0603 # as a user's program has it
    sharena = importlib.import_module("sharena")


def dumps(obj):
    """By a pickler that looks its methods up now."""
    return bytes(sys.modules["multiprocessing.reduction"].ForkingPickler.dumps(obj))


def sends_once():
    """One shared and one private array are one and one, and arrive as what they are."""
    shared, private = sharena.ones(10), np.zeros(20)
    before = sharena.Heap.default().stats()
    calls.clear()
    back = pickle.loads(dumps([shared, private]))
    after = sharena.Heap.default().stats()
    assert after.handle_arrays - before.handle_arrays == 1
    assert after.value_arrays - before.value_arrays == 1
    assert after.value_bytes - before.value_bytes == private.nbytes
    assert calls == [(20,)], calls
    assert sharena.is_shared(back[0])
    assert FIRST.is_shared(back[0])
    back[0][...] = 7
    assert (shared == 7).all()
    del back, shared
    if importlib.util.find_spec("pandas"):
        sends_frames()


def sends_frames():
    import pandas as pd

    data = sharena.zeros((3, 4))
    back = pickle.loads(dumps(pd.DataFrame(data.T, copy=False)))
    data[1, 2] = 5
    assert back.iloc[2, 1] == 5


def is_the_same():
    """Heaps, arrays and errors of the first import go on with the second."""
    assert sharena.Heap is FIRST.Heap
    assert sharena.SharenaError is FIRST.SharenaError
    assert sharena.Heap.default() is FIRST.Heap.default()
    assert sharena.__version__ == FIRST.__version__
    a = FIRST.ones(3, heap=sharena.Heap.default())
    assert sharena.asarray(a) is a


def case_reload():
    for _ in range(3):
        assert importlib.reload(sharena) is FIRST
        sends_once()
        is_the_same()


def case_reload_of_each_module():
    for _ in range(2):
        for name in sorted(modules()):
            importlib.reload(sys.modules[name])
        sends_once()
        is_the_same()


def case_all_modules_taken_out():
    for _ in range(3):
        forget(modules())
        import_again()
        assert sharena is not FIRST
        sends_once()
        is_the_same()


def case_package_taken_out():
    for _ in range(3):
        forget(["sharena"])
        import_again()
        sends_once()
        is_the_same()


def case_extension_taken_out():
    for _ in range(3):
        forget(["sharena", "sharena._core"])
        import_again()
        sends_once()
        is_the_same()


def case_what_waits_for_a_library():
    """It waits as before, once."""
    forget(modules())
    import_again()
    assert sum(type(finder).__module__ == "sharena._imports" for finder in sys.meta_path) <= 1
    sends_once()


def case_one_warning_for_one_array():
    forget(modules())
    import_again()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        dumps(np.ones(1 << 18))
    assert [w.category for w in seen] == [sharena.ByValueWarning], seen


if __name__ == "__main__":
    sends_once()
    with no_leaks():
        globals()[f"case_{sys.argv[1]}"]()
