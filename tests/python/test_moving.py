"""docs/moving-from-fork.md: its programs before the change, and after."""

import pathlib
import re

import pytest

PAGE = pathlib.Path(__file__).parents[2] / "docs/moving-from-fork.md"
DIFFS = re.findall(r"^```diff\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
# As `python program.py` would with that method as the default.
DEFAULT = """
import multiprocessing, os
multiprocessing.set_start_method(os.environ["METHOD"])
"""


def side(diff, mark):
    """One of the two programs of a diff."""
    return "".join(line[1:] + "\n" for line in diff.splitlines() if line[0] in f" {mark}")


@pytest.fixture
def run(run_python, tmp_path, method):
    """Run a program with a start method; the result."""

    def run_it(program):
        (tmp_path / "sitecustomize.py").write_text(DEFAULT, encoding="utf-8")
        (tmp_path / "program.py").write_text(program, encoding="utf-8")
        environment = {"METHOD": method, "PYTHONPATH": str(tmp_path)}
        return run_python("program.py", cwd=tmp_path, env=environment)

    return run_it


def test_three_lines_change_and_an_import():
    assert len(DIFFS) == 2
    for diff in DIFFS:
        added = [line for line in diff.splitlines() if line.startswith("+")]
        assert len(added) == 4
        assert "+import sharena" in added


AFTER = ("[1, 3, 5]\n[4, 4, 5, 5]\n", "[1, 2, 3]\n")
UNDER_FORK = ("[1, 3, 5]\n[8, 9, 10, 11]\n", "[1, 2, 3]\n")


@pytest.mark.parametrize("number", [0, 1])
def test_after_the_change(run, number):
    done = run(side(DIFFS[number], "+"))
    assert done.stdout == AFTER[number], done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("number", [0, 1])
def test_before_the_change(run, method, number):
    done = run(side(DIFFS[number], "-"))
    if method == "fork":
        assert done.stdout == UNDER_FORK[number], done.stderr
    else:
        assert done.returncode != 0
        assert re.search(r"NameError: name '(image|counts)' is not defined", done.stderr)
