"""What is released agrees with itself: versions, exports, the header."""

import importlib.metadata
import pathlib
import re
import subprocess

import pytest

import sharena

PACKAGE = pathlib.Path(sharena.__file__).parent


def test_one_version(root):
    version = importlib.metadata.version("sharena")
    header = (root / "include/sharena/sharena.h").read_text(encoding="utf-8")
    assert f'#define SHARENA_VERSION "{version}"' in header
    build = (root / "meson.build").read_text(encoding="utf-8")
    assert f"version: '{version}'" in build
    changes = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(version)}\b", changes, re.M)


HEADERS = ("lock.h", "registry.h", "sharena.h")


def test_the_library_exports_the_headers_and_nothing_else(root, exported):
    others = {"sharena_py.h"}  # of the extension
    assert {path.name for path in root.glob("include/sharena/*")} - others == set(HEADERS)
    declared = set()
    for name in HEADERS:
        header = (root / "include/sharena" / name).read_text(encoding="utf-8")
        found = re.findall(r"^SHARENA_API [^;(]*?\b(sharena_\w+)\(", header, re.M)
        assert found, name
        declared.update(found)
    assert exported(PACKAGE / "lib/libsharena.so") == declared


def test_the_extension_exports_its_init_function_only(exported):
    (extension,) = PACKAGE.glob("_core*.so")
    assert exported(extension) == {"PyInit__core"}


def test_get_include_has_the_headers_of_this_tree(root):
    installed = pathlib.Path(sharena.get_include(), "sharena")
    headers = {path.name: path.read_bytes() for path in installed.iterdir()}
    assert headers == {path.name: path.read_bytes() for path in root.glob("include/sharena/*")}


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("language", ["c", "c++"])
def test_each_header_stands_alone(root, tmp_path, language, name):
    compiler = {"c": ["cc", "-std=c11"], "c++": ["c++", "-std=c++11"]}[language]
    source = tmp_path / "user"
    source.write_text(f"#include <sharena/{name}>\n", encoding="utf-8")
    command = [*compiler, "-x", language, "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    try:
        subprocess.run([*command, f"-I{root}/include", "-fsyntax-only", source], check=True)
    except FileNotFoundError:
        pytest.skip(f"no {compiler[0]} here")


def test_every_module_is_installed(root):
    """meson.build lists the package's files by name: none is forgotten."""
    source = root / "src/sharena"
    for path in source.rglob("*.py"):
        assert (PACKAGE / path.relative_to(source)).exists(), path
    for name in ("py.typed", "_core.pyi", "c_api.pxd"):
        assert (PACKAGE / name).exists()
