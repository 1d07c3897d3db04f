"""What the programs of this folder share."""

import contextlib
import gc
import importlib
import multiprocessing
import os
import select
import sys
import time

import sharena

DEADLINE_S = 20.0
SKIPPED = 77  # the exit status that tells "skipped", as in Automake and Meson


def heap():
    return sharena.Heap.default()


def live():
    """(blocks, bytes live): what a leak would raise."""
    stats = heap().stats()
    return stats.blocks, stats.live_bytes


def until(condition, what, deadline_s=DEADLINE_S):
    """Wait for an event that has no descriptor to wait for; fail when it does not come."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited {deadline_s} s for {what}")
        select.select([], [], [], 0.001)  # there is nothing to wait on: look again


@contextlib.contextmanager
def no_leaks():
    """Inside, arrays come and go; afterwards none may be left, and the heap is sound."""
    gc.collect()
    before = live()
    yield
    gc.collect()

    def back():
        heap().reap()
        return live() == before

    try:
        until(back, "the heap to be as it was")
    except AssertionError:
        raise AssertionError(
            f"leak: {before} (blocks, bytes) became {live()}; blocks "
            f"{heap().blocks()}, tickets {heap().tickets()}, {heap().processes()}"
        ) from None
    sound()


def sound():
    """The walker finds nothing."""
    faults = heap().check()
    assert not faults, faults


def wait_for_exit(pid, deadline_s=DEADLINE_S):
    """Wait until any process is gone, be it a child or not, without reaping it."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ready, _, _ = select.select([descriptor], [], [], deadline_s)
        assert ready, f"process {pid} is still there"
    finally:
        os.close(descriptor)


def importorskip(name):
    """The module, or the end of the program with the status of a skipped test."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        print(error)
        sys.exit(SKIPPED)


def run_case(program):
    """`PROGRAM METHOD CASE`: run one `case_…` function of a program's globals."""
    method, case = sys.argv[1:]
    multiprocessing.set_start_method(method)
    with no_leaks():
        program[f"case_{case}"](multiprocessing.get_context(method))
    until(lambda: not heap().tickets(), "the last tickets to be spent")
    assert live()[0] == 0, heap().blocks()
