"""Rows of the constructors: against NumPy's, SharedMemory and RawArray."""

from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from multiprocessing.sharedctypes import RawArray

import measure
import numpy as np
from measure import Row, Settings, compare

import sharena

KIB = np.arange(128.0)  # 1 KiB
EMPTY = ("empty(8)", "empty(1000)", 'empty((100, 100), "f4")')
MIDDLE = tuple(f'empty({size}, "u1")' for size in (1 << 16, 1 << 17, 1 << 20, 1 << 22))
FILLED = ("zeros(128)", "full(128, 1.5)", "array(values)", "empty_like(model)")


def _action(module, call: str, number: int):
    names = {"values": KIB.tolist(), "model": KIB}
    names |= {name: getattr(module, name) for name in dir(np) if call.startswith(name + "(")}
    return measure.loop(call, number, names)


def _against_numpy(case: str, calls, settings: Settings, bar: float, goal: float):
    measure.pin(0)
    for call in calls:
        number = settings.pick(20_000, 500)
        actions = [_action(module, call, number) for module in (sharena, np)]
        yield compare(
            case,
            f"{call} and drop",
            tuple(measure.rounds(actions, settings.pick(21, 3))),
            "ns",
            bar=bar,
            goal=goal,
            versus="NumPy's",
        )


def create(settings: Settings) -> Iterator[Row]:
    """Empty arrays."""
    yield from _against_numpy("create", EMPTY, settings, 0.8, 0.5)


def middle(settings: Settings) -> Iterator[Row]:
    """Empty arrays of 64 KiB to 4 MiB."""
    yield from _against_numpy("middle", MIDDLE, settings, 0.9, 0.7)


def fill(settings: Settings) -> Iterator[Row]:
    """Arrays with content, 1 KiB."""
    yield from _against_numpy("fill", FILLED, settings, 1.1, 0.8)


def _shared_memory(size_bytes: int, number: int):
    return measure.loop(
        f"s = SharedMemory(create=True, size={size_bytes}); s.close(); s.unlink()",
        number,
        {"SharedMemory": SharedMemory},
    )


def _raw_array(size_bytes: int, number: int):
    return measure.loop(f"RawArray('d', {size_bytes // 8})", number, {"RawArray": RawArray})


# Each constructor of the two families above and the bytes of its array.  The peers give
# memory of zeros and no content: full() and array(list) are compared too, but what takes
# their time is the content, so the bar is not for them.
PEERS = (
    *zip(EMPTY, (64, 8000, 40_000), (True,) * 3, strict=True),
    *zip(FILLED, (1024,) * 4, (True, False, False, True), strict=True),
)


def peers(settings: Settings) -> Iterator[Row]:
    """The same against the standard library's shared memory."""
    measure.pin(0)
    for call, size_bytes, barred in PEERS:
        actions = [
            _action(sharena, call, settings.pick(5000, 100)),
            _shared_memory(size_bytes, settings.pick(100, 5)),
            _raw_array(size_bytes, settings.pick(200, 5)),
        ]
        ours, memory, raw = measure.rounds(actions, settings.pick(11, 3))
        for peer, figures, bar in (("SharedMemory", memory, 300), ("RawArray", raw, 80)):
            yield compare(
                "peers",
                f"{'' if barred else '  '}{call}, times faster",
                (ours, figures),
                "ns",
                bar=bar if barred else None,
                faster=True,
                versus=peer,
            )
