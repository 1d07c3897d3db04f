"""os.fork() while arrays are held: programs/forking.py."""

PROGRAM = "forking.py"


def test_forking(run_program, case):
    run_program(PROGRAM, case)
