"""Which picklers send handles, and who else is asked."""

import copy
import io
import pickle

import numpy as np
import pytest

import sharena


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
