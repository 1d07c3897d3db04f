"""The hand-over: handover.py METHOD CASE runs one case under one start method.

Each case sends shared arrays through one of the channels of the standard library, and
proves by writing on one side and reading on the other that no copy was made.
"""

import multiprocessing
import multiprocessing.connection
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.reduction import ForkingPickler

import numpy as np
from support import importorskip, run_case

import sharena

N = 1000


def filled(value=1.0, shape=(4, N)):
    return sharena.full(shape, value)


# ---- what runs in the other process -------------------------------------------------


def negate(a):
    """Write through the argument; return it, a view of it, and something new."""
    assert sharena.is_shared(a)
    a *= -1
    return a, a[1:, ::2], sharena.array(a.sum(axis=1))


def negate_from(receive, send):
    """The same with an array that comes through a channel."""
    send(negate(receive()))


def negate_arguments(a, *, keyword):
    a *= -1
    keyword[...] = 5


def check_negated(a, results):
    """What negate() returned, seen from the process that made `a`."""
    same, view, new = results
    assert (a == -1).all()
    assert sharena.is_shared(same)
    assert sharena.is_shared(view)
    assert sharena.is_shared(new)
    assert new.tolist() == [-N] * 4
    a[1:, ::2] = 3
    assert (view == 3).all()
    assert same[3, 0] == 3
    view[0, 0] = 4
    assert a[1, 0] == 4


# ---- channels -----------------------------------------------------------------------


def case_process_arguments(context):
    a, b = filled(), filled()
    child = context.Process(target=negate_arguments, args=(a,), kwargs={"keyword": b[1:]})
    child.start()
    child.join()
    assert child.exitcode == 0
    assert (a == -1).all()
    assert (b[0] == 1).all()
    assert (b[1:] == 5).all()


def case_pool(context):
    a = filled()
    with context.Pool(2) as pool:
        check_negated(a, pool.apply(negate, (a,)))
        b = [filled() for _ in range(8)]
        for mine, results in zip(b, pool.map(negate, b), strict=True):
            check_negated(mine, results)
        c = filled()
        check_negated(c, pool.starmap(negate, [(c,)])[0])
        d = filled()
        check_negated(d, next(pool.imap(negate, iter([d]))))
        e = filled()
        check_negated(e, pool.apply_async(negate, (e,)).get(20))


def case_executor(context):
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        arrays = [filled() for _ in range(8)]
        for a, results in zip(arrays, pool.map(negate, arrays), strict=True):
            check_negated(a, results)
        planes = filled(1.0, (3, 4, N))
        for a, results in zip(planes, pool.map(negate, planes), strict=True):
            check_negated(a, results)
        b = filled()
        check_negated(b, pool.submit(negate, b).result())


def _over_queues(there, back, start):
    a = filled()
    child = start(there.get, back.put)
    there.put(a)
    results = back.get()
    check_negated(a, results)
    child.join()
    assert child.exitcode == 0


def queue_worker(there, back):
    negate_from(there.get, back.put)


def _start_queue_worker(context, there, back):
    child = context.Process(target=queue_worker, args=(there, back))
    child.start()
    return child


def case_queue(context):
    there, back = context.Queue(), context.Queue()
    _over_queues(there, back, lambda *_: _start_queue_worker(context, there, back))


def case_joinable_queue(context):
    there, back = context.JoinableQueue(), context.Queue()
    _over_queues(there, back, lambda *_: _start_queue_worker(context, there, back))


def case_simple_queue(context):
    there, back = context.SimpleQueue(), context.SimpleQueue()
    _over_queues(there, back, lambda *_: _start_queue_worker(context, there, back))


def pipe_worker(end):
    negate_from(end.recv, end.send)


def case_pipe(context):
    here, there = context.Pipe()
    child = context.Process(target=pipe_worker, args=(there,))
    child.start()
    there.close()
    a = filled()
    here.send(a)
    check_negated(a, here.recv())
    child.join()
    assert child.exitcode == 0


