"""Sizes, names and words that hold in the whole tree."""

import ast
import pathlib
import re

import pytest

FILE_LINES = 500
HEADER_LINES = 300
FUNCTION_LINES = 60


def sources(root, *patterns):
    return sorted(path for pattern in patterns for path in root.glob(pattern))


def c_functions(text):
    """Yield (line number, lines) of each function: brace to brace in column 0."""
    start = None
    for number, line in enumerate(text.splitlines(), 1):
        if line == "{":
            start = number
        elif line == "}" and start is not None:
            yield start, number - start + 1
            start = None


def test_files_are_short(root):
    patterns = ("src/*/*.[ch]", "src/sharena/**/*.py", "tests/*/*.[ch]", "tests/*/*.py")
    long = {
        str(path.relative_to(root)): lines
        for path in sources(root, *patterns)
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > FILE_LINES
    }
    assert not long


def test_the_public_headers_are_short(root):
    for path in sources(root, "include/sharena/*.h"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= HEADER_LINES, path


def test_c_functions_are_short(root):
    long = [
        f"{path.relative_to(root)}:{line}: {lines} lines"
        for path in sources(root, "src/*/*.[ch]", "tests/*/*.[ch]")
        for line, lines in c_functions(path.read_text(encoding="utf-8"))
        if lines > FUNCTION_LINES
    ]
    assert not long


def test_python_functions_are_short(root):
    long = [
        f"{path.relative_to(root)}:{node.lineno}: {node.name}"
        for path in sources(root, "src/sharena/**/*.py", "tests/*/*.py", "bench/**/*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= FUNCTION_LINES
    ]
    assert not long


def test_nothing_is_left_undone(tracked):
    undone = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b")
    for path in tracked:
        if path != pathlib.Path(__file__):
            assert not undone.search(path.read_text(encoding="utf-8")), path


def test_no_path_of_this_machine(root, tracked):
    here = {str(root), str(pathlib.Path.home())} - {"/"}
    for path in tracked:
        text = path.read_text(encoding="utf-8")
        assert not any(f"{place}/" in text for place in here), path


def test_tests_do_not_sleep(root):
    """A test waits for the event, with a deadline."""
    sleep = re.compile(r"\b(?:time\.sleep|sleep|usleep|nanosleep)\(")
    for path in sources(root, "tests/core/*.[ch]", "tests/python/**/*.py"):
        assert not sleep.search(path.read_text(encoding="utf-8")), path


def test_tests_draw_the_same_lots(root):
    """Only `make fuzz` draws new ones: no seed comes from the clock, the pid or the system."""
    drawn = re.compile(
        r"\bos\.urandom\(|\bdefault_rng\(\)|\bRandom\(\)|\bSystemRandom\b"
        r"|\brandom\.(?:random|randrange|randint|choice|shuffle|sample|randbytes|rand|randn)\("
    )
    for path in sources(root, "tests/python/**/*.py"):
        assert not drawn.search(path.read_text(encoding="utf-8")), path
    clock = re.compile(r"\b(?:random|seed)\w* \^?= [^;%]*\b(?:now_ns|getpid|time)\(")
    for path in sources(root, "tests/core/*.[ch]"):
        assert not clock.search(path.read_text(encoding="utf-8")), path


def test_shared_structs_are_named_shm_and_live_in_one_header(root):
    struct = re.compile(r"^struct (\w+) \{", re.M)
    names = struct.findall((root / "src/core/layout.h").read_text(encoding="utf-8"))
    assert names
    assert all(name.endswith("_shm") for name in names)
    for path in sources(root, "src/*/*.[ch]"):
        if path.name != "layout.h":
            names = struct.findall(path.read_text(encoding="utf-8"))
            assert not [name for name in names if name.endswith("_shm")], path


FRAMEWORKS = {"scipy", "pandas", "loky", "joblib", "torch", "dask", "distributed", "skimage"}


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node, node.module.split(".")[0]


@pytest.mark.parametrize("framework", sorted(FRAMEWORKS))
def test_a_framework_is_imported_where_its_name_stands(root, framework):
    """Only the adapter named after a framework imports it; the demo may, in functions."""
    for path in sources(root, "src/sharena/**/*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node, name in imports(tree):
            if name != framework or path.stem.lstrip("_") == framework:
                continue
            assert "demo" in str(path.relative_to(root)), path
            assert node not in tree.body, f"{path} imports {framework} when it is imported"
