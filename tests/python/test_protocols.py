"""Arrays of the heap in other libraries and back, by each protocol, with no copy.

Against the libraries themselves; one that is not installed is skipped.
"""

import ctypes
import gc
import warnings
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest

import sharena

NUMPY = np.lib.NumpyVersion(np.__version__)


class Interface:
    """What has nothing but __array_interface__, as images and sensors of other packages."""

    def __init__(self, array):
        self.__array_interface__ = array.__array_interface__
        self.array = array


class Tensor:
    """What has nothing but DLPack."""

    def __init__(self, array):
        self.array = array

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __dlpack__(self, **how):
        return self.array.__dlpack__(**how)


def late(module, name):
    """A function of a library, imported where it is called."""

    def call(array):
        return getattr(pytest.importorskip(module), name)(array)

    return call


def torch_frombuffer(array):
    torch = pytest.importorskip("torch")
    return torch.frombuffer(array, dtype=torch.float64)


def arrow_foreign_buffer(array):
    pa = pytest.importorskip("pyarrow")
    return pa.foreign_buffer(array.ctypes.data, array.nbytes, base=array)


def arrow_column(array):
    pa = pytest.importorskip("pyarrow")
    return pa.Array.from_buffers(pa.float64(), array.size, [None, pa.py_buffer(array)])


def to_numpy(column):
    return column.to_numpy()


def numpy_of(tensor):
    return tensor.numpy()


WAYS = {  # name: (to the other library, back)
    "memoryview": (memoryview, np.asarray),
    "frombuffer": (memoryview, np.frombuffer),
    "ctypes": (lambda a: (ctypes.c_double * a.size).from_buffer(a), np.ctypeslib.as_array),
    "__array_interface__": (Interface, np.asarray),
    "dlpack": (Tensor, np.from_dlpack),
    "torch.from_numpy": (late("torch", "from_numpy"), numpy_of),
    "torch.from_dlpack": (late("torch", "from_dlpack"), np.from_dlpack),
    "torch.as_tensor": (late("torch", "as_tensor"), np.asarray),
    "torch.frombuffer": (torch_frombuffer, numpy_of),
    "pyarrow.py_buffer": (late("pyarrow", "py_buffer"), np.frombuffer),
    "pyarrow.foreign_buffer": (arrow_foreign_buffer, np.frombuffer),
    "pyarrow.array": (late("pyarrow", "array"), to_numpy),
    "pyarrow.Array.from_buffers": (arrow_column, to_numpy),
}
# Of Arrow's buffers only one of writable memory that has the buffer protocol is mutable.
IMMUTABLE = {"pyarrow.foreign_buffer", "pyarrow.array", "pyarrow.Array.from_buffers"}
REFUSE_READONLY = {"ctypes", "torch.from_numpy", "torch.as_tensor", "torch.frombuffer"}


def sent_by_handle(array):
    """How many arrays of it went by handle; what came back sees the same memory."""
    before = sharena.Heap.default().stats().handle_arrays
    back = ForkingPickler.loads(bytes(ForkingPickler.dumps(array)))
    assert back.ctypes.data == array.ctypes.data
    return sharena.Heap.default().stats().handle_arrays - before


@pytest.mark.parametrize("way", WAYS)
def test_there_and_back_without_a_copy(way):
    there, back = WAYS[way]
    a = sharena.array(np.arange(16.0))
    other = there(a)
    b = back(other)
    assert type(b) is np.ndarray
    assert b.ctypes.data == a.ctypes.data
    a[3] = -1
    assert b[3] == -1
    if NUMPY >= "2.2.0" or "dlpack" not in way:  # before, from_dlpack() gave only read-only ones
        assert b.flags.writeable == (way not in IMMUTABLE)
    if b.flags.writeable:
        b[4] = -2
        assert a[4] == -2
    assert sharena.is_shared(b)
    assert sharena.is_shared(b[2::3])
    assert sent_by_handle(b) == 1


@pytest.mark.parametrize("way", WAYS)
def test_the_block_lives_as_long_as_the_other_library_uses_it(way):
    there, back = WAYS[way]
    heap = sharena.Heap.default()
    gc.collect()
    blocks = heap.stats().blocks
    a = sharena.array(np.arange(16.0))
    other = there(a)
    del a
    assert heap.stats().blocks == blocks + 1
    b = back(other)
    assert (b == np.arange(16)).all()
    del b
    assert heap.stats().blocks == blocks + 1
    del other
    gc.collect()
    assert heap.stats().blocks == blocks


