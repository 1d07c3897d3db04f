"""Bad input and bad surroundings: programs/bad_input.py."""

import subprocess

import pytest

PROGRAM = "bad_input.py"
# Cases that need a namespace of their own, and what is mounted there.
MOUNTS = {
    "full_file_system": "mount -t tmpfs -o size=32m tmpfs /dev/shm",
    "no_proc": "mount -t tmpfs tmpfs /proc",
}


def test_bad_input(run_program, case):
    if case not in MOUNTS:
        run_program(PROGRAM, case)
        return
    apart, mount = ["unshare", "--mount", "sh", "-c"], MOUNTS[case]
    if subprocess.run([*apart, mount], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs in a namespace of its own")
    run_program(PROGRAM, case, inside=[*apart, f'{mount} && exec "$@"', "-"])


def test_no_memory_is_no_damage(run_program):
    run_program("no_memory.py")
