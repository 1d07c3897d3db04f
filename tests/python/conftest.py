"""What the Python tests share: programs that run in an interpreter of their own.

What crosses processes is tested by small programs in `programs/`, each started here in a
session of its own with a deadline.  A program that hangs or dies takes nothing with it:
it is asked for the stacks of its threads, then its whole session is killed.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import hypothesis
import pytest

# A user's run of the tests draws no lots; `make fuzz` does, with --hypothesis-profile=fuzz.
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.register_profile("fuzz", derandomize=False, print_blob=True)
hypothesis.settings.load_profile("same")

PROGRAMS = Path(__file__).parent / "programs"
METHODS = ("fork", "spawn", "forkserver")
DEADLINE_S = 60.0
SKIPPED = 77  # what support.importorskip() ends a program with


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with an argument `case` runs for each `case_…` function of its PROGRAM."""
    if "case" in metafunc.fixturenames:
        text = (PROGRAMS / metafunc.module.PROGRAM).read_text()
        names = re.findall(r"^def case_(\w+)", text, re.MULTILINE)
        metafunc.parametrize("case", names)


def run_session(
    command: list[str], deadline_s: float = DEADLINE_S, **options: object
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, or kill its session when time is up and fail."""
    environment = dict(os.environ, PYTHONFAULTHANDLER="1")
    environment.pop("SHARENA_HEAP", None)  # each has a default heap of its own
    environment.update(options.pop("env", {}))  # type: ignore[call-overload]
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment,
        **options,  # type: ignore[call-overload]
    )
    try:
        out, err = child.communicate(timeout=deadline_s)
    except subprocess.TimeoutExpired:
        _end_session(child.pid, signal.SIGABRT)  # faulthandler prints the stacks
        try:
            out, err = child.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            _end_session(child.pid, signal.SIGKILL)
            out, err = child.communicate()
        pytest.fail(f"{command} hung for {deadline_s} s\n{out}\n{err}")
    finally:
        _end_session(child.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, child.returncode, out, err)


def _end_session(leader: int, number: int) -> None:
    """Signal every process of the session, in whatever group."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            pid = int(entry)
            try:
                if os.getsid(pid) == leader:
                    os.kill(pid, number)
            except (ProcessLookupError, PermissionError):
                continue


@pytest.fixture
def run_program() -> Callable[..., str]:
    """Run `programs/NAME` with arguments; it must exit with 0.  Returns its output.

    A program that lacks a library skips the test.

    `inside` is a command that runs another one, put in front.
    """

    def run(
        program: str, *arguments: object, inside: Sequence[str] = (), **options: object
    ) -> str:
        path = str(PROGRAMS / program)
        command = [*inside, sys.executable, path, *map(str, arguments)]
        done = run_session(command, **options)  # type: ignore[arg-type]
        if done.returncode == SKIPPED:
            pytest.skip(done.stdout.strip())
        assert done.returncode == 0, (
            f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done.stdout

    return run


@pytest.fixture
def run_judging(run_program: Callable[..., str]) -> Callable[[str, str], None]:
    """Run a case of a program that uses `programs/judging.py`, or skip what it can't try."""

    def run(program: str, case: str) -> None:
        for line in run_program(program, case).splitlines():
            if line.startswith("skip: "):
                pytest.skip(line[6:])

    return run


@pytest.fixture
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `python ARGUMENTS…` under the same deadline; the caller judges the result."""

    def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        return run_session([sys.executable, *map(str, arguments)], **options)  # type: ignore[arg-type]

    return run


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    """The start methods of multiprocessing."""
    return request.param
