"""The constructors against NumPy's own: same arguments, same result, in shared memory."""

import inspect

import hypothesis.extra.numpy as npst
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import sharena

DTYPES = [
    "?",
    "i1",
    ">u2",
    "f8",
    "c16",
    "g",
    "S7",
    "U3",
    "V5",
    "M8[us]",
    "m8[D]",
    np.dtype([("x", "f4"), ("y", "i8", (2, 3))]),
    np.dtype({"names": ["a", "b"], "formats": ["u1", "f8"], "offsets": [0, 16], "itemsize": 32}),
    np.dtype([("n", [("m", "S2"), ("t", "M8[s]")])]),
]
SHAPES = [(), (0,), (1,), (7,), (3, 0, 2), (4, 5), (2, 3, 4, 5)]


def same(ours, numpys):
    """Shape, strides, dtype and flags; and that it is a plain ndarray of ours."""
    assert type(ours) is np.ndarray
    assert ours.shape == numpys.shape
    assert ours.dtype == numpys.dtype
    if ours.size:  # the strides of empty arrays and of axes of length 1 mean nothing
        steps = zip(ours.shape, ours.strides, numpys.strides, strict=True)
        assert all(mine == its for length, mine, its in steps if length > 1)
    for flag in ("C_CONTIGUOUS", "F_CONTIGUOUS", "WRITEABLE", "ALIGNED"):
        assert ours.flags[flag] == numpys.flags[flag], flag
    assert sharena.is_shared(ours) == (ours.nbytes > 0)


def equal(ours, numpys):
    same(ours, numpys)
    np.testing.assert_array_equal(ours, numpys)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_empty_and_zeros(dtype, shape, order):
    same(sharena.empty(shape, dtype, order), np.empty(shape, dtype, order))
    equal(sharena.zeros(shape, dtype, order), np.zeros(shape, dtype, order))


@pytest.mark.parametrize("shape", SHAPES)
def test_ones_and_full(shape):
    for dtype in ("f8", "?", ">i4", "c8"):
        equal(sharena.ones(shape, dtype), np.ones(shape, dtype))
        equal(sharena.full(shape, 3, dtype), np.full(shape, 3, dtype))
    equal(sharena.full(shape, 2.5), np.full(shape, 2.5))
    equal(sharena.full(shape, 2), np.full(shape, 2))
    equal(sharena.full(shape, "abc"), np.full(shape, "abc"))
    equal(sharena.full((2, 3), [1, 2, 3]), np.full((2, 3), [1, 2, 3]))


@pytest.mark.parametrize(
    "shape", [5, (5,), [2, 3], np.int8(3), np.array([2, 2]), (np.uint16(2), 3)]
)
def test_kinds_of_shapes(shape):
    equal(sharena.zeros(shape), np.zeros(shape))
    equal(sharena.zeros(shape=shape, dtype="i4"), np.zeros(shape=shape, dtype="i4"))


MODELS = {
    "c": np.arange(24.0).reshape(2, 3, 4),
    "f": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "permuted": np.arange(24, dtype=">i2").reshape(2, 3, 4).transpose(1, 0, 2),
    "sliced": np.arange(60.0).reshape(3, 4, 5)[:, ::2, ::-1],
    "broadcast": np.broadcast_to(np.arange(3.0), (4, 3)),
    "scalar": np.array(3.5),
    "list": [[1, 2], [3, 4]],
    "empty": np.zeros((0, 3)),
}


@pytest.mark.parametrize("order", ["K", "C", "F", "A"])
@pytest.mark.parametrize("model", MODELS)
def test_like(model, order):
    a = MODELS[model]
    same(sharena.empty_like(a, order=order), np.empty_like(a, order=order))
    equal(sharena.zeros_like(a, order=order), np.zeros_like(a, order=order))
    equal(sharena.ones_like(a, order=order), np.ones_like(a, order=order))
    equal(sharena.full_like(a, 7, order=order), np.full_like(a, 7, order=order))
    equal(sharena.ones_like(a, "u1", shape=(3, 2)), np.ones_like(a, "u1", shape=(3, 2)))
    if order == "K":
        same(sharena.empty_like(a), np.empty_like(a))
        equal(sharena.zeros_like(a), np.zeros_like(a))
        equal(sharena.ones_like(a), np.ones_like(a))


@pytest.mark.parametrize("order", ["K", "C", "F", "A"])
@pytest.mark.parametrize("model", MODELS)
def test_array_copies(model, order):
    a = MODELS[model]
    equal(sharena.array(a, order=order), np.array(a, order=order))
    equal(sharena.array(a, "f4", ndmin=4), np.array(a, "f4", ndmin=4))
    equal(sharena.copy(a, order=order), np.copy(a, order=order))
    equal(sharena.asarray(a), np.array(a))
    equal(sharena.ascontiguousarray(a), np.ascontiguousarray(a).copy())


@given(npst.arrays(npst.scalar_dtypes(), npst.array_shapes(min_dims=0, min_side=0)))
def test_array_of_anything(a):
    equal(sharena.array(a), np.array(a))


