"""CPython's own tests of what sharena stands in for.

`make matrix PYTEST=tests/python/test_cpython.py` runs those of every CPython on the machine.
"""

import pytest


@pytest.mark.parametrize("what", ["functions", "installed", "memory"])
def test_of_cpython(run_program, method, what):
    run_program("cpython.py", method, what, deadline_s=120)
