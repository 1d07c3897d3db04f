"""Processes that have no default heap in common: programs/strangers.py."""

PROGRAM = "strangers.py"


def test_strangers(run_program, case):
    run_program(PROGRAM, case)
