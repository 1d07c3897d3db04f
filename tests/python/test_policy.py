"""What NumPy allocates lies in the heap: programs/policy.py."""

PROGRAM = "policy.py"


def test_policy(run_program, case):
    run_program(PROGRAM, case)
