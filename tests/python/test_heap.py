"""Heap: life, names, reports."""

import gc
import os
import pickle
import uuid
import warnings
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest

import sharena


@pytest.fixture
def heap():
    with sharena.Heap.create() as heap:
        yield heap
        gc.collect()
        assert heap.check() == []


@pytest.fixture
def name():
    return f"test-{uuid.uuid4().hex[:12]}"


def test_repr_tells_name_bytes_limit_and_processes(name, heap):
    a = sharena.ones(1 << 17, heap=heap)
    text = repr(heap)
    assert "unnamed" in text
    assert "1.0 MiB live" in text
    assert "retained" in text
    assert "limit" in text
    assert "1 process" in text
    del a
    with sharena.Heap.create(name) as named:
        assert name in repr(named)
        named.unlink()
    assert "closed" in repr(named)


def test_options_are_kept(name):
    with sharena.Heap.create(name, limit="64MiB", reserve=1 << 30, retain=0, mode=0o660) as heap:
        stats = heap.stats()
        assert stats.limit_bytes == heap.limit == 64 << 20
        assert stats.reserve_bytes >= 1 << 30
        assert stats.retain_bytes == 0
        status = os.stat(f"/dev/shm/sharena.{name}")
        assert status.st_mode & 0o777 == 0o660
        heap.unlink()


def test_heaps_are_private_to_their_user(name):
    with sharena.Heap.create(name) as heap:
        assert os.stat(f"/dev/shm/sharena.{name}").st_mode & 0o777 == 0o600
        heap.unlink()


def test_a_named_heap_outlives_its_processes(name, run_python):
    text = (
        "import sharena, sys\n"
        "heap = sharena.Heap.create(sys.argv[1])\n"
        "heap['x'] = sharena.full((3, 4), 7.0, heap=heap)[1:]\n"
    )
    done = run_python("-c", text, name)
    assert done.returncode == 0, done.stderr
    with sharena.Heap.attach(name) as heap:
        a = heap["x"]
        assert a.shape == (2, 4)
        assert (a == 7).all()
        assert heap.check() == []
        del a
        heap.unlink()


def test_names(heap):
    a = sharena.array(np.arange(12.0).reshape(3, 4), heap=heap)
    heap["all"] = a
    heap["part"] = a[1:, ::2]
    heap["reversed"] = a[::-1]
    assert sorted(heap.keys()) == ["all", "part", "reversed"]
    assert sorted(heap) == ["all", "part", "reversed"]
    assert "part" in heap
    assert "other" not in heap
    assert len(heap) == 3
    a[1, 0] = 70
    assert heap["part"][0, 0] == 70
    assert heap["reversed"][1, 0] == 70
    assert heap["part"].strides == a[1:, ::2].strides
    del a
    gc.collect()
    assert heap.stats().blocks == 1
    assert heap["all"][1, 0] == 70
    for key in ("all", "part", "reversed"):
        del heap[key]
    assert heap.stats().blocks == 0
    assert list(heap.keys()) == []


def test_a_name_can_be_given_anew(heap):
    heap["x"] = sharena.ones(10, heap=heap)
    heap["x"] = sharena.zeros(20, heap=heap)
    assert heap["x"].shape == (20,)
    assert heap.stats().blocks == 1
    del heap["x"]


def test_wrong_names(heap):
    a = sharena.ones(3, heap=heap)
    with pytest.raises(KeyError, match="missing"):
        heap["missing"]
    with pytest.raises(KeyError, match="missing"):
        del heap["missing"]
    with pytest.raises(TypeError):
        heap[3] = a
    with pytest.raises((ValueError, sharena.SharenaError)):
        heap["x" * 100] = a
    assert heap.keys() == [] or list(heap.keys()) == []


@pytest.mark.parametrize("where", ["private", "default heap", "list"])
def test_what_is_elsewhere_is_copied_under_its_name(heap, where):
    a = np.arange(5.0)
    heap["x"] = {"private": a, "default heap": sharena.array(a), "list": a.tolist()}[where]
    found = heap["x"]
    assert sharena.is_shared(found)
    assert (found == a).all()
    assert heap.stats().blocks == 1
    del heap["x"]


