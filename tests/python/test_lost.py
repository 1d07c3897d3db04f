"""What cannot be acquired arrives as a Lost, and nobody hangs: programs/lost.py."""

PROGRAM = "lost.py"


def test_lost(run_program, method, case):
    run_program(PROGRAM, method, case)
