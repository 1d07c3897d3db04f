"""Who may have an end that can't be seen: programs/obstacle.py."""

PROGRAM = "obstacle.py"


def test_obstacle(run_judging, case):
    run_judging(PROGRAM, case)
