"""Texts that cross into C: none is cut at a NUL, none that UTF-8 can't hold slips through."""

import ctypes
import multiprocessing
import os
import pickle
import uuid
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest

import sharena

# None of these can be the name of an array.
IMPOSSIBLE = {
    "NUL": "a\0x",
    "NUL at the end": "a\0",
    "NUL at the start": "\0a",
    "empty": "",
    "long": "x" * 64,
    "long in UTF-8": "\N{LATIN SMALL LETTER E WITH ACUTE}" * 32,
    "byte of no character": "a\udce9",
    "half of a pair": "a\ud800",
    # the bytes of a name that exists, but not its text
    "an e with an accent by bytes": "caf\udcc3\udca9",
}
impossible = pytest.mark.parametrize("name", IMPOSSIBLE.values(), ids=IMPOSSIBLE)


@pytest.fixture
def heap():
    with sharena.Heap.create() as heap:
        heap["a"] = np.arange(3)
        heap["caf\N{LATIN SMALL LETTER E WITH ACUTE}"] = np.arange(4)
        heap["x" * 63] = np.arange(5)
        yield heap
        lengths = [(name, len(heap[name])) for name in heap]
        assert lengths == [
            ("a", 3),
            ("caf\N{LATIN SMALL LETTER E WITH ACUTE}", 4),
            ("x" * 63, 5),
        ], lengths
        assert heap.check() == []


@impossible
def test_what_can_be_no_name_is_not_there(heap, name):
    with pytest.raises(KeyError) as caught:
        heap[name]
    assert caught.value.args == (name,)
    with pytest.raises(KeyError) as caught:
        del heap[name]
    assert caught.value.args == (name,)
    assert name not in heap


@impossible
def test_what_can_be_no_name_is_not_given(heap, name):
    blocks = heap.stats().blocks
    with pytest.raises(ValueError, match="name") as caught:
        heap[name] = np.ones(100)
    str(caught.value).encode()  # it can be printed
    assert heap.stats().blocks == blocks


def test_names_are_texts(heap):
    for wrong in (3, None, b"a", ("a",)):
        with pytest.raises(TypeError, match="str"):
            heap[wrong]
        with pytest.raises(TypeError, match="str"):
            heap[wrong] = np.ones(3)
        with pytest.raises(TypeError, match="str"):
            del heap[wrong]
        with pytest.raises(TypeError, match="str"):
            wrong in heap  # noqa: B015 # the question is what is tested


def test_a_name_given_in_c_is_found_again(heap):
    """Any bytes can be a name there; Python shows them as it shows such a file's name."""
    library = ctypes.CDLL(str(Path(sharena.__file__).with_name("lib") / "libsharena.so"))
    with sharena.Heap.create(f"test-{uuid.uuid4().hex[:12]}") as other:
        other["x"] = np.arange(3)
        handle, block = ctypes.c_void_p(), (ctypes.c_uint64 * 3)()
        payload, room = ctypes.create_string_buffer(800), ctypes.c_size_t(800)
        assert library.sharena_attach(other.name.encode(), ctypes.byref(handle)) == 0
        try:
            assert (
                library.sharena_name_get(
                    handle, b"x", ctypes.byref(block), payload, ctypes.byref(room)
                )
                == 0
            )
            given = library.sharena_name_set(
                handle, b"caf\xe9", ctypes.c_void_p(block[0]), payload, room
            )
            assert given == 0
            assert sorted(other.keys()) == ["caf\udce9", "x"]
            assert "caf\udce9" in other
            assert (other["caf\udce9"] == np.arange(3)).all()
            del other["caf\udce9"]
            assert other.keys() == ["x"]
        finally:
            library.sharena_detach(handle)
            other.unlink(force=True)


