"""Arrays on their way: nothing is lost, and nothing is left behind.

Each `case_…` of a program is a situation of a message: its pickling or sending fails, nobody
can read it any more, somebody still can, or there is no room.
"""

import re

import pytest
from conftest import PROGRAMS

NAMES = ("failing", "unread", "stays", "handles", "many", "others")


def situations():
    for name in NAMES:
        program = f"transit_{name}.py"
        text = (PROGRAMS / program).read_text()
        for case in re.findall(r"^def case_(\w+)", text, re.MULTILINE):
            yield pytest.param(program, case, id=f"{name}-{case}")


@pytest.mark.parametrize(("program", "situation"), list(situations()))
def test_transit(run_judging, program, situation):
    run_judging(program, situation)


def test_what_has_no_shared_array_is_pickled_as_ever(run_program):
    """Byte for byte, by each protocol, and over the wire."""
    stock = run_program("transit_bytes.py", "stock").splitlines()
    shared = run_program("transit_bytes.py", "shared").splitlines()
    assert len(stock) > 150
    assert stock == shared


REPLACED = """
from multiprocessing import Pipe, connection

seen = []
original = connection.Connection.{name}
def replaced(self, buf, *rest):
    seen.append(len(buf))
    original(self, buf, *rest)
connection.Connection.{name} = replaced

import sharena

here, there = Pipe()
for thing in (5, sharena.ones(3), [sharena.ones(3)]):
    here.send(thing)
    there.recv()
assert len(seen) == 3, seen
"""


@pytest.mark.parametrize("name", ["_send", "_send_bytes"])
def test_who_replaced_a_method_before_us_sees_every_message(run_python, name):
    done = run_python("-c", REPLACED.format(name=name))
    assert done.returncode == 0, done.stderr
