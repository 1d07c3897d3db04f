"""What closefrom() leaves of a heap's user: programs/daemon.py.

As root, who can open a mapping again, and as a user who can't.
"""

import os

import pytest
from conftest import PROGRAMS

PROGRAM = "daemon.py"


@pytest.fixture(params=["root", "nobody"])
def user(request):
    if os.geteuid() != 0:
        if request.param == "root":
            pytest.skip("not root")
        return "oneself"
    return request.param


def test_daemon(run_python, user, case):
    done = run_python(PROGRAMS / PROGRAM, case, user)
    assert done.stdout.split()[-1:] == ["done"], done.stdout + done.stderr
