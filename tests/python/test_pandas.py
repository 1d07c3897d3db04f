"""pandas objects through the interprocess picklers: equal, shared, or one Lost."""

import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest

import sharena

pd = pytest.importorskip("pandas")


def shared(values):
    return sharena.array(np.asarray(values))


def there_and_back(obj):
    return ForkingPickler.loads(ForkingPickler.dumps(obj))


def mixed():
    frame = pd.DataFrame(shared(np.arange(12.0).reshape(4, 3)), columns=list("xyz"), copy=False)
    frame["text"] = ["a", "b", None, "d"]
    frame["kind"] = pd.Categorical(["u", "v", "u", "u"])
    frame["when"] = pd.date_range("2020-01-01", periods=4, tz="Europe/Berlin")
    frame["some"] = pd.array([1, None, 3, 4], dtype="Int64")
    frame["sparse"] = pd.arrays.SparseArray([0, 0, 5, 0])
    frame.index = pd.MultiIndex.from_product([["p", "q"], [1, 2]], names=["a", "b"])
    frame.attrs["note"] = {"deep": [1, 2]}
    return frame


OBJECTS = {
    "mixed frame": mixed,
    "frame": lambda: pd.DataFrame(shared(np.eye(3)), copy=False),
    "series": lambda: pd.Series(shared(np.arange(5.0)), name="s", copy=False),
    "index": lambda: pd.Index(shared(np.arange(5))),
    "dates": lambda: pd.DatetimeIndex(shared(np.array(["2020-01-01", "2021-02-03"], "M8[ns]"))),
    "categories": lambda: pd.Series(pd.Categorical(["x", "y", "x"])),
    "nullable": lambda: pd.array([1, None, 3], dtype="Int64"),
    "interval": lambda: pd.IntervalIndex.from_breaks(shared(np.arange(4.0))),
    "range": lambda: pd.RangeIndex(7, name="r"),
    "private frame": lambda: pd.DataFrame({"a": [1.5, 2.5], "b": ["x", "y"]}),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_everything_arrives_equal(name):
    obj = OBJECTS[name]()
    back = there_and_back(obj)
    assert type(back) is type(obj)
    if isinstance(obj, pd.DataFrame):
        pd.testing.assert_frame_equal(back, obj)
        assert back.attrs == obj.attrs
    elif isinstance(obj, pd.Series):
        pd.testing.assert_series_equal(back, obj)
    elif isinstance(obj, pd.Index):
        pd.testing.assert_index_equal(back, obj)
    else:
        pd.testing.assert_extension_array_equal(back, obj)


def test_shared_columns_stay_shared():
    data = shared(np.arange(12.0).reshape(3, 4))
    back = there_and_back(pd.DataFrame(data.T, copy=False))
    data[1, 2] = 99
    assert back.iloc[2, 1] == 99


class Mine(pd.DataFrame):
    """A subclass, of which nobody knows but its maker."""


def with_attrs(array):
    frame = pd.DataFrame({"a": [1]})
    frame.attrs["deep"] = [array]
    return frame


LOSE = {
    "mixed frame": mixed,
    "frame": OBJECTS["frame"],
    "series": OBJECTS["series"],
    "index": lambda: pd.Index(shared(np.arange(5)), copy=False),
    "interval": OBJECTS["interval"],
    "attrs": lambda: with_attrs(shared(np.arange(3))),
    "nullable": lambda: pd.arrays.IntegerArray(shared(np.arange(3)), shared(np.zeros(3, bool))),
    "subclass": lambda: Mine(shared(np.eye(3)), copy=False),
}


@pytest.mark.parametrize("name", LOSE)
def test_one_lost_array_makes_one_lost_object(name):
    message = bytes(ForkingPickler.dumps({"object": LOSE[name](), "number": 3}))
    sharena.Heap.default().expire_tickets()
    back = ForkingPickler.loads(message)
    assert back["number"] == 3
    assert type(back["object"]) is sharena.Lost
    with pytest.raises(sharena.StaleHandleError):
        back["object"].columns  # noqa: B018 # the look at it is what is tested


def test_objects_without_shared_arrays_are_pickled_as_ever():
    """A receiver without sharena can load them."""
    frame = OBJECTS["private frame"]()
    message = bytes(ForkingPickler.dumps(frame))
    assert b"sharena" not in message
    # Shared ones within by_value() are the bytes of a plain pickle with copies of arrays.
    series = OBJECTS["series"]()
    with sharena.by_value():
        assert bytes(ForkingPickler.dumps(series)) == pickle.dumps(series, 4)


def test_an_array_within_and_beside_an_object_is_sent_once():
    data = shared(np.arange(1000.0))
    before = sharena.Heap.default().stats().handle_arrays
    message = ForkingPickler.dumps([data, pd.Series(data, copy=False)])
    sent = sharena.Heap.default().stats().handle_arrays - before
    assert 1 <= sent <= 2  # pandas may hold a view of its own
    array, series = ForkingPickler.loads(message)
    array[5] = -1
    assert series[5] == -1


def test_dumping_twice_is_independent():
    frame = OBJECTS["frame"]()
    first, second = (bytes(ForkingPickler.dumps(frame)) for _ in range(2))
    assert pickle.loads(first).equals(pickle.loads(second))