@given(
    npst.arrays("i4", npst.array_shapes(max_dims=4, max_side=5)).flatmap(
        lambda a: st.tuples(st.just(a), npst.basic_indices(a.shape))
    )
)
def test_array_of_any_view(pair):
    a, index = pair
    view = np.asarray(a[index])
    equal(sharena.array(view), np.array(view))


@given(
    st.one_of(
        st.lists(st.floats()),
        st.lists(st.integers(-(2**63), 2**63 - 1)),
        st.lists(st.one_of(st.floats(), st.integers(-(2**65), 2**65), st.booleans())),
    ),
    st.sampled_from([list, tuple]),
)
def test_array_of_numbers(numbers, kind):
    numbers = kind(numbers)
    numpys = np.array(numbers)
    if numpys.dtype == object:
        with pytest.raises(TypeError, match="Python objects"):
            sharena.array(numbers)
    else:
        equal(sharena.array(numbers), numpys)
        equal(sharena.asarray(numbers), numpys)


def test_what_is_there_already_is_not_copied():
    a = sharena.ones((3, 4))
    for same_array in (
        sharena.asarray(a),
        sharena.asarray(a, dtype=float),
        sharena.ascontiguousarray(a),
        sharena.array(a, copy=None),
    ):
        assert same_array is a or np.shares_memory(same_array, a)
    for other in (sharena.array(a), sharena.copy(a), sharena.asarray(a, "f4")):
        assert not np.shares_memory(other, a)
    view = a[:, 1:]
    assert sharena.is_shared(sharena.asarray(view))
    assert np.shares_memory(sharena.asarray(view), a)


OTHER_HEAP = {
    "zeros": lambda heap, a: sharena.zeros(5, heap=heap),
    "full": lambda heap, a: sharena.full(5, 1, heap=heap),
    "array": lambda heap, a: sharena.array([1, 2], heap=heap),
    "zeros_like": lambda heap, a: sharena.zeros_like(a, heap=heap),
    "copy": lambda heap, a: sharena.copy(a, heap=heap),
}


@pytest.mark.parametrize("make", OTHER_HEAP)
def test_other_heaps(make):
    with sharena.Heap.create() as other:
        a = sharena.ones(100, heap=other)
        assert other.stats().blocks == 1
        b = OTHER_HEAP[make](other, a)
        assert sharena.is_shared(b)
        assert other.stats().blocks == 2
        del b
        assert other.stats().blocks == 1
        here = sharena.asarray(a, heap=sharena.Heap.default())
        assert not np.shares_memory(here, a)
        del a
        assert other.stats().blocks == 0


def test_recycled_memory_is_zero_where_promised():
    for count in (10, 1000, 20_000, 1_000_000):
        for _ in range(3):
            a = sharena.full(count, 9.0)
            del a
            assert (sharena.zeros(count) == 0).all()


def test_alignment():
    for count in (1, 8, 100, 1000, 10_000, 1_000_000):
        arrays = [sharena.empty(count) for _ in range(4)]
        step = 64 if count * 8 >= 64 else 16 if count * 8 >= 16 else 8
        assert all(a.ctypes.data % step == 0 for a in arrays), count


def test_views_are_shared_and_copies_are_not():
    a = sharena.ones((6, 8))
    views = [a[2], a[::-1], a.T, a[1:3, ::2], a.ravel(), a.view("u1"), a[..., None], a.real]
    assert all(sharena.is_shared(view) for view in views)
    others = [a.copy(), a + 1, a[[1, 2]], a[:0], np.ones(3), [1], None]
    assert not any(sharena.is_shared(other) for other in others)


def test_memory_that_only_looks_like_a_blocks():
    """A view that reaches beyond its block is not shared."""
    a = sharena.ones(16)
    beyond = np.lib.stride_tricks.as_strided(a, (10_000,), (8,))
    assert not sharena.is_shared(beyond)


def test_resize_in_place_is_refused():
    a = sharena.ones(10)
    with pytest.raises(ValueError, match="own"):
        a.resize(20, refcheck=False)


@pytest.mark.parametrize(
    "name",
    "empty zeros ones full array asarray ascontiguousarray copy empty_like zeros_like "
    "ones_like full_like".split(),
)
def test_signatures_are_numpys_and_heap(name):
    try:
        numpys = inspect.signature(getattr(np, name))
    except ValueError:
        pytest.skip("this NumPy does not tell")
    ours = inspect.signature(getattr(sharena, name)).parameters
    assert "heap" in ours
    for parameter in numpys.parameters:
        assert parameter in ours, parameter


def test_object_dtypes_are_refused_with_a_reason():
    for make in (
        lambda: sharena.array([None, "x"]),
        lambda: sharena.zeros(2, dtype="O"),
        lambda: sharena.empty(2, dtype=[("a", "i4"), ("b", "O")]),
        lambda: sharena.asarray(np.array([{}, 1], dtype=object)),
        lambda: sharena.full(2, None),
    ):
        with pytest.raises(TypeError, match=r"object"):
            make()
