"""Who is there when a handle is made, sent and loaded: programs/lifetimes.py."""

PROGRAM = "lifetimes.py"


def test_lifetimes(run_program, method, case):
    run_program(PROGRAM, method, case)