@pytest.mark.parametrize("way", WAYS)
def test_foreign_memory_is_freed_when_the_other_library_is_done(way):
    there, back = WAYS[way]
    freed = []
    memory = ctypes.create_string_buffer(256)
    address = -(-ctypes.addressof(memory) // 64) * 64
    a = sharena.from_address(address, 16, "f8", free=freed.append, owner=memory)
    a[:] = np.arange(16)
    other = there(a)
    del a
    b = back(other)
    assert b.ctypes.data == address
    assert (b == np.arange(16)).all()
    del other
    assert not freed
    del b
    gc.collect()
    assert freed == [address]


@pytest.mark.parametrize("way", [way for way in WAYS if way not in REFUSE_READONLY])
def test_readonly_stays_so(way):
    if "dlpack" in way and NUMPY < "2.1.0":
        pytest.skip("NumPy before 2.1 can't export it")
    there, back = WAYS[way]
    a = sharena.share(sharena.array(np.arange(16.0)), readonly=True)
    b = back(there(a))
    assert b.ctypes.data == a.ctypes.data
    assert sharena.is_shared(b)
    if way == "torch.from_dlpack":  # which forgets it: as docs/foreign-memory.md says
        assert b.flags.writeable
        return
    assert not b.flags.writeable
    with pytest.raises(ValueError, match="WRITEABLE"):
        b.flags.writeable = True


def test_torch_takes_readonly_memory_and_warns():
    torch = pytest.importorskip("torch")
    a = sharena.share(sharena.array(np.arange(16.0)), readonly=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it does so once in a process
        assert torch.from_numpy(a).data_ptr() == a.ctypes.data


def test_a_view_of_torch_is_a_view_of_the_block():
    a = sharena.array(np.arange(24.0).reshape(4, 6))
    t = pytest.importorskip("torch").from_numpy(a)[1:, ::2].T
    b = t.numpy()
    assert b.strides == (16, 48)
    assert sent_by_handle(b) == 1
    c = sharena.attach(sharena.handle(b))
    t += 100
    assert (c == a[1:, ::2].T).all()
    assert c[0, 0] == 106


# ---- memory of theirs ----


def test_over_an_object_with_array_interface():
    owner = np.arange(10.0)
    interface = Interface(owner).__array_interface__
    a = sharena.from_address(
        interface["data"][0], interface["shape"], interface["typestr"], owner=owner
    )
    a[2] = 7
    assert owner[2] == 7
    shared = sharena.asarray(Interface(owner))  # copied, once
    assert sharena.is_shared(shared)
    assert (shared == owner).all()


def test_over_a_buffer_of_arrow():
    pa = pytest.importorskip("pyarrow")
    before = pa.total_allocated_bytes()
    buffer = pa.array(np.arange(1e5), from_pandas=False).take(pa.array([5, 7])).buffers()[1]
    a = sharena.from_address(buffer.address, 2, "f8", readonly=True, owner=buffer)
    del buffer
    gc.collect()
    assert a.tolist() == [5, 7]
    assert pa.total_allocated_bytes() > before
    del a
    gc.collect()
    assert pa.total_allocated_bytes() == before


def test_over_a_tensor():
    tensor = pytest.importorskip("torch").arange(12).reshape(3, 4)[:, 1::2]
    strides = [8 * stride for stride in tensor.stride()]
    address, shape = tensor.data_ptr(), tuple(tensor.shape)
    a = sharena.from_address(address, shape, "i8", strides=strides, owner=tensor)
    assert a.tolist() == [[1, 3], [5, 7], [9, 11]]
    a[0, 1] = -1
    assert tensor[0, 1] == -1


def test_over_a_mapped_file(tmp_path):
    """mmap has the buffer protocol and a destructor of its own."""
    import mmap

    path = tmp_path / "file"
    path.write_bytes(bytes(8192))
    with path.open("r+b") as file:
        mapping = mmap.mmap(file.fileno(), 8192)
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
    a = sharena.from_address(address + 4096, 1024, "<i4", owner=memoryview(mapping))
    a[:] = 5
    with pytest.raises(BufferError):
        mapping.close()
    del a
    mapping.close()
    assert path.read_bytes()[4096:4100] == b"\5\0\0\0"
