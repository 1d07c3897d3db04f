"""What NumPy allocates lies in the heap: policy.py CASE."""

import asyncio
import contextvars
import ctypes
import gc
import io
import os
import pickle
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.reduction import ForkingPickler

import numpy as np
from forking import Gate, fork, join
from support import no_leaks, sound

import sharena

N = 1000
NUMPY = tuple(map(int, np.__version__.split(".")[:2]))


def get_handler_name(*array):
    multiarray = np.core.multiarray if NUMPY < (2, 0) else np._core.multiarray
    return multiarray.get_handler_name(*array)


def by_handle(a):
    """Whether it travels as one."""
    message = bytes(ForkingPickler.dumps(a))
    assert np.array_equal(ForkingPickler.loads(message), a)
    return b"rebuild_array" in message


def agree(a, shared):
    assert sharena.is_shared(a) == shared, (a.dtype, a.shape)
    assert by_handle(a) == shared, (a.dtype, a.shape)


def case_everything_that_numpy_makes():
    x = np.linspace(0, 1, N)
    file = io.BytesIO()
    np.save(file, x)
    file.seek(0)
    text = " ".join(map(str, range(N)))
    square = x[:900].reshape(30, 30) + 900 * np.eye(30)
    with sharena.allocating():
        made = {
            "sum": x + x,
            "empty": np.empty(N),
            "zeros": np.zeros(N),
            "zeros of structures": np.zeros(N, "i4,f8"),
            "full": np.full(N, 7),
            "copy": x.copy(),
            "index": x[np.arange(N) % 2 == 0],
            "sort": np.sort(x),
            "fft": np.fft.fft(x),
            "solve": np.linalg.solve(square, square),
            "matmul": square @ square,
            "random": np.random.default_rng(1).random(N),
            "load": np.load(file),
            "fromiter": np.fromiter((i for i in range(N)), float),
            "loadtxt": np.loadtxt(io.StringIO(text)),
            "text": np.fromstring(text, sep=" "),
            "strings": np.array(["some", "text"] * N),
            "masked": np.ma.zeros(N).data,
            "concatenate": np.concatenate([x, x]),
            "unpickled": pickle.loads(pickle.dumps(x[:50])),
        }
    for what, a in made.items():
        assert sharena.is_shared(a) or a.base is not None, what
        agree(a if a.base is None else a.base, True)
        agree(a[::2], True)
    agree(made["matmul"].T, True)
    agree(x + x, False)


def case_objects_stay_private():
    with sharena.allocating():
        objects = [
            np.zeros(N, object),
            np.empty(N, object),
            np.array([[1, "a"]] * N, object),
            np.arange(N).astype(object),
            np.zeros(N, [("a", object), ("b", float)]),
            np.ndarray.__new__(type("Sub", (np.ndarray,), {}), N, object),
            np.zeros(0, object),
        ]
        if NUMPY >= (2, 0):
            objects.append(np.array(["some text"] * N, np.dtypes.StringDType()))
        for a in objects:
            a.resize(2 * N, refcheck=False)
    for a in objects:
        assert not sharena.is_shared(a)
        if a.nbytes:
            memory = (ctypes.c_char * a.nbytes).from_address(a.ctypes.data)
            assert not sharena.is_shared(np.frombuffer(memory, "u1")), a.dtype


def case_child_drops_what_holds_objects():
    """NumPy clears the pointers of an array that it drops: a child must not clear ours."""
    with sharena.allocating():
        arrays = [np.array([str(i) for i in range(N)], object) for _ in range(5)]
        arrays.append(np.zeros(N, [("a", object)]))
        subclass = type("Sub", (np.ndarray,), {})
        arrays.append(np.ndarray.__new__(subclass, N, object))
        arrays[-1][:] = "text"
        arrays[1] = pickle.loads(pickle.dumps(arrays[1]))  # no zeroed memory
        arrays[2] = pickle.loads(pickle.dumps(arrays[2], 2))
        file = io.BytesIO()
        np.save(file, arrays[3], allow_pickle=True)
        file.seek(0)
        arrays[3] = np.load(file, allow_pickle=True)
    before = pickle.dumps(arrays[:6])

    def child():
        arrays[0][:] = [str(-i) for i in range(N)]
        arrays.clear()
        gc.collect()

    join(fork(child))
    assert pickle.dumps(arrays[:6]) == before
    assert arrays[6].tolist() == ["text"] * N


