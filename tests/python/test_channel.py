"""Where a message goes that is written to a descriptor: programs/channel.py."""

PROGRAM = "channel.py"


def test_channel(run_judging, case):
    run_judging(PROGRAM, case)
