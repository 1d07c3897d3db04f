"""Bad input and bad surroundings: programs/bad_input.py."""

import subprocess

import pytest

PROGRAM = "bad_input.py"
SMALL = "mount -t tmpfs -o size=32m tmpfs /dev/shm"


def test_bad_input(run_program, case):
    if case == "full_file_system":
        command = ["unshare", "--mount", "sh", "-c", SMALL]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("needs the right to mount a tmpfs in a namespace of its own")
        run_program(
            PROGRAM, case, inside=["unshare", "--mount", "sh", "-c", f'{SMALL} && exec "$@"', "-"]
        )
    else:
        run_program(PROGRAM, case)
