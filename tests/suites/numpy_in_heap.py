"""A plugin of pytest for the suites of others: what NumPy allocates lies in the heap.

    SUITE_MEMORY=heap SUITE_RESULTS=FILE python -m pytest -p numpy_in_heap --pyargs numpy

`SUITE_MEMORY=private` changes nothing, for comparison.  SUITE_LEAVES_OUT names functions that
are not run.  After each module the heap is walked, and no release may have been refused.  FILE
gets the outcome of each test, what went wrong after which module, and how many blocks each
module left, which are NumPy's own caches.
"""

import gc
import json
import os
import sys

import sharena

LEFT_OUT = os.environ.get("SUITE_LEAVES_OUT", "").split()
IN_HEAP = os.environ["SUITE_MEMORY"] == "heap"
outcomes = {}
faults = {}
left = {}
ended = []  # the module that the last test was of
if IN_HEAP:
    sharena.allocate_always()


def pytest_collection_modifyitems(config, items):
    out = [item for item in items if item.name in LEFT_OUT]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item.name not in LEFT_OUT]


def _test_id(report):
    """The path from the package on: environments differ."""
    path, _, name = report.nodeid.partition("::")
    return f"{path.rpartition('site-packages/')[2]}::{name}"


def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        expected = "x" if hasattr(report, "wasxfail") else ""
        outcomes[_test_id(report)] = expected + report.outcome


def pytest_runtest_teardown(item, nextitem):
    if nextitem is None or nextitem.module is not item.module:
        ended.append(item.module.__name__)


def pytest_runtest_logfinish():
    while ended:
        _look(ended.pop())


def _look(module):
    gc.collect()
    heap = sharena.Heap.default()
    blocks = heap.stats().blocks
    left[module] = blocks - sum(left.values())
    found = list(heap.check())
    if refused := sharena._core._policy_refusals():
        found.append(f"{refused} releases refused")
    if found:
        faults[module] = found[:5]
        print(f"\n{module}: {found[:5]}", file=sys.stderr)


def pytest_sessionfinish():
    results = {"outcomes": outcomes, "faults": faults, "left": left}
    with open(os.environ["SUITE_RESULTS"], "w") as file:
        json.dump(results, file)
