"""Shared arrays through every channel of the standard library: programs/handover.py."""

PROGRAM = "handover.py"


def test_handover(run_program, method, case):
    run_program(PROGRAM, method, case)
