"""The project's own commands: what the documents name exists, and a fresh clone can run it."""

import importlib.machinery
import importlib.util
import os
import re
import shutil
import subprocess
import sys

import pytest

BENCH = """
import sys
sys.path.insert(0, "bench")
import run
from measure import Row
verdicts = {"holds": Row("x", "", 1, 1, "", bar=1, ratio=1.0),
            "fails": Row("x", "", 2, 1, "", bar=1, ratio=2.0),
            "cause": Row("x", "", 2, 1, "", bar=1, ratio=2.0, cause="measured"),
            "none": Row("x", "", 2, 1, "", ratio=2.0)}
def faked(settings):
    "faked"
    yield verdicts[name]
name = sys.argv.pop(1)
run.CASES.clear()
run.CASES["x"] = faked
sys.exit(run.main())
"""


@pytest.fixture(scope="session")
def makefile(root):
    return (root / "Makefile").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def targets(makefile):
    """Those that `make` lists."""
    names = re.findall(r"^([a-z-]+):.*## ", makefile, re.M)
    assert "test" in names
    return names


def script(root, name):
    """A script of the tree as a module."""
    loader = importlib.machinery.SourceFileLoader(
        name.replace("-", "_"), str(root / "scripts" / name)
    )
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def test_a_fresh_clone_tries_every_target(root, targets):
    assert list(script(root, "try-targets").QUICK) == targets


def commands(text):
    """Each `make …` of a page: in a block of code, at the start of a line, or in backticks."""
    for block in re.findall(r"^```.*?^```", text, re.M | re.S):
        yield from re.findall(r"^make +([^#\n]*?)(?:  .*)?$", block, re.M)
    yield from re.findall(r"`make ([^`]+)`", text)


def test_commands_that_are_named_exist(tracked, makefile, targets):
    """Targets and the variables that go with them."""
    variables = set(re.findall(r"^(\w+) \?=", makefile, re.M))
    named = set()
    for page in (path for path in tracked if path.suffix == ".md"):
        for command in commands(page.read_text(encoding="utf-8")):
            for word in command.split():
                name, equals, _ = word.partition("=")
                assert name in (variables if equals else targets), f"{page}: make {command}"
                named.add(name)
    assert {"test", "demo", "bench", "lint", "matrix", "fuzz", "CASE"} <= named


def test_ci_runs_what_is_there(root, targets):
    text = (root / ".ci/run").read_text(encoding="utf-8")
    run = re.findall(r"^make --no-print-directory ([\w-]+)", text, re.M)
    assert set(run) <= set(targets)
    assert {"lint", "test", "bench", "dist", "fuzz", "demo"} <= set(run)


def test_scripts_that_are_named_exist(root, tracked):
    for page in tracked:
        if page.suffix in (".md", "") or page.name == "Makefile":
            text = page.read_text(encoding="utf-8")
            for name in re.findall(
                r"\b(?:scripts|bench|models)/[a-z][\w-]*(?:\.(?:py|sh))?\b(?!/)", text
            ):
                path = root / name
                assert path.exists(), f"{page}: {name}"
                if path.is_file() and path.parent.name == "scripts":
                    assert os.access(path, os.X_OK), name


@pytest.fixture
def groups(root, tmp_path):
    """A function: make the stamp of a group of requirements with a pip that only takes notes."""
    shutil.copy(root / "Makefile", tmp_path)
    shutil.copytree(root / "scripts", tmp_path / "scripts")
    pip = tmp_path / "venv/bin/python"
    pip.parent.mkdir(parents=True)
    pip.write_text('#!/bin/sh\necho "$@" >>"$NOTES"\n', encoding="utf-8")
    pip.chmod(0o755)
    notes = tmp_path / "notes"

    def make(name, text):
        (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
        (tmp_path / "venv/.build").touch()
        notes.write_text("", encoding="utf-8")
        done = subprocess.run(
            ["make", "VENV=venv", f"venv/.{name}"],
            cwd=tmp_path,
            env={**os.environ, "NOTES": str(notes), "PATH": f"{pip.parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, notes.read_text(encoding="utf-8")

    return make


def test_a_group_of_requirements_may_be_empty(groups):
    text = "[project.optional-dependencies]\nnothing = []\nsome = ['a>=1', 'b']\n"
    assert groups("nothing", text) == (0, "")
    status, notes = groups("some", text)
    assert status == 0
    assert notes.split()[-2:] == ["a>=1", "b"]
    status, notes = groups("unknown", text)
    assert status != 0
    assert notes == ""


def test_groups_of_the_makefile_exist(root, makefile):
    named = set(re.findall(r"\$\(VENV\)/\.(\w+)", makefile)) - {"build"}
    assert named
    for name in named:
        command = [sys.executable, root / "scripts/requirements", name]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("verdict", "strict", "status"),
    [("holds", 1, 0), ("fails", 1, 1), ("cause", 1, 0), ("none", 1, 0), ("fails", 0, 0)],
)
def test_a_bar_that_does_not_hold_fails_a_strict_run(root, verdict, strict, status):
    command = [sys.executable, "-c", BENCH, verdict, "--quick", *["--strict"] * strict]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    assert "bars hold" in done.stdout
