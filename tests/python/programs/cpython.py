"""CPython's own tests of multiprocessing, unmodified, with sharena's in the place of its objects.

    cpython.py METHOD WHAT

METHOD is a start method, WHAT one of
    functions   sharena.Array, Value, RawArray, RawValue for multiprocessing's
    installed   multiprocessing's own, after sharena.install_multiprocessing()
    memory      sharena.SharedMemory for multiprocessing.shared_memory.SharedMemory

A spawned child imports this file before it runs anything, and so has the same in place.
"""

import multiprocessing.heap
import multiprocessing.managers
import multiprocessing.shared_memory
import sys
import unittest
from multiprocessing import sharedctypes

import support

import sharena
import sharena._shared_memory

CLASSES = {
    "functions": ("Value", "Array", "SharedCTypes"),
    "installed": ("Value", "Array", "SharedCTypes", "Heap"),
    "memory": ("SharedMemory",),
}
# How many run at least, with any CPython.
FEWEST = {"functions": 10, "installed": 11, "memory": 8}

TRACKER = (
    "expects multiprocessing's resource tracker to do something; it is not needed, and the "
    "program that the test starts uses multiprocessing's own memory"
)
SKIPPED = {
    "test_heap": "looks into multiprocessing's own lists of free and used stretches",
    "test_shared_memory_SharedMemoryManager_reuses_resource_tracker": TRACKER,
    "test_shared_memory_cleaned_after_process_termination": TRACKER,
    "test_shared_memory_untracking": TRACKER,
    "test_shared_memory_tracking": TRACKER,
}


def put_in_place(what):
    if what == "installed":
        sharena.install_multiprocessing()
        # TestHeap.setUp() puts another allocator there for the time of a test
        multiprocessing.heap.BufferWrapper._heap = None
    elif what == "functions":  # the contexts' methods look for them here
        for name in ("Array", "Value", "RawArray", "RawValue"):
            setattr(sharedctypes, name, getattr(sharena, name))
    else:
        theirs = multiprocessing.shared_memory
        theirs.SharedMemory = sharena.SharedMemory

        def make_name():  # which the tests replace, to have names that are taken
            return theirs._make_filename()

        sharena._shared_memory._make_name = make_name


def suite_of(what):
    suite = unittest.TestSuite()
    for name in CLASSES[what]:
        cases = globals()[f"WithProcessesTest{name}"]
        suite.addTests(unittest.defaultTestLoader.loadTestsFromTestCase(cases))
    return suite


class Result(unittest.TextTestResult):
    """What is on the list is skipped; what else is, is a failure."""

    def startTest(self, test):  # noqa: N802 # unittest's name
        reason = SKIPPED.get(test._testMethodName)
        if reason:
            setattr(test, test._testMethodName, lambda: test.skipTest(reason))
        super().startTest(test)


def main(what):
    setUpModule()
    runner = unittest.TextTestRunner(sys.stdout, verbosity=2, resultclass=Result)
    result = runner.run(suite_of(what))
    tearDownModule()
    unlisted = [(str(test), why) for test, why in result.skipped if why not in SKIPPED.values()]
    assert not unlisted, unlisted
    assert result.wasSuccessful()
    ran = result.testsRun - len(result.skipped)
    assert ran >= FEWEST[what], f"only {ran} tests were run"
    print(f"{ran} tests, {len(result.skipped)} skipped by the list")


METHOD, WHAT = sys.argv[1:]
put_in_place(WHAT)
# What test.test_multiprocessing_fork and its siblings consist of.
support.importorskip("test._test_multiprocessing").install_tests_in_module_dict(globals(), METHOD)
if __name__ == "__main__":
    main(WHAT)
