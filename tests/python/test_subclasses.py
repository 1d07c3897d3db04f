"""Subclasses of ndarray: which travel by handle, as what, and that is_shared() says so."""

import importlib
import pickle
import warnings
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
from numpy import ma

import sharena
from sharena import _subclasses

chararray = vars(importlib.import_module(_subclasses.VIEWS["chararray"]))["chararray"]
FIELDS = np.dtype([("a", "i4"), ("b", "f8", (2,))])


def grid():
    return sharena.array(np.arange(12.0).reshape(3, 4))


def fields():
    return sharena.array(np.array([(1, (2, 3)), (4, (5, 6))], FIELDS))


def masked(data, mask, **options):
    return ma.MaskedArray(data, mask=mask, keep_mask=False, **options)


def some(data):
    """A mask in shared memory."""
    mask = sharena.zeros(data.shape, ma.make_mask_descr(data.dtype))
    mask[-1] = True
    return mask


SHARED = {
    "matrix": lambda: grid().view(np.matrix),
    "matrix, transposed": lambda: grid().view(np.matrix).T,
    "recarray": lambda: fields().view(np.recarray),
    "recarray without fields": lambda: grid().view(np.recarray),
    "chararray": lambda: sharena.array(np.array(["one", "three"])).view(chararray),
    "chararray of bytes": lambda: sharena.array(np.array([b"one", b"three"])).view(chararray),
    "masked": lambda: masked(data := grid(), some(data)),
    "masked, a view": lambda: masked(data := grid(), some(data))[::-1, 1:3],
    "masked, nomask": lambda: ma.MaskedArray(grid()),
    "masked, hard": lambda: masked(data := grid(), some(data), hard_mask=True),
    "masked, filled": lambda: masked(data := grid(), some(data), fill_value=7),
    "masked fields": lambda: masked(data := fields(), some(data), fill_value=(9, 8)),
    "masked matrix": lambda: masked(data := grid().view(np.matrix), some(data)),
    "masked recarray": lambda: masked(data := fields().view(np.recarray), some(data)),
    "masked dates": lambda: masked(data := grid().view("M8[s]"), some(data)),
    "masked text": lambda: masked(data := sharena.full(3, "ab"), some(data), fill_value="n"),
    "masked, read-only": lambda: masked(sharena.share(data := grid(), readonly=True), some(data)),
    "masked scalar": lambda: masked(sharena.array(3.0), sharena.array(np.True_)),
}


class Mine(np.ndarray):
    """A subclass with something beside the elements."""

    def __array_finalize__(self, obj):
        self.unit = getattr(obj, "unit", None)

    def __reduce__(self):
        return make_mine, (np.array(self), self.unit)


def make_mine(array, unit):
    made = array.view(Mine)
    made.unit = unit
    return made


class MyMatrix(np.matrix):
    pass


class MyMasked(ma.MaskedArray):
    pass


def mine():
    return make_mine(grid(), "m")


OTHERS = {
    "subclass": mine,
    "subclass of matrix": lambda: grid().view(MyMatrix),
    "subclass of MaskedArray": lambda: grid().view(MyMasked),
    "memmap": lambda: grid().view(np.memmap),
}

PRIVATE = {
    "matrix": lambda: np.eye(2).view(np.matrix),
    "recarray": lambda: np.zeros(3, FIELDS).view(np.recarray),
    "chararray": lambda: np.array(["one", "two"]).view(chararray),
    "masked": lambda: masked(np.arange(3.0), [False, True, False]),
    "masked, nomask": lambda: ma.MaskedArray(np.arange(3.0)),
    "empty": lambda: sharena.zeros((0, 3)).view(np.matrix),
    "masked, empty": lambda: ma.MaskedArray(sharena.zeros(0)),
}


def there_and_back(x):
    return ForkingPickler.loads(ForkingPickler.dumps(x))


def same(a, b):
    """Equal in every bit, what is masked included."""
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def shares(a, b):
    return np.shares_memory(np.ndarray.view(a, np.ndarray), np.ndarray.view(b, np.ndarray))


