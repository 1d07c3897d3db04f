"""The C programs in c/: compiled against the installed library, run, read."""

import functools
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile

import measure

import sharena

SOURCES = measure.HERE / "c"
# As the library itself is built.
FLAGS = "-std=c11 -D_GNU_SOURCE -O2 -g -pthread -Wall -Wextra".split()


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="sharena-bench-")


@functools.cache
def _program(name: str) -> pathlib.Path:
    program = pathlib.Path(_folder().name) / name
    library = pathlib.Path(sharena.__file__).parent / "lib"
    compiler = shlex.split(os.environ.get("CC", "cc"))
    done = subprocess.run(
        [*compiler, *FLAGS, f"-I{sharena.get_include()}", str(SOURCES / f"{name}.c")]
        + ["-o", str(program), f"-L{library}", f"-Wl,-rpath,{library}", "-lsharena"]
        + ["-lmimalloc"],
        check=False,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode != 0:
        sys.stderr.write(done.stderr)
        sys.exit(
            "bench: the C rows need a compiler and mimalloc's headers:\n"
            "  scripts/apt-packages build bench"
        )
    return program


Cases = dict[str, tuple[list[float], list[float]]]


def _run(name: str, arguments: tuple[object, ...], cases: Cases) -> None:
    done = subprocess.run(
        [str(_program(name)), *map(str, arguments)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
    )
    for line in done.stdout.splitlines():
        case, ours, peer = line.split("\t")
        pair = cases.setdefault(case, ([], []))
        pair[0].append(float(ours))
        pair[1].append(float(peer))


def figures(name: str, *arguments: object, processes: int = 1) -> Cases:
    """Run a program; map each of its cases to the figures of sharena and of the peer.

    In several processes where a few ns count: how the loader and the kernel lay out code and
    data moves such figures by a tenth, and a process keeps its layout.
    """
    cases: Cases = {}
    for _ in range(processes):
        _run(name, arguments, cases)
    return cases