def case_objects_beside_an_array_that_fails():
    """NumPy makes the MemoryError in Python, where other arrays are made meanwhile."""

    class Sub(np.ndarray):
        pass

    made = []

    def profile(frame, event, _):
        if event == "call" and "_exceptions" in frame.f_code.co_filename:
            made.append(Sub(4 * N, object))

    for inside in (True, False):
        sharena.allocate_always(enabled=inside)
        for make in (np.empty, np.zeros):
            sys.setprofile(profile)
            try:
                make(1 << 50, "u1")
            except MemoryError:
                pass
            finally:
                sys.setprofile(None)
    assert len(made) >= 4
    for a in made:
        memory = (ctypes.c_char * a.nbytes).from_address(a.ctypes.data)
        b = np.frombuffer(memory, "u1")
        assert not sharena.is_shared(sharena.share(b[:8]).base)
        assert sharena._core.is_shared(b) is False
        assert not sharena.Heap.default().blocks(min_bytes=a.nbytes)


def case_interrupts():
    """Ctrl-C anywhere in a program that enters and leaves policies all the time."""

    class StopError(Exception):
        pass

    def stop(*_):
        raise StopError

    signal.signal(signal.SIGALRM, stop)
    policy = sharena.allocating()
    for i in range(300):
        try:
            signal.setitimer(signal.ITIMER_REAL, 2e-5 + i * 1e-6)
            while True:
                with policy:
                    pass
        except StopError:
            pass
        assert get_handler_name() == "default_allocator", i


def case_child_inherits_the_rest():
    with sharena.allocating():
        a = np.arange(N)

        def child():
            a[:] = 7  # the same memory, as of all shared arrays
            b = np.arange(N)
            agree(a, True)
            agree(b, True)

        join(fork(child))
    assert (a == 7).all()


def case_nesting_and_exceptions():
    other = sharena.Heap.create(limit="64MiB")
    outer, inner = sharena.allocating(), sharena.allocating(other)
    try:
        with outer, inner, outer, outer:
            agree(np.ones(N), True)
            raise KeyError
    except KeyError:
        agree(np.ones(N), False)
    with outer:
        with inner:
            a = np.ones(N)
        agree(np.ones(N), True)
        assert other.stats().blocks == 1
    agree(np.ones(N), False)
    assert get_handler_name() == "default_allocator"
    agree(a, True)
    other.close()  # the array keeps it
    assert (a == 1).all()
    try:
        inner.__enter__()
    except sharena.HeapClosedError:
        pass
    else:
        raise AssertionError("a closed heap was taken")


def case_decorated():
    @sharena.allocating(min_bytes=100)
    def double(x, /, *, times=2):
        """What it does."""
        return x * times

    assert double.__doc__ == "What it does."
    agree(double(np.ones(N), times=3), True)
    agree(np.ones(N), False)

    @sharena.allocating()
    async def later():
        await asyncio.gather()
        return np.ones(N)

    agree(asyncio.run(later()), True)

    @sharena.allocating()
    def recursive(n):
        return np.ones(N) if n == 0 else recursive(n - 1)

    agree(recursive(5), True)
    for generator in ("def f():\n yield 1", "async def f():\n yield 1"):
        space = {}
        exec(generator, space)
        try:
            sharena.allocating()(space["f"])
        except TypeError as error:
            assert "f is a generator" in str(error), error
        else:
            raise AssertionError("decorated a generator")


def case_contexts():
    made = {}

    def work(name):
        made[name] = np.ones(N)

    with sharena.allocating():
        new = threading.Thread(target=work, args=["new thread"])
        copied = threading.Thread(
            target=contextvars.copy_context().run, args=[work, "copied context"]
        )
        for thread in (new, copied):
            thread.start()
            thread.join()
        contextvars.Context().run(work, "new context")
    inherits = getattr(sys.flags, "thread_inherit_context", 0) == 1
    agree(made["new thread"], inherits)
    agree(made["copied context"], True)
    agree(made["new context"], False)

    async def task(policy, first, second):
        with policy:
            first.set()
            await second.wait()  # the other one enters and leaves meanwhile
            agree(np.ones(N), True)
        agree(np.ones(N), False)

    async def tasks():
        policy = sharena.allocating()
        one, two = asyncio.Event(), asyncio.Event()
        await asyncio.gather(task(policy, one, two), task(policy, two, one))
        agree(np.ones(N), False)

    asyncio.run(tasks())

    def entered():
        yield sharena.allocating().__enter__()

    context = contextvars.Context()
    policy = context.run(next, entered())
    try:
        policy.__exit__(None, None, None)
    except RuntimeError as error:
        assert "context" in str(error)
    else:
        raise AssertionError("left in another context")
    agree(np.ones(N), False)


