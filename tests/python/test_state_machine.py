"""Random programs over several processes, checked against a model after each step.

The model knows which process holds which block, which names there are, and which handles
are unspent.  After each step the walker must find the heap sound, and the number of live
blocks and of unspent uses must be the model's.
"""

import contextlib
import gc
import hashlib
import itertools
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Listener
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

import sharena

ACTOR = Path(__file__).parent / "programs" / "actor.py"
DEADLINE_S = 20.0
MOST_ACTORS = 6
# Elements of 8 bytes: the smallest class, larger ones, the largest, and two runs.
COUNTS = (1, 2, 60, 1000, 4096, 5000, 200_000)

pick = st.integers(0, 10**6)  # chooses among what there is at that step
values = st.integers(-5, 5).map(float)


@dataclass(eq=False)
class Block:
    mirror: np.ndarray


@dataclass(eq=False)
class Held:
    """An array of an actor: all of the block from element `start` on."""

    block: Block
    start: int


@dataclass(eq=False)
class Message:
    data: bytes
    block: Block
    start: int
    uses: int


@dataclass(eq=False)
class Actor:
    connection: Connection
    pid: int
    pidfd: int
    arrays: dict[int, Held] = field(default_factory=dict)
    stopped: bool = False

    def order(self, *order):
        self.connection.send(order)
        assert self.connection.poll(DEADLINE_S), f"{order}: no answer from {self.pid}"
        return self.connection.recv()

    def wait_for_exit(self):
        ready, _, _ = select.select([self.pidfd], [], [], DEADLINE_S)
        assert ready, f"process {self.pid} is still there"

    def stop(self):
        """SIGSTOP: from now on it does nothing, and must be in nobody's way."""
        signal.pidfd_send_signal(self.pidfd, signal.SIGSTOP)
        end = time.monotonic() + DEADLINE_S
        while " T " not in Path(f"/proc/{self.pid}/stat").read_text():
            assert time.monotonic() < end, f"process {self.pid} does not stop"
        self.stopped = True

    def go_on(self):
        signal.pidfd_send_signal(self.pidfd, signal.SIGCONT)
        self.stopped = False

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        self.wait_for_exit()
        os.close(self.pidfd)
        self.connection.close()


