"""What the checks of the source tree share."""

import pathlib
import re
import subprocess
from typing import NamedTuple

import pytest


class Symbols(NamedTuple):
    defined: set[str]  # with external linkage
    undefined: set[str]


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
    return pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def tracked(root: pathlib.Path) -> list[pathlib.Path]:
    """Every text file of the project, whether committed yet or not."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        check=True,
    )
    paths = [root / name for name in listing.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()]


@pytest.fixture(scope="session")
def ladder(root: pathlib.Path) -> list[str]:
    """The core's files, lowest rung first, as the build lists them."""
    listing = (root / "src/core/meson.build").read_text(encoding="utf-8")
    (files,) = re.findall(r"core_sources = files\((.*?)\)", listing, re.S)
    return re.findall(r"'(\w+\.c)'", files)


def nm(path: pathlib.Path, *options: str) -> set[str]:
    listing = subprocess.run(
        ["nm", "--format=posix", *options, path],
        capture_output=True,
        text=True,
        check=True,
    )
    return {line.split()[0] for line in listing.stdout.splitlines()}


@pytest.fixture(scope="session")
def exported():
    """A function: the names that a shared library exports."""
    return lambda path: nm(path, "--dynamic", "--defined-only")


@pytest.fixture(scope="session")
def core_symbols(
    root: pathlib.Path, ladder: list[str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Symbols]:
    """What each file of the core defines and needs, from its object file."""
    objects = tmp_path_factory.mktemp("core")
    symbols = {}
    for name in ladder:
        target = objects / f"{name}.o"
        include = [f"-I{root}/include", f"-I{root}/src/core"]
        subprocess.run(
            ["cc", "-std=c11", "-D_GNU_SOURCE", "-O1", "-fPIC", *include]
            + ["-c", root / "src/core" / name, "-o", target],
            check=True,
        )
        symbols[name] = Symbols(
            nm(target, "--extern-only", "--defined-only"), nm(target, "--undefined-only")
        )
    return symbols
