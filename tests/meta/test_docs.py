"""The documents say what is so: their links lead somewhere, their examples run."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

import sharena

PACKAGE = pathlib.Path(sharena.__file__).parent


def blocks(path, language):
    """The code blocks of a page in a language."""
    text = path.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def test_relative_links_lead_somewhere(tracked):
    for page in (path for path in tracked if path.suffix == ".md"):
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page}: {target}"


def test_the_index_names_every_page(root):
    index = (root / "docs/README.md").read_text(encoding="utf-8")
    for page in root.glob("docs/*.md"):
        assert page.name == "README.md" or f"]({page.name})" in index, page


def test_every_error_is_documented(root):
    page = (root / "docs/errors.md").read_text(encoding="utf-8")
    header = (root / "include/sharena/sharena.h").read_text(encoding="utf-8")
    codes = re.findall(r"^    X\((E\w+), -\d+,", header, re.M)
    assert codes
    for code in codes:
        assert f"`SHARENA_{code}`" in page
    public = (vars(sharena)[name] for name in sharena.__all__)
    errors = [x for x in public if isinstance(x, type) and issubclass(x, Exception)]
    assert sharena.SharenaError in errors
    for error in errors:
        assert f"`{error.__name__}`" in page


def test_every_command_is_documented(root):
    page = (root / "docs/cli.md").read_text(encoding="utf-8")
    help_text = subprocess.run(
        [sys.executable, "-m", "sharena", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    commands = re.findall(r"^    (\w+)  +\w", help_text, re.M)
    assert "ls" in commands
    for command in commands:
        assert f"\n## `{command}`" in page


def test_the_example_of_the_readme_is_the_one_that_is_tested(root):
    """tests/python/test_examples.py runs it."""
    (example,) = blocks(root / "README.md", "python")
    assert example == (root / "examples/filter.py").read_text(encoding="utf-8")


@pytest.fixture
def compile_and_run(tmp_path):
    """A function: build a C program against the installed package, run it."""

    def run(source, *options):
        (tmp_path / "example.c").write_text(source, encoding="utf-8")
        library = PACKAGE / "lib"
        subprocess.run(
            ["cc", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror"]
            + [f"-I{sharena.get_include()}", "example.c", "-o", "example"]
            + [f"-L{library}", f"-Wl,-rpath,{library}", "-lsharena", *options],
            cwd=tmp_path,
            check=True,
        )
        return subprocess.run(
            [tmp_path / "example"], capture_output=True, text=True, timeout=60, check=True
        ).stdout

    return run


def test_the_example_of_the_c_page_runs(root, compile_and_run):
    (example,) = blocks(root / "docs/c-api.md", "c")
    assert compile_and_run(example) == "the child wrote 42\n"


def test_the_python_examples_of_the_docs_run(root, tmp_path):
    """Every python block of docs/ is a program of its own."""
    environment = {**os.environ, "PYTHONFAULTHANDLER": "1"}
    for page in sorted(root.glob("docs/*.md")):
        for number, example in enumerate(blocks(page, "python")):
            directory = tmp_path / f"{page.stem}-{number}"
            directory.mkdir()
            (directory / "example.py").write_text(example, encoding="utf-8")
            done = subprocess.run(
                [sys.executable, "example.py"],
                cwd=directory,
                env=environment,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert done.returncode == 0, f"{page.name}, block {number}:\n{done.stderr}"


@pytest.mark.skipif(not shutil.which("meson"), reason="no meson here")
def test_the_library_installs_alone(root, tmp_path):
    """Header, both libraries and a .pc file, without Python."""
    build, prefix = tmp_path / "build", tmp_path / "prefix"
    options = ["-Dtests=false", "-Dlibdir=lib", f"--prefix={prefix}"]
    for command in (["setup", build, *options], ["install", "-C", build]):
        subprocess.run(["meson", *command], cwd=root, stdout=subprocess.DEVNULL, check=True)
    installed = {str(path.relative_to(prefix)) for path in prefix.rglob("*") if path.is_file()}
    assert installed == {
        "include/sharena/lock.h",
        "include/sharena/registry.h",
        "include/sharena/sharena.h",
        "lib/libsharena.a",
        "lib/libsharena.so",
        "lib/libsharena.so.0",
        "lib/pkgconfig/sharena.pc",
    }