class Processes(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        gc.collect()
        self.heap = sharena.Heap.default()
        self.others = self.heap.stats().blocks
        self.folder = tempfile.TemporaryDirectory()
        self.listener = Listener(f"{self.folder.name}/socket")
        self.actors = []
        self.messages = []
        self.names = {}
        self.keys = itertools.count()

    @initialize()
    def first_actor(self):
        command = [sys.executable, str(ACTOR), self.listener.address]
        self.first = subprocess.Popen(command)
        self.actors.append(self._accept({}))

    def _accept(self, arrays):
        self.listener._listener._socket.settimeout(DEADLINE_S)
        connection = self.listener.accept()
        pid = connection.recv()
        return Actor(connection, pid, os.pidfd_open(pid), arrays)

    def running(self):
        return [actor for actor in self.actors if not actor.stopped]

    def _actor(self, choice):
        return self.running()[choice % len(self.running())]

    def _held(self, choice):
        everything = [(actor, key) for actor in self.running() for key in actor.arrays]
        return everything[choice % len(everything)]

    def some_array(self):
        return any(actor.arrays for actor in self.running())

    def several_run(self):
        return len(self.running()) > 1

    def some_stopped(self):
        return len(self.running()) < len(self.actors)

    def live(self):
        blocks = {held.block for a in self.actors for held in a.arrays.values()}
        blocks |= {message.block for message in self.messages if message.uses}
        return blocks | {held.block for held in self.names.values()}

    # ---- arrays ----

    @rule(who=pick, count=st.sampled_from(COUNTS), value=values)
    def allocate(self, who, count, value):
        actor, key = self._actor(who), next(self.keys)
        assert actor.order("allocate", key, count, value) is None
        actor.arrays[key] = Held(Block(np.full(count, value)), 0)

    @precondition(some_array)
    @rule(what=pick, skip=pick)
    def view(self, what, skip):
        actor, key = self._held(what)
        held, other = actor.arrays[key], next(self.keys)
        skip %= len(held.block.mirror) - held.start
        assert actor.order("view", key, other, skip) is None
        actor.arrays[other] = Held(held.block, held.start + skip)

    @precondition(some_array)
    @rule(what=pick, value=values)
    def write(self, what, value):
        actor, key = self._held(what)
        held = actor.arrays[key]
        assert actor.order("write", key, value) is None
        held.block.mirror[held.start :] = value

    @precondition(some_array)
    @rule(what=pick)
    def read(self, what):
        actor, key = self._held(what)
        held = actor.arrays[key]
        expected = hashlib.blake2b(held.block.mirror[held.start :]).hexdigest()
        assert actor.order("read", key) == expected

    @precondition(some_array)
    @rule(what=pick)
    def drop(self, what):
        actor, key = self._held(what)
        assert actor.order("drop", key) is None
        del actor.arrays[key]

    # ---- handing over ----

    @precondition(some_array)
    @rule(what=pick, uses=st.integers(1, 3))
    def export(self, what, uses):
        actor, key = self._held(what)
        held = actor.arrays[key]
        data = actor.order("export", key, uses)
        self.messages.append(Message(data, held.block, held.start, uses))

    @precondition(lambda self: self.messages)
    @rule(which=pick, who=pick)
    def load(self, which, who):
        """A covered load works; another one does while anyone holds the block."""
        message = self.messages[which % len(self.messages)]
        actor, key = self._actor(who), next(self.keys)
        alive = message.block in self.live()
        answer = actor.order("load", key, message.data)
        assert answer == (None if alive else "StaleHandleError")
        if alive:
            message.uses = max(0, message.uses - 1)
            actor.arrays[key] = Held(message.block, message.start)

    @precondition(lambda self: self.messages)
    @rule()
    def expire(self):
        self.heap.expire_tickets(0)
        for message in self.messages:
            message.uses = 0

    @precondition(some_array)
    @rule(what=pick, name=st.sampled_from("xyz"))
    def set_name(self, what, name):
        actor, key = self._held(what)
        assert actor.order("set_name", name, key) is None
        self.names[name] = actor.arrays[key]

    @rule(who=pick, name=st.sampled_from("xyz"))
    def get_name(self, who, name):
        actor, key = self._actor(who), next(self.keys)
        known = name in self.names
        answer = actor.order("get_name", name, key)
        assert answer == (None if known else "KeyError")
        if known:
            actor.arrays[key] = self.names[name]

    @rule(who=pick, name=st.sampled_from("xyz"))
    def remove_name(self, who, name):
        known = self.names.pop(name, None)
        answer = self._actor(who).order("remove_name", name)
        assert answer == ("KeyError" if known is None else None)

    # ---- processes ----

    @precondition(lambda self: len(self.actors) < MOST_ACTORS)
    @rule(who=pick)
    def fork(self, who):
        parent = self._actor(who)
        assert parent.order("fork") is None
        self.actors.append(self._accept(dict(parent.arrays)))

    @precondition(several_run)
    @rule(who=pick)
    def stop(self, who):
        self._actor(who).stop()

    @precondition(some_stopped)
    @rule(who=pick, dies=st.booleans())
    def end_of_stop(self, who, dies):
        stopped = [actor for actor in self.actors if actor.stopped]
        actor = stopped[who % len(stopped)]
        if dies:
            self._forget(actor)
        else:
            actor.go_on()

    @precondition(several_run)
    @rule(who=pick)
    def leave(self, who):
        actor = self._actor(who)
        actor.order("leave")
        actor.wait_for_exit()
        self._forget(actor)

    @precondition(several_run)
    @rule(who=pick)
    def kill(self, who):
        self._forget(self._actor(who))

    def _forget(self, actor):
        actor.kill()
        self.actors.remove(actor)

    @rule()
    def trim(self):
        self.heap.trim()

    # ---- what must hold ----

    def _reap(self, left):
        """Clear up after the dead, until so many processes are left.

        The kernel drops a dead process's lock with its last mapping, which can be a moment
        later than its end where somebody looks at it through /proc just then.
        """
        end = time.monotonic() + DEADLINE_S
        self.heap.reap()
        while self.heap.stats().processes != left and time.monotonic() < end:
            self.heap.reap()

    @invariant()
    def the_heap_is_sound_and_as_the_model_says(self):
        self._reap(len(self.actors) + 1)
        faults = self.heap.check()
        assert not faults, faults
        stats = self.heap.stats()
        assert stats.blocks == len(self.live()) + self.others
        assert stats.processes == len(self.actors) + 1
        unspent = sum(ticket.uses for ticket in self.heap.tickets())
        assert unspent == sum(message.uses for message in self.messages)
        assert sorted(self.heap.keys()) == sorted(self.names)

    def teardown(self):
        for actor in self.actors:
            actor.kill()
        self.first.wait()
        self.listener.close()
        self.folder.cleanup()
        self._reap(1)
        self.heap.expire_tickets(0)
        for name in self.names:
            del self.heap[name]
        assert not self.heap.check()
        assert self.heap.stats().blocks == self.others


TestProcesses = Processes.TestCase
TestProcesses.settings = settings(
    max_examples=30,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_lots_are_drawn_only_when_asked_for(pytestconfig):
    """`make test` is the same for everybody; see scripts/fuzz."""
    asked = pytestconfig.getoption("--hypothesis-profile") == "fuzz"
    assert TestProcesses.settings.derandomize != asked
