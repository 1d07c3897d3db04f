"""Foreign memory is freed once, after the last view, wherever that dies: programs/foreign.py."""

import pytest

PROGRAM = "foreign.py"


@pytest.mark.parametrize("mode", ["", "debug"])
def test_freeing(run_program, case, mode):
    """Also with the debug hooks of CPython's allocator, and its runtime checks."""
    environment = {"PYTHONMALLOC": mode, "PYTHONDEVMODE": "1" if mode else ""}
    out = run_program(PROGRAM, case, env=environment)
    assert sorted(out) == (["c", "p"] if case.startswith("exit") else [])
