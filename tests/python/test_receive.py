"""Messages in which an object needs an array that was lost: one Lost in its place."""

import gc
import pickle
import pickletools
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
from losing import Broken, Gone, Lazy, N, Object, dumps, expire, use

import sharena
from sharena import Lost

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


# ---- one class for each opcode that runs code of a class ----


class Function(Object):
    """REDUCE, with a function."""

    def __reduce__(self):
        return use, (self.x,)


class State(Object):
    """BUILD."""

    def __reduce__(self):
        return object.__new__, (type(self),), {"x": self.x}

    def __setstate__(self, state):
        self.__init__(state["x"])


class New:
    """NEWOBJ."""

    def __new__(cls, x):
        self = super().__new__(cls)
        self.x, self.mean = x, use(x)
        return self

    def __getnewargs__(self):
        return (self.x,)

    def __getstate__(self):
        return None


class NewByName(New):
    """NEWOBJ_EX; before protocol 4 REDUCE of a partial()."""

    def __getnewargs_ex__(self):
        return (), {"x": self.x}


class Means(list):
    """APPENDS, APPEND: onto what is no plain list."""

    def append(self, x):
        super().append((x, use(x)))

    def extend(self, items):
        for x in items:
            self.append(x)

    def __reduce_ex__(self, protocol):
        return Means, (), None, (x for x, _ in self)


class MeansByName(dict):
    """SETITEMS, SETITEM: into what is no plain dict."""

    def __setitem__(self, key, x):
        super().__setitem__(key, (x, use(x)))

    def __reduce_ex__(self, protocol):
        return MeansByName, (), None, None, ((key, x) for key, (x, _) in self.items())


class Key:
    """Can't be hashed without its array."""

    def __init__(self, x):
        self.x = x

    def __hash__(self):
        return hash(use(self.x))

    def __eq__(self, other):
        return self is other


def means(x):
    made = Means()
    made.append(x)
    made.append(x)
    return made


def means_by_name(x):
    made = MeansByName()
    made["a"] = x
    made["b"] = x
    return made


MAKERS = {
    "REDUCE class": Object,
    "REDUCE function": Function,
    "BUILD": State,
    "NEWOBJ": New,
    "NEWOBJ_EX": NewByName,
    "APPENDS": means,
    "SETITEMS": means_by_name,
    "key of a dict": lambda x: {Key(x): 1},
    "element of a set": lambda x: {Key(x)},
    "element of a frozenset": lambda x: frozenset([Key(x)]),
}


class Swap:
    """An array that is lost on its way, once `made` with it is there."""

    def __init__(self, make):
        self.x = sharena.ones(N)
        self.made = make(self.x)

    def message(self, protocol):
        data = dumps({"made": self.made, "again": [self.made], "number": 7}, protocol)
        del self.made, self.x
        expire()
        return data


# Before protocol 2 nobody calls __new__ with arguments.
CASES = [
    (name, protocol)
    for name in MAKERS
    for protocol in PROTOCOLS
    if protocol >= 2 or not name.startswith("NEWOBJ")
]


@pytest.mark.parametrize(("name", "protocol"), CASES)
def test_the_object_is_one_lost(name, protocol):
    swap = Swap(MAKERS[name])
    back = ForkingPickler.loads(swap.message(protocol))
    assert type(back["made"]) is Lost
    assert type(back["made"].error) is sharena.StaleHandleError
    assert back["again"][0] is back["made"]
    assert back["number"] == 7


@pytest.mark.parametrize(("name", "protocol"), CASES)
def test_nothing_changes_when_nothing_is_lost(name, protocol):
    x = sharena.ones(N)
    back = ForkingPickler.loads(dumps(MAKERS[name](x), protocol))
    assert type(back) is type(pickle.loads(pickle.dumps(MAKERS[name](np.ones(N)), protocol)))


def test_the_classes_use_the_opcodes_they_name():
    used = set()
    for name, make in MAKERS.items():
        for protocol in PROTOCOLS:
            data = dumps(make(np.ones(1)), protocol)
            opcodes = {opcode.name for opcode, _, _ in pickletools.genops(data)}
            if name.isupper() and protocol >= 4:
                assert name in opcodes
            used |= opcodes
    assert used >= {"REDUCE", "NEWOBJ", "NEWOBJ_EX", "BUILD", "APPEND", "APPENDS"}
    assert used >= {"SETITEM", "SETITEMS", "ADDITEMS", "FROZENSET"}


def lost_operand():
    """What pushes a lost array, in protocol 0."""
    data = dumps(sharena.ones(N), 0)
    expire()
    return data[:-1]  # STOP


@pytest.mark.parametrize(
    "stream",
    [
        lambda: b"(" + lost_operand() + b"ilosing\nObject\n",
        lambda: b"(closing\nObject\n" + lost_operand() + b"o",
        lambda: b"(" + f"c{__name__}\nKey\n(".encode() + lost_operand() + b"tRI1\nd",
    ],
    ids=["INST", "OBJ", "DICT"],
)
def test_opcodes_that_nobody_writes_any_more(stream):
    assert type(ForkingPickler.loads(stream() + b".")) is Lost
    assert ForkingPickler.loads(stream() + b"I5\n\x86.")[1] == 5