def test_stats_follow_what_happens(heap):
    empty = heap.stats()
    assert empty.blocks == empty.live_bytes == 0
    assert empty.processes == 1
    assert empty.max_processes >= 60
    small = [sharena.ones(100, heap=heap) for _ in range(50)]
    large = sharena.ones(1 << 20, heap=heap)
    stats = heap.stats()
    assert stats.blocks == 51
    assert stats.runs == 1
    assert stats.live_bytes >= 50 * 800 + (8 << 20)
    assert stats.committed_bytes >= stats.live_bytes
    assert sum(size.blocks for size in stats.classes) == 50
    del small, large
    gc.collect()
    stats = heap.stats()
    assert stats.blocks == stats.live_bytes == 0
    assert stats.retained_bytes > 0
    freed = heap.trim()
    assert freed > 0
    assert heap.stats().retained_bytes < stats.retained_bytes


@pytest.mark.parametrize("kib", [64, 128, 1024, 4096])
def test_a_large_array_that_was_dropped_lies_at_hand(heap, kib):
    """It comes back as it was, and is nobody's until then."""

    def new(make):
        return make((kib, 1024), "u1", heap=heap)

    a = new(sharena.empty)
    at = a.ctypes.data
    for _ in range(600):  # now and then the longer way is gone
        a[0, 0] = a[-1, -1] = 1
        del a
        a = new(sharena.empty)
        assert a.ctypes.data == at
        assert a[-1, -1] == 1
    b = new(sharena.empty)
    assert b.ctypes.data != at
    del a
    zeros = new(sharena.zeros)
    assert zeros.ctypes.data == at
    assert not zeros.any()
    assert heap.stats().blocks == 2
    del b, zeros
    stats = heap.stats()
    assert (stats.blocks, stats.retained_bytes) == (0, 2 * kib << 10)
    new(sharena.empty)
    assert heap.trim() == 2 * kib << 10


def test_what_others_may_know_of_does_not_lie_at_hand(heap):
    a = sharena.empty(1 << 20, "u1", heap=heap)
    at = a.ctypes.data
    del a
    a = sharena.ones(1 << 20, "u1", heap=heap)
    assert a.ctypes.data == at
    heap["a"] = a
    del a
    b = sharena.zeros(1 << 20, "u1", heap=heap)
    assert b.ctypes.data != at
    assert heap["a"].all()
    del heap["a"]


def test_the_repr_of_stats_fits_a_screen(heap):
    """All that is not 0, and of the size classes how many there are."""
    arrays = [sharena.ones(n, heap=heap) for n in (3, 100, 5000, 1 << 17)]
    heap["x"] = arrays[0]
    sharena.handle(arrays[1])
    stats = heap.stats()
    text = repr(stats)
    lines = text.splitlines()
    assert len(lines) <= 10
    assert max(map(len, lines)) <= 80
    assert text.startswith("Stats(uuid=")
    assert text.endswith(")")
    parts = " ".join(map(str.strip, lines))[len("Stats(") : -1].split(", ")
    shown = dict(part.split("=", 1) for part in parts)
    everything = {name: getattr(stats, name) for name in type(stats).__match_args__}
    classes = everything.pop("classes")
    assert shown.pop("classes") == f"<3 of {len(classes)} in use>"
    [waiting] = everything.pop("waiting")
    assert (waiting.place, waiting.tickets, waiting.bytes) == ("loose", 1, 0)
    assert f"process {os.getpid()} lives" in waiting.cause
    assert shown.pop("waiting") == "<1 place>"
    assert shown == {name: repr(value) for name, value in everything.items() if value}
    assert stats.__repr__() == str(stats) == text
    assert [size.blocks for size in stats.classes if size.slabs] == [1, 1, 1]
    heap.expire_tickets()
    del heap["x"]


def test_the_repr_of_stats_of_a_named_heap(name):
    with sharena.Heap.create(name) as heap:
        assert repr(heap.stats()).startswith(f"Stats(name='{name}', uuid='{heap.uuid}',")
        heap.unlink()


