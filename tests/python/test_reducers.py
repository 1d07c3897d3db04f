"""Which picklers send handles, and who else is asked."""

import copy
import gc
import io
import pickle
import weakref

import numpy as np
import pytest

import sharena
from sharena import _core


def test_an_earlier_reducer_is_asked_about_the_rest(run_program):
    run_program("chained.py")


def test_multiprocessing_is_waited_for(run_python, tmp_path):
    program = tmp_path / "late.py"
    program.write_text(
        "import sys, sharena\n"
        "print(*[name for name in sys.modules if name.startswith('multiprocessing')])\n"
        "from multiprocessing.reduction import ForkingPickler\n"
        "a = sharena.ones(10)\n"
        "b = ForkingPickler.loads(ForkingPickler.dumps(a))\n"
        "b[0] = 2\n"
        "print(a[0])\n"
    )
    assert run_python(program).stdout == "\n2.0\n"


@pytest.mark.parametrize("order", ["loky,sharena", "sharena,loky"])
def test_loky(run_program, order):
    pytest.importorskip("loky")
    run_program("loky_pool.py", order)


def test_plain_pickle_copy_and_save_stay_by_value():
    a = sharena.ones(10)
    file = io.BytesIO()
    np.save(file, a)
    file.seek(0)
    others = [pickle.loads(pickle.dumps(a)), copy.copy(a), copy.deepcopy(a), np.load(file)]
    for other in others:
        assert not sharena.is_shared(other)
        assert (other == 1).all()
    a[...] = 2
    assert all((other == 1).all() for other in others)


def test_the_loky_within_joblib():
    """joblib carries a copy of loky under another name, with a table of its own."""
    reduction = pytest.importorskip("joblib.externals.loky.backend.reduction")
    a = sharena.ones(100)
    back = pickle.loads(reduction.dumps({"a": a[1:], "f": lambda: 3}))
    a[...] = 5
    assert (back["a"] == 5).all()


def test_a_table_that_refers_to_its_pickler_is_collected():
    """As of a pickler that registers its own methods; also when dumping fails."""
    seen = []

    class Selfish(pickle.Pickler):
        def __init__(self, file):
            super().__init__(file)
            self.dispatch_table = {complex: self.reduce, np.ndarray: _core.reduce_array}
            seen.append(weakref.ref(self))

        def reduce(self, number):
            return complex, (number.real, number.imag)

    array = sharena.ones(3)
    _core._dumps_with(Selfish, [1j, array], 4)
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        _core._dumps_with(Selfish, [array, lambda: 0], 4)
    gc.collect()
    assert [ref() for ref in seen] == [None, None]
    sharena.Heap.default().expire_tickets()


def test_a_finished_message_takes_no_more_arrays():
    """Whoever kept the table of its pickler gets a handle of unknown channel."""
    tables = []

    class Keeps(pickle.Pickler):
        def __init__(self, file):
            super().__init__(file)
            self.dispatch_table = {np.ndarray: _core.reduce_array}

        def dump(self, obj):
            tables.append(self.dispatch_table)
            super().dump(obj)

    array = sharena.ones(3)
    _core._dumps_with(Keeps, [1], 4)
    tables[0][np.ndarray](array)
    [ticket] = sharena.Heap.default().tickets()
    assert ticket.place == "loose"
    sharena.Heap.default().expire_tickets()