@pytest.mark.parametrize("name", SHARED)
def test_numpys_own_arrive_as_what_they_are(name):
    x = SHARED[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sharena.is_shared(x)
        back = there_and_back(x)
    assert type(back) is type(x)
    assert same(back, x)
    assert back.dtype == x.dtype
    assert back.dtype.type is x.dtype.type
    assert back.strides == x.strides
    assert back.flags.writeable == x.flags.writeable
    assert sharena.is_shared(back)
    assert shares(back, x)


@pytest.mark.parametrize("name", [name for name in SHARED if "masked" in name])
def test_masks(name):
    x = SHARED[name]()
    back = there_and_back(x)
    assert back._baseclass is x._baseclass
    assert type(back.data) is type(x.data)
    assert back.hardmask == x.hardmask
    assert back._sharedmask == x._sharedmask
    assert (back._fill_value is None) == (x._fill_value is None)
    assert type(back.fill_value) is type(x.fill_value)
    assert back.fill_value == x.fill_value or np.isnan(back.fill_value)
    assert (back.mask is ma.nomask) == (x.mask is ma.nomask)
    assert same(back.mask, x.mask)
    if x.mask is not ma.nomask:
        assert shares(back.mask, x.mask)
        assert type(back._mask) is type(x._mask)


def test_a_mask_is_shared_both_ways():
    x = SHARED["masked"]()
    back = there_and_back(x)
    back[0, 0] = ma.masked
    assert x[0, 0] is ma.masked
    x.mask[1, 1] = True
    assert back[1, 1] is ma.masked
    back[2, 3] = 77
    assert x.data[2, 3] == 77


@pytest.mark.parametrize("name", OTHERS)
def test_other_subclasses_reduce_themselves(name):
    x = OTHERS[name]()
    assert not sharena.is_shared(x)
    before = sharena.Heap.default().stats().handle_arrays
    message = bytes(ForkingPickler.dumps(x))
    assert message == pickle.dumps(x, 4)
    back = ForkingPickler.loads(message)
    assert type(back) is type(x)
    assert not shares(back, x)
    assert sharena.Heap.default().stats().handle_arrays == before
    assert getattr(back, "unit", None) == getattr(x, "unit", None)


def test_what_a_subclass_reduces_to_may_hold_shared_arrays():
    x = mine()
    x.unit = grid()
    back = there_and_back(x)
    assert np.shares_memory(back.unit, x.unit)
    assert not shares(back, x)


@pytest.mark.parametrize("name", PRIVATE)
def test_private_ones_are_pickled_by_numpy(name):
    x = PRIVATE[name]()
    assert not sharena.is_shared(x)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert bytes(ForkingPickler.dumps(x, protocol)) == pickle.dumps(x, protocol)


@pytest.mark.parametrize("name", SHARED)
def test_by_value(name):
    x = SHARED[name]()
    with sharena.by_value():
        assert sharena.is_shared(x)
        message = bytes(ForkingPickler.dumps(x))
    assert message == pickle.dumps(x, 4)
    assert b"sharena" not in message


def test_a_masked_array_with_one_part_in_the_heap():
    """That part is shared, the other one copied, and is_shared() promises nothing."""
    data, mask = grid(), some(grid())
    outside = np.zeros((3, 4), bool)
    x = masked(data, outside)
    assert not sharena.is_shared(x)
    back = there_and_back(x)
    assert shares(back, data)
    assert not shares(back.mask, outside)
    y = masked(np.ones((3, 4)), mask)
    assert not sharena.is_shared(y)
    back = there_and_back(y)
    assert not shares(back, y)
    assert shares(back.mask, mask)


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("loads", [pickle.loads, ForkingPickler.loads])
def test_a_lost_part_makes_one_lost(name, loads):
    message = bytes(ForkingPickler.dumps([SHARED[name](), 5]))
    sharena.Heap.default().expire_tickets(0)
    lost, number = loads(message)
    assert type(lost) is sharena.Lost
    assert number == 5


def test_reduce_array_takes_no_subclass_for_a_plain_array():
    x = SHARED["matrix"]()
    for reduced in (sharena._core.reduce_array(x), x.__reduce_ex__(4)):
        assert reduced[1][0] is np.matrix


def test_an_earlier_reducer_is_asked_about_private_ones(run_python, tmp_path):
    program = tmp_path / "earlier.py"
    program.write_text(
        "import numpy as np\n"
        "from multiprocessing.reduction import ForkingPickler\n"
        "asked = []\n"
        "def earlier(m):\n"
        "    asked.append(m.shape)\n"
        "    return m.__reduce_ex__(4)\n"
        "ForkingPickler.register(np.matrix, earlier)\n"
        "import sharena\n"
        "ForkingPickler.dumps(sharena.ones((2, 3)).view(np.matrix))\n"
        "print(asked)\n"
        "ForkingPickler.dumps(np.eye(2).view(np.matrix))\n"
        "print(asked)\n"
        "ForkingPickler.register(np.matrix, lambda m: (tuple, ()))\n"
        "print(ForkingPickler.loads(ForkingPickler.dumps(np.eye(2).view(np.matrix))))\n"
    )
    assert run_python(program).stdout == "[]\n[(2, 2)]\n()\n"


def test_masked_arrays_are_waited_for(run_python, tmp_path):
    program = tmp_path / "late.py"
    program.write_text(
        "import sys, sharena\n"
        "from multiprocessing.reduction import ForkingPickler\n"
        "print(*(m for m in sys.modules if m in ('numpy.ma', 'numpy.char')))\n"
        "import numpy.ma as ma\n"
        "x = ma.MaskedArray(sharena.ones(10))\n"
        "y = ForkingPickler.loads(ForkingPickler.dumps(x))\n"
        "x[0] = 5\n"
        "print(sharena.is_shared(x), y[0])\n"
    )
    lazy = int(np.__version__.partition(".")[0]) >= 2  # NumPy 1 imports them all itself
    out = run_python(program).stdout.splitlines()
    assert out[1:] == ["True 5.0"]
    assert out[0] == "" or not lazy