def test_blocks_and_processes(heap):
    a = sharena.ones(1000, heap=heap)
    b = sharena.ones(1 << 18, heap=heap)
    sizes = sorted(block.size_bytes for block in heap.blocks())
    assert len(sizes) == 2
    assert sizes[0] >= a.nbytes
    assert sizes[1] >= b.nbytes
    [large] = heap.blocks(min_bytes=1 << 20)
    [process] = heap.processes()
    assert process.pid == os.getpid()
    assert process.alive
    assert process.blocks == 2
    assert large.holders == 1 << process.slot


def test_tickets_are_listed_and_expired(heap):
    a = sharena.ones(1000, heap=heap)
    sharena.handle(a, uses=5)
    [ticket] = heap.tickets()
    assert ticket.uses == 5
    assert ticket.size_bytes >= a.nbytes
    assert ticket.exporter == os.getpid()
    assert ticket.exporter_alive
    assert heap.stats().tickets == 1
    assert heap.expire_tickets(3600) == 0
    del a
    assert heap.stats().inflight_bytes == ticket.size_bytes
    assert heap.expire_tickets() == 1
    assert heap.tickets() == []
    assert heap.stats().blocks == 0


def test_what_was_sent_is_counted():
    a, private = sharena.ones(1000), np.ones(500)
    before = sharena.Heap.default().stats()
    data = ForkingPickler.dumps([a, a[:10], private])
    after = sharena.Heap.default().stats()
    assert after.handle_arrays - before.handle_arrays == 2
    assert after.handle_bytes - before.handle_bytes == 8080
    assert after.value_arrays - before.value_arrays == 1
    assert after.value_bytes - before.value_bytes == 4000
    pickle.loads(data)


def test_large_arrays_by_value_are_warned_about(run_python, tmp_path):
    program = tmp_path / "sends.py"
    program.write_text(
        "import numpy as np, sharena\n"
        "from multiprocessing.reduction import ForkingPickler\n"
        "ForkingPickler.dumps(np.ones(10))\n"
        "ForkingPickler.dumps(sharena.ones(1 << 18))\n"
        "ForkingPickler.dumps(np.ones(1 << 18))\n"
    )
    done = run_python(program, env={"SHARENA_WARN_BYVALUE": "1MiB"})
    assert done.returncode == 0
    assert done.stderr.count("ByValueWarning") == 1, done.stderr
    assert "sends.py:5" in done.stderr
    assert "ByValueWarning" not in run_python(program).stderr


def test_traces_name_the_line_of_the_allocation(run_python, tmp_path):
    program = tmp_path / "allocates.py"
    program.write_text(
        "import sharena\n"
        "a = sharena.ones(1000)\n"
        "b = sharena.zeros(100_000)\n"
        "print(*[block.site for block in sharena.Heap.default().blocks()], sep='\\n')\n"
    )
    traced = run_python(program, env={"SHARENA_TRACE": "1"}).stdout.split()
    assert sorted(site.rpartition("/")[2] for site in traced) == [
        "allocates.py:2",
        "allocates.py:3",
    ]
    assert run_python(program).stdout.split() == []


def test_the_default_heap_may_be_a_named_one(name, run_python):
    with sharena.Heap.create(name) as heap:
        text = "import sharena; print(sharena.Heap.default().name)"
        done = run_python("-c", text, env={"SHARENA_HEAP": f"name:{name}"})
        assert done.stdout.strip() == name, done.stderr
        heap.unlink()


def test_a_read_only_view_cannot_be_made_writeable():
    a = sharena.ones(10)
    b = sharena.share(a, readonly=True)
    for view in (b, b[2:], b.T):
        with pytest.raises(ValueError, match="read-only"):
            view[...] = 0
        with pytest.raises(ValueError, match="WRITEABLE"):
            view.flags.writeable = True
    a[0] = 5
    assert b[0] == 5
    assert a.flags.writeable


def test_share_copies_what_is_not_there():
    private = np.arange(5.0)
    a = sharena.share(private)
    assert sharena.is_shared(a)
    assert (a == private).all()
    a[0] = 9
    assert private[0] == 0
    assert np.shares_memory(sharena.share(a), a)


def test_importing_makes_no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sharena.Heap.default()