@pytest.mark.parametrize("name", ["a\0b", "\0", "a\udce9", "\ud800", "a" + "\xfc" * 60])
def test_names_of_heaps(name):
    for work in (
        lambda: sharena.Heap.create(name),
        lambda: sharena.Heap.attach(name),
        lambda: sharena.Heap.attach(uuid=name),
    ):
        with pytest.raises(ValueError, match=r"name|uuid") as caught:
            work()
        str(caught.value).encode()


def test_a_uuid_is_not_cut(heap):
    for wrong in (heap.uuid + "\0", heap.uuid + "\0junk", heap.uuid[:-1] + "\0"):
        with pytest.raises(ValueError, match="NUL"):
            sharena.Heap.attach(uuid=wrong)


@pytest.mark.parametrize("size", ["8MiB\0", "8MiB\0GiB", "8\0", "8\ud800", "8\xa0MiB"])
def test_sizes(heap, size):
    for option in ("limit", "reserve", "retain"):
        with pytest.raises(ValueError, match=option):
            sharena.Heap.create(**{option: size})
    with pytest.raises(ValueError, match="min_bytes"):
        heap.blocks(min_bytes=size)


def test_other_arguments():
    for make in (
        lambda: sharena.ones(3, device="cpu\0"),
        lambda: sharena.ones(3, order="C\0\0"),
        lambda: sharena.ones(3, **{"dtype\0": "f4"}),
        lambda: sharena.ones(3, dtype="f4\0"),
    ):
        with pytest.raises((ValueError, TypeError)):
            make()


NAMES = ["a\0b", "\udce9", "\ud800", "\N{LATIN SMALL LETTER E WITH ACUTE}\0"]


@pytest.mark.parametrize("field", NAMES, ids=ascii)
def test_fields_of_a_dtype_arrive_whole(heap, field):
    a = sharena.zeros(3, dtype=[("first", "i4"), (field, "f8")])
    back = pickle.loads(ForkingPickler.dumps(a))
    assert back.dtype == a.dtype
    a[field] = 5
    assert (back[field] == 5).all()
    try:
        field.encode()
    except UnicodeEncodeError:
        with pytest.raises(TypeError, match="dtype"):
            heap["fields"] = a
    else:
        heap["fields"] = a
        assert heap["fields"].dtype == a.dtype
        del heap["fields"]


TRACES = """
import sharena
code = compile("a = sharena.ones(1000)", "file", "exec")
exec(code.replace(co_filename="cut\\0here.py"))
print(*[block.site for block in sharena.Heap.default().blocks()])
"""


def test_a_trace_is_not_cut(run_python):
    done = run_python("-c", TRACES, env={"SHARENA_TRACE": "1"})
    assert done.stdout.strip() == "cut?here.py:1", done.stderr


VARIABLES = {
    "SHARENA_LIMIT": b"\xff\xfeGiB",
    "SHARENA_WARN_BYVALUE": b"1M\xff",
    "SHARENA_HEAP": b"name:\xe9",
}


@pytest.mark.parametrize("variable", VARIABLES)
def test_variables_that_are_no_text(run_python, variable):
    text = "import sharena\ntry:\n    sharena.ones(3)\nexcept ValueError as e:\n    print(e)"
    done = run_python("-c", text, env={variable: os.fsdecode(VARIABLES[variable])})
    assert done.returncode == 0, done.stderr
    assert variable in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def work(name):
    with sharena.Heap.attach(name) as heap:
        return ascii(heap.keys())


def test_names_are_the_same_in_another_process():
    name = f"test-{uuid.uuid4().hex[:12]}"
    with sharena.Heap.create(name) as heap:
        heap["\N{SNOWMAN}"] = np.ones(3)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(work, (name,)) == ascii(["\N{SNOWMAN}"])
        heap.unlink(force=True)


def test_an_error_that_quotes_half_a_character_can_be_printed(capsys):
    with pytest.raises(ValueError, match="no name for a heap") as caught:
        sharena.Heap.create("a" + "\xfc" * 60)
    print(caught.value)
    assert "no name for a heap" in capsys.readouterr().out
