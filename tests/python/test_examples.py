"""The example of the README does what it says, under every start method."""

from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
# As `python filter.py`, but with the start method chosen first.
RUNNER = """
import multiprocessing, runpy, sys
multiprocessing.set_start_method(sys.argv[1])
runpy.run_path(sys.argv[2], run_name="__main__")
"""


def test_filter(run_python, method, tmp_path):
    done = run_python("-c", RUNNER, method, EXAMPLES / "filter.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    # what every plane has least was taken from it in place, by whoever got it
    assert done.stdout == "0 3995 (38, 1024)\n"
    assert not list(tmp_path.iterdir())


# As if on a machine of 100 cores; counts the processes.
MANY_CORES = """
import os
forks = []
os.register_at_fork(after_in_parent=lambda: forks.append(1))
os.cpu_count = os.process_cpu_count = lambda: 100
"""


def test_filter_fits_a_heap_on_any_machine(run_python, tmp_path):
    """By default a pool has a worker for each core, and a heap serves 60 processes."""
    program = MANY_CORES + RUNNER + "print(len(forks))"
    done = run_python("-c", program, "fork", EXAMPLES / "filter.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    *_, forks = done.stdout.split()
    assert 1 <= int(forks) < 60