def case_resizing_what_was_sent():
    for n in (10, N, 100 * N):
        for new in (2 * n, n - 1, n // 2):
            with sharena.allocating():
                a = np.arange(n)
            sent = sharena.attach(sharena.handle(a))
            a.resize(new, refcheck=False)
            a[:] = -1
            assert (sent == np.arange(n)).all(), (n, new)
            agree(a, True)


def case_sizes_that_cannot_be():
    heap = sharena.Heap.create(limit="8MiB")
    for policy in (sharena.allocating(heap), sharena.allocating()):
        with policy:
            for size in (2**40, 2**62, 2**63 - 1):
                for make in (np.empty, np.zeros):
                    try:
                        make(size, "u1")
                    except MemoryError:
                        continue
                    raise AssertionError(size)
    with sharena.allocating(heap):
        held = []
        try:
            while True:
                held.append(np.ones(100 * N, "u1"))
        except MemoryError:
            assert len(held) > 50
        try:
            held[0].resize(2**50, refcheck=False)
        except MemoryError:
            assert held[0].min() == held[0].max() == 1
        held.clear()
        np.ones(5 * 2**20, "u1")
    assert not heap.check()


def case_without_the_gil():
    """np.fromstring() grows its array with the GIL released."""
    text = " ".join(["1"] * 300_000)

    def work():
        with sharena.allocating():
            for _ in range(3):
                a = np.fromstring(text, sep=" ")
                assert a.sum() == 300_000
                agree(a, True)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def case_alignment_and_size():
    for align in (0, 1, 64, 4096, 2 << 20):
        with sharena.allocating(align=align, min_bytes=100):
            for size in (100, N, 100 * N, 5 << 20):
                a, z = np.empty(size, "u1"), np.zeros(size, "u1")
                for _ in range(2):
                    assert a.ctypes.data % max(align, 16) == 0, (align, size)
                    agree(a, True)
                    a.resize(size + 77, refcheck=False)
                assert z.ctypes.data % max(align, 16) == 0
                assert not z.any()
                assert sharena.is_shared(a)
                assert sharena.is_shared(z)
            assert not sharena.is_shared(np.empty(99, "u1"))
            assert not sharena.is_shared(np.zeros(99, "u1"))


def case_bad_arguments():
    for call, error, words in (
        (lambda: sharena.allocating("heap"), TypeError, "heap must be a Heap"),
        (lambda: sharena.allocate_always(3), TypeError, "heap must be a Heap"),
        (lambda: sharena.allocating(align=3), ValueError, "align must be a power of two"),
        (lambda: sharena.allocating(align=-1), ValueError, "align must be"),
        (lambda: sharena.allocating(align=4 << 20), ValueError, "align must be"),
        (lambda: sharena.allocating(align=2.0), TypeError, "align must be an int"),
        (lambda: sharena.allocating(min_bytes=-1), ValueError, "min_bytes must be"),
        (lambda: sharena.allocating(min_bytes="x"), TypeError, "min_bytes must be an int"),
        (lambda: sharena.allocating(min_bytes=2**70), ValueError, "min_bytes must be"),
    ):
        try:
            call()
        except error as raised:
            assert words in str(raised), raised
        else:
            raise AssertionError(words)


# ---- for the whole process


def case_always_by_value_until_shared():
    before = np.arange(N)
    sharena.allocate_always()
    assert get_handler_name() == "sharena"
    made = {
        "sum": before + 1,
        "zeros": np.zeros(N),
        "large": np.ones(N * N),
        "small": np.ones(N // 8),
        "subclass": np.matrix([[1] * N]),
    }
    with no_leaks():
        for what, a in made.items():
            assert sharena._core.is_shared(a) is False, what
            assert a.sum() == ForkingPickler.loads(bytes(ForkingPickler.dumps(a))).sum()
            address = a.ctypes.data
            agree(a, False)
            try:
                sharena.handle(a[:1] if what != "subclass" else a)
            except ValueError as error:
                assert "sharena.share(a), which copies nothing" in str(error), error
            view = sharena.share(a)
            assert view.ctypes.data == address
            agree(a, True)
            agree(a[:1] if what == "large" else a[..., ::-1], True)
            agree(view, True)
        a = np.ones(N)
        assert sharena.asarray(a) is a
        agree(a, True)
        a = np.ones(N)
        b = sharena.asarray(a, dtype="f4")  # a copy: nothing is said of a
        agree(a, False)
        heap = sharena.Heap.default()
        heap["name"] = a
        agree(a, True)
        del heap["name"], a, b, view
    objects = np.array([1, "a"], object)
    assert not sharena.is_shared(objects)
    with sharena.allocating():
        agree(np.ones(N), True)
    agree(np.ones(N), False)
    sharena.allocate_always(enabled=False)
    assert get_handler_name() == "default_allocator"
    used = sharena.Heap.default().stats().blocks
    made["private"] = np.ones(N)
    assert sharena.Heap.default().stats().blocks == used
    made.clear()
    del before, objects
    gc.collect()
    assert sharena.Heap.default().stats().blocks < used
    sound()


def case_always_shares_what_it_says():
    np.ma.masked_less(np.arange(N), 5)  # NumPy makes some constants
    sharena.allocate_always()
    with no_leaks():
        m = np.ma.masked_less(np.arange(N), 5)
        assert not sharena.is_shared(m)
        sharena.share(m)
        assert sharena.is_shared(m)  # with its mask
        a = np.ones(N)
        try:
            sharena.Heap.default()[""] = a
        except ValueError:
            agree(a, False)
        else:
            raise AssertionError("a name of no length")
        del m, a


def case_always_in_all_threads():
    start, stop = threading.Event(), threading.Event()
    made = []
    heap = sharena.Heap.default()

    def old():
        start.wait()
        made.append(np.ones(N))
        stop.wait()

    thread = threading.Thread(target=old)
    thread.start()
    sharena.allocate_always()
    blocks = heap.stats().blocks
    start.set()
    with ThreadPoolExecutor(3) as pool:
        made += pool.map(np.ones, [N] * 10)
    contextvars.Context().run(lambda: made.append(np.ones(N)))
    # a thread that Python has not made
    call = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
    body = call(lambda _: made.append(np.ones(N)))
    libc = ctypes.CDLL(None)
    handle = ctypes.c_ulong()
    assert libc.pthread_create(ctypes.byref(handle), None, body, None) == 0
    assert libc.pthread_join(handle, None) == 0
    stop.set()
    thread.join()
    assert len(made) == 13
    assert heap.stats().blocks >= blocks + 13
    for a in made:
        agree(sharena.share(a), True)


def case_always_in_a_child():
    sharena.allocate_always()
    a = np.arange(N)

    def child():
        agree(a, False)
        b = np.arange(N)
        agree(b, False)
        agree(sharena.share(a), True)

    join(fork(child))
    agree(a, True)  # one of those who have it said so


def case_always_another_heap():
    heaps = [sharena.Heap.create(limit="64MiB") for _ in range(2)]
    made = []
    for heap in (heaps[0], heaps[1], heaps[0]):
        sharena.allocate_always(heap, min_bytes=100)
        made += [np.ones(N), np.zeros(N), np.ones(5)]
        made[0].resize(N + len(made), refcheck=False)
    assert [heap.stats().blocks for heap in heaps] == [4, 2]
    heaps[1].close()
    assert made[3].sum() == N
    sharena.allocate_always(enabled=False)
    made.clear()
    assert heaps[0].stats().blocks == 0
    assert not heaps[0].check()


def case_guests_have_private_memory():
    gate, ready = Gate(), Gate()
    children = []
    with sharena.allocating():
        a = np.arange(N)
        for _ in range(64):

            def child():
                b = np.arange(N)
                assert (a == b).all()
                guest = not sharena.is_shared(b)
                b.resize(3 * N, refcheck=False)
                a.resize(N // 2, refcheck=False)
                assert (a == b[: N // 2]).all()
                a.resize(2 * N, refcheck=False)
                np.zeros(N).sum()
                os.write(ready.sending, b"g" if guest else b"m")
                gate.wait()

            children.append(fork(child))
        answers = b"".join(ready.wait() for _ in children)
    os.write(gate.sending, b"x" * 64)
    for child in children:
        join(child)
    assert answers.count(b"g") >= 4, answers
    assert answers.count(b"m") > 40, answers
    assert (a == np.arange(N)).all()


def case_alive_at_the_end():
    """Arrays, threads and policies that the end of the interpreter meets."""
    sharena.allocate_always()
    module = sys.modules["__main__"]
    module.kept = [np.ones(N), np.zeros(N), np.array([1, "a"], object)]
    module.policy = sharena.allocating(sharena.Heap.create(limit="64MiB"))
    module.policy.__enter__()
    module.more = np.ones(N)

    class Late:
        def __del__(self):
            self.array = self.make(N) + 1

    late = Late()
    late.make = np.ones
    module.late = late

    def work():
        while True:
            np.ones(N).sum()

    threading.Thread(target=work, daemon=True).start()


if __name__ == "__main__":
    case = globals()[f"case_{sys.argv[1]}"]
    if sys.argv[1].startswith(("always", "alive")):
        case()
    else:
        if sys.argv[1].startswith("everything"):
            case()  # NumPy makes some constants when they are first asked for
        with no_leaks():
            case()
