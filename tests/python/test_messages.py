"""Sentences for users: they name what was given and say what to do."""

import numpy as np
import pytest

import sharena


@pytest.fixture
def heap():
    with sharena.Heap.create() as heap:
        yield heap
        assert heap.keys() == []
        assert heap.stats().blocks == 0


class DataFrame:
    """As pandas, polars and xarray have it: NumPy would take the values alone."""

    def __array__(self, dtype=None, copy=None):
        return np.ones(3)

    def to_numpy(self):
        return np.ones(3)


class Tensor:
    """As torch has it: an array without labels."""

    def __array__(self, dtype=None, copy=None):
        return np.ones(3)

    def numpy(self):
        return np.ones(3)


def test_a_heap_is_not_made_by_calling():
    for arguments in ((), ("t1",)):
        with pytest.raises(TypeError) as caught:
            sharena.Heap(*arguments)
        for way in ("Heap.create(name)", "Heap.attach(name)", "Heap.default()"):
            assert way in str(caught.value)
    with pytest.raises(TypeError):
        sharena.Heap(name="t1")
    with pytest.raises(TypeError):
        object.__new__(sharena.Heap)


@pytest.mark.parametrize(
    ("value", "kind"),
    [({"a": 1}, "dict"), (None, "NoneType"), ([1, None], "list"), (object(), "object")],
    ids=repr,
)
def test_what_is_no_array_is_named(heap, value, kind):
    with pytest.raises(TypeError, match=f"^a {kind} is no array"):
        heap["x"] = value


def test_a_table_loses_no_labels_under_a_name(heap):
    with pytest.raises(TypeError, match=r"^a DataFrame is no array: .*\.to_numpy\(\)"):
        heap["x"] = DataFrame()
    heap["x"] = DataFrame().to_numpy()
    del heap["x"]


def test_nor_do_pandas_objects(heap):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": [1.5, 2.5]}, index=["u", "v"])
    for value, kind in ((frame, "DataFrame"), (frame["a"], "Series"), (frame.index, "Index")):
        with pytest.raises(TypeError, match=f"^a {kind} is no array"):
            heap["x"] = value
    heap["x"] = frame["a"].to_numpy()
    assert heap["x"].tolist() == [1.5, 2.5]
    del heap["x"]


@pytest.mark.parametrize(
    "value",
    [Tensor(), [1, 2], 5, 2.5, b"ab", "ab", bytearray(b"ab"), memoryview(b"ab"), np.float32(3)]
    + [np.ones(3)[::-1], np.ma.MaskedArray([1, 2]), range(4), (True, False), 1j],
    ids=repr,
)
def test_what_numpy_makes_an_array_of_can_be_named(heap, value):
    heap["x"] = value
    assert np.array_equal(heap["x"], np.asarray(value))
    assert heap["x"].dtype == np.asarray(value).dtype
    del heap["x"]


HINTS = [
    (Tensor, "Tensor", "; pass its .numpy()"),
    (DataFrame, "DataFrame", "; pass its .to_numpy()"),
    (lambda: np.float64(3), "numpy.float64", "; pass numpy.asarray() of it"),
    (lambda: np.ones, "function", ""),
    (lambda: [1.0], "list", ""),
]


@pytest.mark.parametrize(("make", "kind", "hint"), HINTS, ids=[kind for _, kind, _ in HINTS])
def test_a_handle_needs_an_array(make, kind, hint):
    with pytest.raises(TypeError) as caught:
        sharena.handle(make())
    text = str(caught.value)
    assert text.startswith("handle() needs a numpy.ndarray, not ")
    assert kind in text
    assert text.endswith(hint)
    assert ("pass" in text) == bool(hint)


FULL = """
import sharena
try:
    held = [sharena.ones(1 << 17) for _ in range(100)]
except sharena.HeapFullError as error:
    print(error)
with sharena.Heap.create(limit="8MiB") as heap:
    try:
        sharena.ones(1 << 21, heap=heap)
    except sharena.HeapFullError as error:
        print(error)
"""


def test_a_full_heap_speaks_in_units_and_names_the_variable(run_python):
    done = run_python("-c", FULL, env={"SHARENA_LIMIT": "8MiB"})
    default, own = done.stdout.splitlines()
    assert "is full: 1 MiB asked for, but of its limit of 8 MiB it uses 7." in default
    assert "SHARENA_LIMIT" in default
    assert own.startswith("16 MiB asked for, but the limit of heap ")
    assert "is 8 MiB;" in own
    assert "SHARENA_LIMIT" not in own


@pytest.mark.parametrize("limit", ["0", "0GiB", "many", "-5", "8MiB9"])
def test_a_limit_that_is_none(run_python, limit):
    """It does not silently become the default; importing is not where it fails."""
    text = "import sharena\nprint('imported')\nsharena.ones(3)"
    done = run_python("-c", text, env={"SHARENA_LIMIT": limit})
    assert done.stdout == "imported\n"
    assert f"ValueError: SHARENA_LIMIT={limit} is no size" in done.stderr


def test_attach_documents_what_it_raises():
    for name in ("HeapPermissionError", "HeapNotFoundError", "NotAHeapError", "CorruptHeapError"):
        assert name in sharena.Heap.attach.__doc__
    assert "HeapPermissionError" in sharena.Heap.create.__doc__