def socket_worker(address, key):
    with multiprocessing.connection.Client(address, authkey=key) as end:
        negate_from(end.recv, end.send)


def case_listener_and_client(context):
    key = b"not secret"
    with multiprocessing.connection.Listener(authkey=key) as listener:
        child = context.Process(target=socket_worker, args=(listener.address, key))
        child.start()
        with listener.accept() as end:
            a = filled()
            end.send(a)
            check_negated(a, end.recv())
    child.join()


def manager_worker(items, table, queue):
    a = items[0]
    b = table["b"]
    a += 1
    b += 1
    queue.put(a[1:])
    items.append(sharena.full(3, 9.0))


def case_manager(context):
    a, b = filled(), filled(2.0)
    with context.Manager() as manager:
        items, table, queue = manager.list([a]), manager.dict(b=b), manager.Queue()
        child = context.Process(target=manager_worker, args=(items, table, queue))
        child.start()
        child.join()
        assert child.exitcode == 0
        assert (a == 2).all()
        assert (b == 3).all()
        view = queue.get()
        view[...] = 7
        assert (a[1:] == 7).all()
        last = items[1]
        assert sharena.is_shared(last)
        assert last.tolist() == [9.0] * 3


class Holder:
    def __init__(self, a):
        self.a = a


def through_containers(box):
    box["list"][0][0] += 1
    inner = box["tuple"][1]["x"]
    inner += 1
    box["object"].a[...] = 8
    return {"again": [box["object"], {"view": inner[::-1]}]}


def case_nested_containers(context):
    a, b, c = filled(), filled(), filled()
    box = {"list": [a], "tuple": (0, {"x": b}), "object": Holder(c)}
    with context.Pool(1) as pool:
        result = pool.apply(through_containers, (box,))
    assert (a[0] == 2).all()
    assert (b == 2).all()
    assert (c == 8).all()
    again = result["again"]
    again[0].a[...] = 1
    assert (c == 1).all()
    b[0, 0] = 77
    assert again[1]["view"][-1, 0] == 77


def raise_with(a):
    raise ValueError(a[1:])


def case_exceptions(context):
    a = filled()
    with context.Pool(1) as pool:
        try:
            pool.apply(raise_with, (a,))
        except ValueError as error:
            view = error.args[0]
        a[1:] = 6
        assert (view == 6).all()


# ---- other libraries' objects -------------------------------------------------------


def change_frame(frame, series):
    values = frame._mgr.blocks[0].values
    assert sharena.is_shared(values)
    values[...] = 4
    assert sharena.is_shared(series.array.to_numpy())
    return frame, series


def case_pandas(context):
    pd = importorskip("pandas")

    data = sharena.zeros((3, N))
    frame = pd.DataFrame(data.T, columns=["x", "y", "z"], copy=False)
    frame.attrs["note"] = "kept"
    column = sharena.array(np.arange(float(N)))
    series = pd.Series(column, index=pd.Index(sharena.array(np.arange(N))), name="s", copy=False)
    with context.Pool(1) as pool:
        back, series_back = pool.apply(change_frame, (frame, series))
        texts = pd.DataFrame({"t": ["a", "b"], "when": pd.to_datetime(["2020-01-01"] * 2)})
        assert pool.apply(identity, (texts,)).equals(texts)
    assert (data == 4).all()
    assert list(back.columns) == ["x", "y", "z"]
    assert back.attrs == {"note": "kept"}
    assert series_back.name == "s"
    data[0, 0] = 11
    assert back["x"].iloc[0] == 11
    column[0] = 12
    assert series_back.iloc[0] == 12


def identity(x):
    return x


def scale_sparse(matrix):
    assert sharena.is_shared(matrix.data)
    matrix.data *= 2
    return matrix


