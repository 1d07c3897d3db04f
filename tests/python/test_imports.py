"""Functions that run once another library has been imported."""

import importlib
import importlib.util
import sys
import threading

import pytest

from sharena import _imports


@pytest.fixture
def library(tmp_path, monkeypatch):
    """The name of a package that nobody has imported yet."""
    name = f"library_of_{tmp_path.name.replace('-', '_')}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("value = 1\n")
    (tmp_path / name / "inner.py").write_text("value = 2\n")
    (tmp_path / name / "broken.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    for module in [m for m in sys.modules if m.partition(".")[0] == name]:
        del sys.modules[module]
    for waiting in [w for w in _imports._waiting if w.partition(".")[0] == name]:
        del _imports._waiting[waiting]


def test_at_once_when_it_is_imported_already(library):
    module = importlib.import_module(library)
    seen = []
    _imports.when_imported(library, seen.append)
    assert seen == [module]


def test_after_the_module_has_run(library):
    seen = []
    _imports.when_imported(library, lambda module: seen.append(module.value))
    assert seen == []
    importlib.import_module(library)
    assert seen == [1]


def test_submodules(library):
    seen = []
    _imports.when_imported(f"{library}.inner", lambda module: seen.append(module.value))
    importlib.import_module(library)
    assert seen == []
    importlib.import_module(f"{library}.inner")
    assert seen == [2]


def test_only_once(library):
    seen = []
    _imports.when_imported(library, seen.append)
    module = importlib.import_module(library)
    importlib.reload(module)
    assert len(seen) == 1


def test_looking_without_importing_changes_nothing(library):
    seen = []
    _imports.when_imported(library, seen.append)
    assert importlib.util.find_spec(library) is not None
    assert seen == []
    importlib.import_module(library)
    assert len(seen) == 1


def test_the_loader_keeps_its_type_and_its_methods(library):
    _imports.when_imported(library, lambda module: None)
    module = importlib.import_module(library)
    loader = module.__spec__.loader
    assert type(loader) is importlib.machinery.SourceFileLoader
    assert "exec_module" not in vars(loader)
    assert loader.get_data(module.__file__) == b"value = 1\n"


def test_a_failing_function_does_not_fail_the_import(library):
    _imports.when_imported(library, lambda module: 1 / 0)
    with pytest.warns(RuntimeWarning, match=library):
        module = importlib.import_module(library)
    assert module.value == 1


def test_a_failing_import_fails_as_ever(library):
    seen = []
    _imports.when_imported(f"{library}.broken", seen.append)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            importlib.import_module(f"{library}.broken")
    assert seen == []


def test_other_names_are_not_touched(library):
    _imports.when_imported("no_such_library_anywhere", lambda module: None)
    try:
        assert _imports._finder.find_spec(library) is None
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("no_such_library_anywhere")
    finally:
        del _imports._waiting["no_such_library_anywhere"]


def test_a_finder_that_asks_all_finders(library, monkeypatch):
    """As other import hooks do: neither may call the other for ever."""

    class Asking:
        busy = False

        def find_spec(self, name, path=None, target=None):
            if self.busy or name != library:
                return None
            self.busy = True
            try:
                return importlib.util.find_spec(name)
            finally:
                self.busy = False

    seen = []
    monkeypatch.setattr(sys, "meta_path", [Asking(), *sys.meta_path])
    _imports.when_imported(library, seen.append)
    importlib.import_module(library)
    assert len(seen) == 1


def test_another_thread_is_importing_it(library, tmp_path):
    (tmp_path / library / "__init__.py").write_text(
        "import sys\nsys.entered.set()\nassert sys.go_on.wait(20)\nvalue = 3\n"
    )
    sys.entered, sys.go_on = threading.Event(), threading.Event()
    try:
        thread = threading.Thread(target=importlib.import_module, args=(library,))
        thread.start()
        assert sys.entered.wait(20)
        seen = []
        waiting = threading.Thread(
            target=_imports.when_imported,
            args=(library, lambda module: seen.append(module.value)),
        )
        waiting.start()
        sys.go_on.set()
        thread.join()
        waiting.join()
        assert seen == [3]
    finally:
        del sys.entered, sys.go_on
