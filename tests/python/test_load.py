"""load(): .npy files straight into shared memory."""

import io
import signal
import threading

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
from hypothesis import given

import sharena


@given(npst.arrays(npst.scalar_dtypes(), npst.array_shapes(min_dims=0, min_side=0)))
def test_what_numpy_saves(a):
    file = io.BytesIO()
    np.save(file, a)
    file.write(b"rest")
    file.seek(0)
    loaded = sharena.load(file)
    assert loaded.dtype == a.dtype
    assert loaded.shape == a.shape
    assert loaded.tobytes() == a.tobytes()
    assert sharena.is_shared(loaded) == (a.nbytes > 0)
    assert file.read() == b"rest"  # exactly the array was read


def test_paths_and_fortran_order(tmp_path):
    a = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    np.save(tmp_path / "a.npy", a)
    for path in (tmp_path / "a.npy", str(tmp_path / "a.npy")):
        loaded = sharena.load(path)
        assert loaded.flags.f_contiguous
        np.testing.assert_array_equal(loaded, a)


def test_structured_arrays(tmp_path):
    a = np.zeros(5, dtype=[("x", "f4"), ("s", "S3"), ("d", "M8[s]")])
    a["s"] = b"abc"
    np.save(tmp_path / "a.npy", a)
    np.testing.assert_array_equal(sharena.load(tmp_path / "a.npy"), a)


def test_more_than_one_chunk(tmp_path):
    a = np.arange(5_000_000, dtype=np.int64)  # 40 MB
    np.save(tmp_path / "a.npy", a)
    np.testing.assert_array_equal(sharena.load(tmp_path / "a.npy"), a)


def test_other_heaps(tmp_path):
    np.save(tmp_path / "a.npy", np.ones(100))
    with sharena.Heap.create() as heap:
        a = sharena.load(tmp_path / "a.npy", heap=heap)
        assert heap.stats().blocks == 1
        del a


def test_archives_are_refused_with_the_way_out(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones(3))
    with pytest.raises(ValueError, match=r"\.npz"):
        sharena.load(tmp_path / "a.npz")


class Interrupting(io.BytesIO):
    """A file at whose third large read somebody presses Ctrl-C."""

    reads = 0

    def readinto(self, buffer):
        self.reads += 1
        if self.reads == 3:
            signal.raise_signal(signal.SIGINT)
        return super().readinto(buffer)


@pytest.fixture
def ctrl_c():
    """As at a terminal: whoever starts the tests in the background may ignore the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_it_and_leaves_nothing():
    assert threading.current_thread() is threading.main_thread()
    file = Interrupting()
    np.save(file, np.ones(8_000_000))
    file.seek(0)
    blocks = sharena.Heap.default().stats().blocks
    with pytest.raises(KeyboardInterrupt):
        sharena.load(file)
    assert file.reads == 3
    assert sharena.Heap.default().stats().blocks == blocks
