"""The examples do what the README says, under every start method."""

from pathlib import Path

import numpy as np

EXAMPLES = Path(__file__).parents[2] / "examples"
# As `python filter.py`, but with the start method chosen first.
RUNNER = """
import multiprocessing, runpy, sys
multiprocessing.set_start_method(sys.argv[1])
runpy.run_path(sys.argv[2], run_name="__main__")
"""


def test_filter(run_python, method, tmp_path):
    stack = np.random.default_rng(1).random((6, 50, 40))
    np.save(tmp_path / "stack.npy", stack)
    done = run_python("-c", RUNNER, method, EXAMPLES / "filter.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    maxima = np.load(tmp_path / "maxima.npy")
    np.testing.assert_array_equal(maxima, (stack * 0.5).max(axis=1))
