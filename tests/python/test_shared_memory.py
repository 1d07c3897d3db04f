"""SharedMemory: multiprocessing's, in a heap."""

import contextlib
import os
import pathlib
import pickle
import threading
from multiprocessing import shared_memory

import numpy as np
import pytest

import sharena

PROGRAM = "shared_memory.py"


def test_between_processes(run_program, method, case):
    run_program(PROGRAM, method, case)


def test_the_heap_is_where_the_page_says(memory):
    page = pathlib.Path(__file__).parents[2] / "docs/drop-ins.md"
    form = f"shm{sharena._core._FORMAT}."
    assert f"`{form}UID`" in page.read_text(encoding="utf-8")
    heap = sharena.Heap.attach(f"{form}{os.geteuid()}")
    assert any(key.endswith(memory.name) for key in heap)
    heap.close()


@pytest.fixture
def name(request):
    return f"{request.node.name}.{os.getpid()}"


@pytest.fixture
def memory(name):
    memory = sharena.SharedMemory(name, create=True, size=1000)
    yield memory
    memory.close()
    with contextlib.suppress(FileNotFoundError):
        memory.unlink()


def test_it_looks_like_the_original(memory, name):
    public = {x for x in dir(shared_memory.SharedMemory) if not x.startswith("_")}
    assert public == {x for x in dir(sharena.SharedMemory) if not x.startswith("_")}
    assert (memory.name, memory.size, len(memory.buf)) == (name, 1000, 1000)
    assert repr(memory) == f"SharedMemory({name!r}, size=1000)"
    assert bytes(memory.buf) == bytes(1000)
    assert not memory.buf.readonly
    same = sharena.SharedMemory(name=name, track=False)
    same.buf[:3] = b"abc"
    assert bytes(memory.buf[:3]) == b"abc"
    same.close()
    assert same.buf is None
    assert (same.name, same.size) == (name, 1000)
    same.close()


def test_the_first_unlink_after_the_last_close(name):
    memory = sharena.SharedMemory(name, create=True, size=10)
    other = sharena.SharedMemory(name)
    memory.close()
    other.close()
    with pytest.raises(FileNotFoundError):
        sharena.SharedMemory(name)
    memory.unlink()
    for one in (other, memory):
        with pytest.raises(FileNotFoundError):
            one.unlink()


def test_a_name_that_nobody_has_open_can_be_created(name):
    sharena.SharedMemory(name, create=True, size=10).close()
    memory = sharena.SharedMemory(name, create=True, size=20)
    assert memory.size == 20
    with pytest.raises(FileExistsError) as caught:
        sharena.SharedMemory(name, create=True, size=20)
    assert caught.value.filename.endswith(name)
    memory.close()
    with pytest.raises(FileNotFoundError):  # though the error is still there
        sharena.SharedMemory(name)
    memory.unlink()


def test_what_uses_the_memory_keeps_it(memory):
    views = [
        lambda: np.frombuffer(memory.buf, "f8"),
        lambda: np.ndarray(3, "f8", memory.buf),
        lambda: memory.buf[3:],
        lambda: memoryview(memory.buf),
    ]
    for view in views:
        memory = sharena.SharedMemory(memory.name)
        array = view()
        for _ in range(2):
            with pytest.raises(BufferError):
                memory.close()
        array[0] = 1
        del array
        memory.close()
        assert memory.buf is None


def test_arrays_outlive_the_object(name):
    memory = sharena.SharedMemory(name, create=True, size=80)
    array = np.frombuffer(memory.buf, "f8")
    memory.unlink()
    del memory
    array[:] = 2
    assert array.sum() == 20


def test_it_is_viewed_like_the_original(memory):
    array = sharena.shmem_as_ndarray(memory, dtype="i4", shape=(2, 3))
    array[1, 2] = 7
    assert bytes(memory.buf[20:24]) == b"\7\0\0\0"
    assert sharena.is_shared(array)
    del array
    memory.close()
    with pytest.raises(ValueError, match="closed"):
        sharena.shmem_as_ndarray(memory)


def test_it_is_pickled_by_name(memory):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        same = pickle.loads(pickle.dumps(memory, protocol))
        same.buf[0] = protocol + 1
        assert memory.buf[0] == protocol + 1
        same.close()


def test_bad_input_is_named():
    for arguments in ({"create": True}, {"create": True, "size": -1}, {"size": -1, "name": "x"}):
        with pytest.raises(ValueError, match="size"):
            sharena.SharedMemory(**arguments)
    with pytest.raises(ValueError, match="name"):
        sharena.SharedMemory()
    for wrong in ("", "/", "a\0b"):
        with pytest.raises(ValueError, match="name"):
            sharena.SharedMemory(wrong, create=True, size=1)
    for wrong in (3, b"x"):
        with pytest.raises(TypeError, match="name"):
            sharena.SharedMemory(wrong, create=True, size=1)
    with pytest.raises(TypeError):
        sharena.SharedMemory(create=True, size=1.5)
    with pytest.raises(MemoryError):
        sharena.SharedMemory(create=True, size=2**60)


@pytest.mark.parametrize("text", ["/slash", "a/b", "ü" * 40, "x" * 300, "lock"])
def test_names_of_every_kind(text):
    key = f"{text}{os.getpid()}"
    memory = sharena.SharedMemory(key, create=True, size=3)
    same = sharena.SharedMemory(key)
    assert memory.name == same.name == key
    same.close()
    memory.close()
    memory.unlink()


def test_a_thousand_names_of_the_dead(name):
    for i in range(1100):
        sharena.SharedMemory(f"{name}.{i}", create=True, size=8).close()
    memory = sharena.SharedMemory(f"{name}.0", create=True, size=8)
    memory.close()
    memory.unlink()


def test_setdefault_gives_a_name_once():
    heap = sharena.Heap.create(limit="16MiB")
    first = heap.setdefault("one", np.arange(3))
    assert first.tolist() == [0, 1, 2]
    again = heap.setdefault("one", np.zeros(5))
    assert again.tolist() == [0, 1, 2]
    again[0] = 7
    assert first[0] == 7
    with pytest.raises(ValueError, match="name"):
        heap.setdefault("", first)
    with pytest.raises(TypeError):
        heap.setdefault("one")
    with pytest.raises(TypeError):
        heap.setdefault(3, first)
    heap.close()
    with pytest.raises(sharena.HeapClosedError):
        heap.setdefault("one", first)


def test_unlink_leaves_another_block_of_that_name_alone(name):
    first = sharena.SharedMemory(name, create=True, size=8)
    first.close()
    second = sharena.SharedMemory(name, create=True, size=8)
    first.unlink()  # its own name had gone with it
    sharena.SharedMemory(name).close()
    second.close()
    second.unlink()
    with pytest.raises(FileNotFoundError):
        second.unlink()


def test_who_is_stopped_in_the_middle_is_not_waited_for_for_ever(name, memory, monkeypatch):
    monkeypatch.setattr(sharena._shared_memory, "PATIENCE_S", 0.1)
    held, leave = threading.Event(), threading.Event()

    def hold():
        with sharena._shared_memory._registry().changing():
            held.set()
            leave.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        with pytest.raises(sharena.HeapBusyError, match="is it stopped"):
            sharena.SharedMemory(name)
    finally:
        leave.set()
        thread.join()
    sharena.SharedMemory(name).close()
