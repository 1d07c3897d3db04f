"""Whether anybody can read a message: programs/judge.py."""

PROGRAM = "judge.py"


def test_judge(run_judging, case):
    run_judging(PROGRAM, case)
