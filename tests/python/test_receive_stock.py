"""What else ForkingPickler.loads must be: pickle.loads, but for what was lost."""

import gc
import pickle
import threading
import traceback
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
from losing import Broken, Gone, Lazy, N, dumps, expire

import sharena
from sharena import Lost, _core

# ---- exceptions that are not about a lost array ----


class Failing:
    """Raises what it was made with, and counts."""

    error: BaseException = ValueError("a stable object")
    runs = 0

    def __setstate__(self, state):
        Failing.runs += 1
        raise Failing.error


def failing():
    made = Failing()
    made.x = 1
    return made


@pytest.fixture
def _fresh():
    Failing.runs = 0
    Failing.error = ValueError("a stable object")


@pytest.mark.usefixtures("_fresh")
@pytest.mark.parametrize("before", [[], [np.ones(3)]])
def test_without_a_lost_array_an_exception_passes_as_it_is(before):
    kept = sharena.ones(N)
    message = dumps([*before, kept, failing(), kept[1:]])
    with pytest.raises(ValueError, match="stable") as caught:
        ForkingPickler.loads(message)
    assert caught.value is Failing.error
    assert caught.value.__context__ is None
    assert Failing.runs == 1
    frames = [frame.filename for frame in traceback.extract_tb(caught.tb)]
    assert not [name for name in frames if name.endswith("_lost.py")]
    expire()


@pytest.mark.usefixtures("_fresh")
@pytest.mark.parametrize("error", [KeyboardInterrupt("now"), SystemExit(3)])
def test_what_is_no_exception_passes_beside_a_lost_array(error):
    Failing.error = error
    with pytest.raises(type(error)) as caught:
        ForkingPickler.loads(dumps([Gone(), failing()]))
    assert caught.value is error
    assert Failing.runs == 1


@pytest.mark.usefixtures("_fresh")
def test_an_interrupt_in_the_second_pass():
    def second(self, state):
        Failing.runs += 1
        raise ValueError if Failing.runs == 1 else KeyboardInterrupt

    original = Failing.__setstate__
    Failing.__setstate__ = second
    try:
        with pytest.raises(KeyboardInterrupt):
            ForkingPickler.loads(dumps([Gone(), failing()]))
    finally:
        Failing.__setstate__ = original
    assert Failing.runs == 2


def test_a_damaged_message_raises_what_it_always_raised():
    whole = dumps([Gone(), Broken(), "text"])
    missing = whole.replace(b"Object", b"Absent")
    assert missing != whole
    for data in (whole[:-3], whole[:-1], missing, b"", b"\x80\x63."):
        with pytest.raises(Exception) as stock:  # noqa: PT011 # whatever it is
            pickle.loads(data)
        if type(stock.value) is sharena.StaleHandleError:
            continue
        with pytest.raises(type(stock.value)) as ours:
            ForkingPickler.loads(data)
        assert ours.value.args == stock.value.args


class FailsLater:
    """Raises when it is loaded for the second time, beside nothing that is lost yet."""

    runs = 0

    def __reduce__(self):
        return fail_later, ()


def fail_later():
    FailsLater.runs += 1
    if FailsLater.runs > 1:
        raise ValueError("not now")
    return 1


def test_where_the_second_pass_fails_the_first_exception_counts():
    with pytest.raises(sharena.StaleHandleError) as caught:
        ForkingPickler.loads(dumps([FailsLater(), Broken()]))
    assert FailsLater.runs == 2
    assert caught.value.__context__ is None


@pytest.mark.usefixtures("_fresh")
def test_what_another_thread_lost_does_not_count():
    Threaded.data = dumps(Broken())
    with pytest.raises(ValueError, match="stable") as caught:
        ForkingPickler.loads(dumps([Threaded(), failing()]))
    assert caught.value is Failing.error
    assert type(Threaded.got) is Lost


class Threaded:
    data = got = None

    def __reduce__(self):
        return load_in_a_thread, ()


def load_in_a_thread():
    def load():
        Threaded.got = ForkingPickler.loads(Threaded.data)

    thread = threading.Thread(target=load)
    thread.start()
    thread.join(20)


# ---- the hook ----


def test_only_the_method_is_replaced():
    assert ForkingPickler.loads is _core.loads
    assert pickle.loads is not _core.loads
    assert ForkingPickler.__module__ == "multiprocessing.reduction"
    with pytest.raises(sharena.StaleHandleError):
        pickle.loads(dumps(Broken()))
    assert _core.latest_lost() is None


def test_arguments_are_those_of_pickle():
    assert ForkingPickler.loads(b"\x80\x02U\x01\xe9q\x00.", encoding="latin1") == "é"
    for arguments, options in (
        ((), {}),
        ((b"N.", 1), {}),
        ((b"N.",), {"nothing": 1}),
        ((5,), {}),
    ):
        with pytest.raises(TypeError) as stock:
            pickle.loads(*arguments, **options)
        with pytest.raises(TypeError) as ours:
            ForkingPickler.loads(*arguments, **options)
        assert ours.value.args == stock.value.args


def test_somebody_elses_loads_is_left_alone(run_python, tmp_path):
    program = tmp_path / "other.py"
    program.write_text(
        "import pickle\n"
        "from multiprocessing.reduction import ForkingPickler\n"
        "def loads(data): return 'theirs', pickle.loads(data)\n"
        "ForkingPickler.loads = loads\n"
        "import sharena\n"
        "print(ForkingPickler.loads is loads)\n"
    )
    assert run_python(program).stdout == "True\n"


def test_nothing_is_left_of_a_load():
    """Neither the results nor what the load noted about them."""
    message = dumps([Broken(), Lazy(sharena.ones(N))])
    ForkingPickler.loads(message)
    gc.collect()
    before, blocks = len(gc.get_objects()), sharena.Heap.default().stats().blocks
    for _ in range(50):
        ForkingPickler.loads(dumps([Broken(), Lazy(sharena.ones(N))]))
    gc.collect()
    assert len(gc.get_objects()) < before + 50
    assert sharena.Heap.default().stats().blocks == blocks
    assert not sharena.Heap.default().tickets()