# ---- what stands beside and around it ----


def test_the_innermost_object_is_replaced():
    swap = Swap(lambda x: Key({"inner": [State(x), 5]}))
    outer = ForkingPickler.loads(swap.message(None))["made"]
    assert type(outer) is Key
    assert type(outer.x["inner"][0]) is Lost
    assert outer.x["inner"][1] == 5


def test_an_object_that_does_not_use_it_is_whole():
    back = ForkingPickler.loads(Swap(lambda x: [Lazy(x), Object(x)]).message(None))["made"]
    assert type(back[0]) is Lazy
    assert type(back[0].x) is Lost
    assert type(back[1]) is Lost


def test_arrays_beside_it_arrive_though_their_handles_are_spent():
    private, shared = np.arange(5.0), sharena.array(np.arange(7.0))
    message = dumps([shared, private, Object(np.ones(3)), Broken(), shared[2:]])
    del shared
    gc.collect()
    first, copy, whole, lost, rest = ForkingPickler.loads(message)
    assert type(lost) is Lost
    assert first.tolist() == list(range(7))
    assert copy.tolist() == list(range(5))
    assert whole.mean == 1
    assert sharena.is_shared(first)
    first[2] = 99
    assert rest[0] == 99
    del first, rest
    gc.collect()
    assert not sharena.Heap.default().tickets()
    assert sharena.Heap.default().check() == []


class ByHandle:
    def __init__(self, data):
        self.data = data

    def __reduce__(self):
        return sharena.rebuild_array, (self.data,)


def test_a_second_pass_spends_no_second_use():
    a = sharena.full(N, 4.0)
    message = dumps([ByHandle(sharena.handle(a, uses=2)), Broken()])
    del a
    gc.collect()
    back = ForkingPickler.loads(message)
    assert type(back[1]) is Lost
    assert (back.pop(0) == 4).all()
    gc.collect()
    assert (ForkingPickler.loads(message)[0] == 4).all()


class Nested:
    """Loads a message while it is loaded."""

    def __init__(self, data):
        self.data = data

    def __getstate__(self):
        return {"data": self.data}

    def __setstate__(self, state):
        self.inside = ForkingPickler.loads(state["data"])


def test_a_load_within_a_load():
    shared = sharena.full(N, 3.0)
    inner = dumps([shared, 1])
    message = dumps([Nested(inner), Nested(dumps(["x", Broken()])), Broken(), 2])
    del shared
    gc.collect()
    good, bad, lost, number = ForkingPickler.loads(message)
    assert (good.inside[0] == 3).all()
    assert type(bad) is Nested
    assert bad.inside[0] == "x"
    assert type(bad.inside[1]) is Lost
    assert type(lost) is Lost
    assert number == 2


def test_a_plain_pickle_within_a_message():
    """As cloudpickle's wrappers: no more is lost than there."""
    back = ForkingPickler.loads(dumps([Wrapped(dumps(["x", Broken()])), 3]))
    assert back[0][0] == "x"
    assert type(back[0][1]) is Lost
    assert back[1] == 3


class Wrapped:
    def __init__(self, data):
        self.data = data

    def __reduce__(self):
        return pickle.loads, (self.data,)


def test_a_lost_that_is_sent_on():
    """Its own loading is not what failed; what uses it is."""
    lost = ForkingPickler.loads(dumps(Gone()))
    assert type(lost) is Lost
    state = State.__new__(State)
    state.x = lost
    back = ForkingPickler.loads(dumps({"state": state, "lost": lost}))
    assert type(back["state"]) is Lost
    assert type(back["lost"]) is Lost
    assert type(back["state"].error) is sharena.StaleHandleError


def test_many():
    gone = Gone()
    x = np.ones(1)
    back = ForkingPickler.loads(dumps([[Lazy(x), State2(gone, i)] for i in range(20_000)]))
    assert len(back) == 20_000
    assert all(type(pair[1]) is Lost for pair in back)


class State2:
    def __init__(self, x, number):
        self.x, self.number = x, number

    def __setstate__(self, state):
        self.__dict__.update(state, mean=use(state["x"]))


def test_buffers_out_of_band_that_can_be_taken_once():
    buffers = []
    big = np.arange(1000.0)
    plain = pickle.dumps([big, Wrapped(dumps(Broken()))], 5, buffer_callback=buffers.append)
    back = ForkingPickler.loads(plain, buffers=iter(buffers))
    assert (back[0] == big).all()
    assert type(back[1]) is Lost
    (again,) = ForkingPickler.loads(
        pickle.dumps([Broken()], 5), fix_imports=True, encoding="bytes", buffers=None
    )
    assert type(again) is Lost