def case_scipy_sparse(context):
    sparse = importorskip("scipy.sparse")

    dense = np.diag(np.arange(1.0, 6.0))
    with context.Pool(1) as pool:
        for convert in (sparse.csr_array, sparse.csc_matrix, sparse.coo_array):
            matrix = convert(dense)
            matrix.data = sharena.array(matrix.data)
            back = pool.apply(scale_sparse, (matrix,))
            assert (matrix.toarray() == 2 * dense).all()
            assert (back.toarray() == 2 * dense).all()
            assert sharena.is_shared(back.data)


# ---- what a view keeps --------------------------------------------------------------


def describe(a):
    return a.shape, a.strides, a.dtype, a.flags.writeable, a.copy(), sharena.is_shared(a)


def views():
    a = sharena.array(np.arange(240.0).reshape(4, 6, 10))
    record = sharena.zeros(5, dtype=[("x", "<f4"), ("y", "<i8", (2,)), ("t", "S3")])
    record["x"] = np.arange(5)
    return [
        a,
        a[1],
        a[1:3, ::2, 3:9:3],
        a.T,
        a.transpose(1, 2, 0),
        a[::-1, :, ::-2],
        a[2, 3, 4:5].reshape(()),
        np.broadcast_to(a[0], (7, 6, 10)),
        np.broadcast_to(a[:, :1, :1], (4, 6, 10)),
        a[np.newaxis, ..., np.newaxis],
        a.view(np.uint8),
        a.view(np.complex128)[..., 1].imag,
        a.view(">f8"),
        a.view("M8[ns]"),
        sharena.asarray(a[0], order="F"),
        record,
        record["y"],
        record["x"][::-1],
        np.lib.stride_tricks.sliding_window_view(a[0, 0], 3),
        sharena.array(np.array(["æ", "bc"])),
        sharena.array(np.array([1, 2], "m8[D]")),
        sharena.array(3.5),
    ]


def case_views(context):
    with context.Pool(1) as pool:
        for number, view in enumerate(views()):
            shape, strides, dtype, writeable, values, shared = pool.apply(describe, (view,))
            assert shared, number
            assert shape == view.shape, number
            steps = zip(shape, strides, view.strides, strict=True)
            assert all(mine == its for length, mine, its in steps if length > 1), number
            assert dtype == view.dtype, number
            assert writeable == view.flags.writeable, number
            np.testing.assert_array_equal(values, view, strict=False)


def try_to_write(a):
    try:
        a[...] = 0
    except ValueError:
        refused = True
    else:
        refused = False
    try:
        a.flags.writeable = True
    except ValueError:
        return refused
    return False


def case_read_only(context):
    a = filled()
    flagged = a[:2]
    flagged.flags.writeable = False
    protected = sharena.share(a, readonly=True)
    assert not protected.flags.writeable
    with context.Pool(1) as pool:
        assert pool.apply(try_to_write, (protected,))
        assert pool.apply(describe, (flagged,))[3] is False
        a[0, 0] = 8
        assert pool.apply(describe, (protected,))[4][0, 0] == 8
    assert a[0, 0] == 8


class Subclass(np.ndarray):
    pass


def case_by_value(context):
    shared = filled()
    others = [
        np.ones(N),
        shared[:0],
        np.array([1, "a", None], dtype=object),
        shared.view(Subclass),
        np.ma.masked_array(np.arange(3), [0, 1, 0]),
        np.matrix([[1, 2]]),
    ]
    with context.Pool(1) as pool:
        for a in others:
            _, _, dtype, _, values, _ = pool.apply(describe, (a,))
            assert dtype == a.dtype
            np.testing.assert_array_equal(values, a)
            assert type(values) is type(a)
        with sharena.by_value():
            copy = pickle.loads(ForkingPickler.dumps(shared))
        assert not sharena.is_shared(copy)
        assert (copy == shared).all()
        assert sharena.is_shared(pickle.loads(ForkingPickler.dumps(shared)))
        plain = pickle.loads(pickle.dumps(shared))
        assert not sharena.is_shared(plain)


if __name__ == "__main__":
    run_case(globals())
