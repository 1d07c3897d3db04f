"""load(): .npy files straight into shared memory."""

import io
import os
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


# ---- files that are odd: what numpy.load does --------------------------------------------


class Wrapped:
    """A file object that has read() and seek() only."""

    def __init__(self, file):
        self._file = file

    def read(self, size=-1):
        return self._file.read(size)

    def seek(self, *arguments):
        return self._file.seek(*arguments)


class InSteps(Wrapped):
    def read(self, size=-1):
        return self._file.read(min(size, 7))


class NegativeReadinto(Wrapped):
    def readinto(self, buffer):
        return -5


class TooLargeReadinto(Wrapped):
    def readinto(self, buffer):
        return len(buffer) + 1


class ReadintoIsNoNumber(Wrapped):
    def readinto(self, buffer):
        return "many"


class ReadintoRaises(Wrapped):
    @property
    def readinto(self):
        raise KeyboardInterrupt


class ReadRaises:
    def __init__(self, file):
        pass

    @property
    def read(self):
        raise KeyboardInterrupt


class ReadFails(ReadRaises):
    @property
    def read(self):
        raise RuntimeError("the disk is on fire")


class ReadIsMissing(ReadRaises):
    @property
    def read(self):
        raise AttributeError("read")


class ReadsText(Wrapped):
    def read(self, size=-1):
        return self._file.read(size).decode("latin1")


class ReadsBytearrays(Wrapped):
    def read(self, size=-1):
        return bytearray(self._file.read(size))


class ReadsNothing(Wrapped):
    """As a pipe that does not block, in the middle of the data."""

    def read(self, size=-1):
        return None if size == 800 else self._file.read(size)


class ReadsTooMuch(Wrapped):
    """Of the data, once the header has been read."""

    def read(self, size=-1):
        return self._file.read(size) + (b"x" if size == 800 else b"")


class EndsEarly(Wrapped):
    def read(self, size=-1):
        return self._file.read(size if size < 800 else size // 2) if size != 400 else b""


class SubclassOfBytesIO(io.BytesIO):
    def __init__(self, file):
        super().__init__(file.getvalue())

    def readinto(self, buffer):
        return -1


class Raw(io.RawIOBase):
    def __init__(self, file):
        self._file = file

    def readable(self):
        return True

    def seekable(self):
        return True

    def readinto(self, buffer):
        return self._file.readinto(buffer)

    def seek(self, *arguments):
        return self._file.seek(*arguments)


def buffered(file):
    return io.BufferedReader(Raw(file))


def outcome(load, *arguments, **options):
    """What came of it, to compare: the array, or the exception's type."""
    try:
        return load(*arguments, **options)
    except BaseException as error:
        return type(error)


def same(ours, numpys):
    if isinstance(numpys, np.ndarray):
        return ours.dtype == numpys.dtype and np.array_equal(ours, numpys)
    return ours is numpys


@pytest.mark.parametrize(
    "kind",
    [*Wrapped.__subclasses__(), *ReadRaises.__subclasses__(), Wrapped, ReadRaises]
    + [SubclassOfBytesIO, Raw, buffered],
    ids=lambda kind: kind.__name__,
)
def test_odd_files_are_taken_as_numpy_takes_them(kind):
    file = io.BytesIO()
    seed = sum(map(ord, kind.__name__))  # no other's data may lie in the block by chance
    np.save(file, np.random.default_rng(seed).random(100))
    numpys, ours = (
        outcome(load, kind(io.BytesIO(file.getvalue()))) for load in (np.load, sharena.load)
    )
    assert same(ours, numpys), (ours, numpys)


def test_a_descriptor_is_no_file(tmp_path):
    """numpy.load refuses numbers; io.open() would take them, and close them afterwards."""
    np.save(tmp_path / "a.npy", np.ones(3))
    descriptor = os.open(tmp_path / "a.npy", os.O_RDONLY)
    try:
        for wrong in (descriptor, np.int64(descriptor), True, 2.0, None, [descriptor]):
            assert outcome(np.load, wrong) is outcome(sharena.load, wrong) is TypeError
            os.fstat(descriptor)
            os.fstat(1)  # True
    finally:
        os.close(descriptor)


def test_false_does_not_close_the_standard_input(run_python):
    text = (
        "import os, sharena\n"
        "try:\n    sharena.load(False)\n"
        "except TypeError:\n    os.fstat(0)\n    print('refused')\n"
    )
    assert run_python("-c", text).stdout == "refused\n"


@pytest.mark.parametrize("path", ["a\0.npy", b"a\0.npy", "missing.npy", "", "\ud800"], ids=ascii)
def test_paths_that_cannot_be(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "a", np.ones(3))
    expected = outcome(np.load, path)
    assert issubclass(expected, Exception)
    assert outcome(sharena.load, path) is expected


@pytest.mark.parametrize("encoding", ["ASCII", "latin1", "bytes", "utf8", "ASCII\0", None])
def test_encodings(encoding):
    file = io.BytesIO()
    np.save(file, np.arange(5))
    numpys, ours = (
        outcome(load, io.BytesIO(file.getvalue()), encoding=encoding)
        for load in (np.load, sharena.load)
    )
    assert same(ours, numpys)


@pytest.mark.parametrize("cut", [0, 1, 5, 6, 9, 60, 128, 200])
def test_a_file_that_is_cut_short(cut):
    file = io.BytesIO()
    np.save(file, np.arange(50.0))
    data = file.getvalue()[:cut]
    expected = outcome(np.load, io.BytesIO(data))
    assert issubclass(expected, (ValueError, EOFError))
    assert outcome(sharena.load, io.BytesIO(data)) is expected
    assert outcome(sharena.load, Wrapped(io.BytesIO(data))) is expected


# ---- Ctrl-C ------------------------------------------------------------------------------


class Interrupting(io.BytesIO):
    """A file at whose third large read somebody presses Ctrl-C."""

    reads = 0

    def read(self, size=-1):
        if size > 1 << 20:
            self.reads += 1
        if self.reads == 3:
            signal.raise_signal(signal.SIGINT)
        return super().read(size)


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
