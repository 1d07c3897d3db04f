"""How foreign memory is freed: foreign.py CASE.

Each case in a process of its own: what goes wrong here crashes, hangs or happens at exit.
"""

import ctypes
import gc
import os
import sys
import threading
import weakref

import numpy as np
from support import DEADLINE_S

import sharena

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
DESTRUCTOR = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype = ctypes.py_object
new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
NAME = ctypes.c_char_p(b"sharena.destructor")  # a capsule does not copy it


def over(free, shape=4, **options):
    """An array over memory that nobody frees."""
    memory = libc.malloc(64)
    return sharena.from_address(memory, shape, "f8", free=free, **options)


def address_of(array):
    return array.ctypes.data


def case_a_callable_gets_the_address_after_the_last_view():
    freed = []
    a = over(freed.append)
    address = address_of(a)
    views = [a[1:], a.view("u1"), memoryview(a), a.base, memoryview(a.base), a.__dlpack__()]
    del a
    while views:
        assert not freed
        views.pop(0)
    assert freed == [address]
    assert type(freed[0]) is int


def case_the_address_is_that_of_element_0():
    freed = []
    memory = libc.malloc(64)
    a = sharena.from_address(memory + 56, 8, "f8", strides=-8, free=freed.append)
    del a
    assert freed == [memory + 56]
    a = sharena.from_address(0, 0, "f8", free=freed.append)
    del a
    assert freed[1:] == [0]


def case_a_function_of_a_library():
    memory = libc.malloc(1 << 20)
    a = sharena.from_address(memory, 1 << 17, "f8", free=libc.free)
    a[:] = 3
    view = a[5::7]
    del a
    assert (view == 3).all()
    del view


def case_a_function_pointer_whatever_its_types():
    """No argument is converted by ctypes: these would refuse the address, or cut it."""
    freed = []
    kept = DESTRUCTOR(freed.append)  # takes the address as what it is
    function = ctypes.cast(kept, ctypes.c_void_p).value
    for kind in (
        ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.py_object),
        ctypes.CFUNCTYPE(ctypes.c_char, ctypes.c_int),
        ctypes.CFUNCTYPE(ctypes.py_object),
        ctypes.CFUNCTYPE(None, ctypes.c_void_p, use_errno=True),
    ):
        a = over(kind(function))
        address = address_of(a)
        del a
        assert freed.pop() == address
        assert not freed


def case_a_callback_lives_until_it_has_run():
    freed = []

    def note(address):
        freed.append(address)

    alive = weakref.ref(note)
    a = over(DESTRUCTOR(note))
    del note
    gc.collect()
    assert alive() is not None
    address = address_of(a)
    del a
    assert freed == [address]
    gc.collect()
    assert alive() is None


def case_a_capsule():
    freed = []
    callback = DESTRUCTOR(freed.append)
    pointer = ctypes.cast(callback, ctypes.c_void_p)
    capsule = new_capsule(pointer, NAME, None)
    references = sys.getrefcount(capsule)
    a = over(capsule)
    assert sys.getrefcount(capsule) == references + 1
    address = address_of(a)
    del a
    assert freed == [address]
    assert sys.getrefcount(capsule) == references
    for name in (b"destructor", None):
        name = ctypes.c_char_p(name)  # noqa: PLW2901 # kept as long as the capsule
        try:
            over(new_capsule(pointer, name, None))
        except ValueError as error:
            assert "free: " in str(error), error
            assert "sharena.destructor" in str(error), error
        else:
            raise AssertionError(name)
    assert freed == [address]


def case_the_owner_goes_after_the_memory():
    order = []

    class Owner:
        def __del__(self):
            order.append("owner")

    owner = Owner()
    a = over(lambda _: order.append("free"), owner=owner)
    del owner
    gc.collect()
    assert not order
    del a
    assert order == ["free", "owner"]
    a = over(None, owner=Owner())
    del a
    assert order[2:] == ["owner"]


def unraisable(work):
    """What sys.unraisablehook gets while work() runs."""
    caught = []
    old = sys.unraisablehook
    sys.unraisablehook = lambda args: caught.append((args.exc_type, str(args.exc_value)))
    try:
        work()
    finally:
        sys.unraisablehook = old
    return caught


def fail(address):
    raise KeyError("mine")


def case_a_destructor_that_raises():
    a = [over(fail)]
    assert unraisable(a.clear) == [(KeyError, "'mine'")]
    a = [over(DESTRUCTOR(fail))]
    assert unraisable(a.clear) == [(KeyError, "'mine'")]
    a = [over(lambda: None)]  # takes no argument
    ((kind, text),) = unraisable(a.clear)
    assert kind is TypeError, text


def case_an_exception_on_its_way_stays():
    """float() raises, then its argument dies."""
    freed = []

    def free(address):
        freed.append(sorted(str(i) for i in range(10)))  # runs as any code does
        try:
            raise ValueError("inside")
        except ValueError:
            pass

    def dies(how):
        try:
            float(over(how))
        except TypeError as error:
            assert error.__context__ is None
        else:
            raise AssertionError("float() took it")

    for how in (free, DESTRUCTOR(free)):
        assert unraisable(lambda how=how: dies(how)) == []
    assert len(freed) == 2
    for how in (fail, DESTRUCTOR(fail)):
        assert unraisable(lambda how=how: dies(how)) == [(KeyError, "'mine'")]


def case_a_destructor_in_c_runs_without_the_gil():
    """It waits for a semaphore that a thread raises which needs the GIL for that."""
    sys.setswitchinterval(1000)  # nobody takes the GIL away: who waits gives it
    semaphore = libc.malloc(64)
    assert libc.sem_init(ctypes.c_void_p(semaphore), 0, 0) == 0
    a = sharena.from_address(semaphore, 4, "f8", free=libc.sem_wait)
    turn = threading.Lock()
    turn.acquire()

    def post():
        with turn:
            ctypes.pythonapi.sem_post(ctypes.c_void_p(semaphore))

    thread = threading.Thread(target=post)
    thread.start()
    turn.release()
    del a  # hangs if the GIL is not given up
    thread.join()


def case_a_destructor_of_pydll_runs_with_the_gil():
    """The allocator's debug hooks end the process where it isn't held."""
    python = ctypes.pythonapi
    python.PyMem_Malloc.restype = ctypes.c_void_p
    memory = python.PyMem_Malloc(64)
    a = sharena.from_address(memory, 8, "f8", free=python.PyMem_Free)
    a[:] = 1
    del a


class DLManagedTensor(ctypes.Structure):
    """dlpack.h, before version 1."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int * 2),
        ("ndim", ctypes.c_int),
        ("dtype", ctypes.c_uint32),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


def last_view_dies_in_a_thread_of_c(array):
    """A consumer of DLPack drops it in a thread that Python does not know."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype = ctypes.c_void_p
    get.argtypes = [ctypes.py_object, ctypes.c_char_p]
    rename = ctypes.pythonapi.PyCapsule_SetName
    rename.argtypes = [ctypes.py_object, ctypes.c_char_p]
    capsule = array.pop().__dlpack__()
    tensor = get(capsule, b"dltensor")
    used = ctypes.c_char_p(b"used_dltensor")
    rename(capsule, used)  # the tensor is ours to delete
    deleter = DLManagedTensor.from_address(tensor).deleter
    thread = ctypes.c_ulong()
    libc.pthread_create.argtypes = [ctypes.c_void_p] * 4
    libc.pthread_join.argtypes = [ctypes.c_ulong, ctypes.c_void_p]
    assert libc.pthread_create(ctypes.byref(thread), None, deleter, tensor) == 0
    assert libc.pthread_join(thread, None) == 0  # without the GIL, as all of a CDLL


def case_the_last_view_dies_in_a_thread_of_c():
    freed = []

    def note(address):
        freed.append((address, threading.get_native_id()))

    for free in (note, DESTRUCTOR(note)):
        a = [over(free)]
        address = address_of(a[0])
        last_view_dies_in_a_thread_of_c(a)
        ((freed_address, thread),) = freed
        assert freed_address == address
        assert thread != threading.get_native_id()
        freed.clear()
    a = [over(fail)]
    assert unraisable(lambda: last_view_dies_in_a_thread_of_c(a)) == [(KeyError, "'mine'")]


def case_once_whoever_drops_it():
    """Eight threads drop the views of each array at once."""
    freed = []
    start = threading.Barrier(8)

    def drop(mine):
        start.wait(DEADLINE_S)
        while mine:
            mine.pop()

    views = [[] for _ in range(8)]
    addresses = []
    for i in range(2000):
        a = over((freed.append, DESTRUCTOR(freed.append))[i % 10 == 0])
        addresses.append(address_of(a))
        for mine in views:
            mine.append(a[i % 4 :])
    del a
    threads = [threading.Thread(target=drop, args=[mine]) for mine in views]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(freed) == sorted(addresses)


def case_a_destructor_uses_arrays():
    """Of its own, in the heap and over foreign memory, to some depth."""
    depth = []

    def free(address):
        if len(depth) < 50:
            depth.append(address)
            a, b = sharena.ones(1000), over(free)
            b[:] = a[:4]

    over(free)
    assert len(depth) == 50


def case_a_long_chain_of_owners():
    """The stack does not overflow, and each is freed."""
    freed = []
    a = None
    for _ in range(100_000):
        memory = libc.malloc(8)
        a = sharena.from_address(memory, 1, "f8", free=freed.append, owner=a)
    assert not freed
    del a
    assert len(freed) == len(set(freed)) == 100_000


def case_without_ctypes():
    """As where it is not installed."""
    freed = []
    address = libc.malloc(8)
    sys.modules["_ctypes"] = None
    a = sharena.from_address(address, 1, "f8", free=freed.append)
    del a
    assert freed == [address]


def case_what_only_says_that_it_is_a_function_pointer():
    from unittest import mock

    free = mock.Mock(spec=libc.free)
    free.__class__ = type(libc.free)
    assert isinstance(free, ctypes._CFuncPtr)
    a = over(free)
    address = address_of(a)
    del a
    free.assert_called_once_with(address)


def case_a_forked_child_frees_its_own_copy():
    freed = []
    a = over(freed.append)
    pid = os.fork()
    if pid == 0:
        del a
        os._exit(3 + len(freed))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 4
    a[:] = 1
    assert not freed
    del a
    assert len(freed) == 1


def writes(letter):
    """With globals of its own: this module's would keep the array, and that the globals."""
    return eval("lambda _: write(1, letter)", {"write": os.write, "letter": letter})


def case_exit_with_arrays_in_a_module():
    global in_python, by_callback, in_c  # noqa: PLW0603 # what is left until then
    in_python = over(writes(b"p"))
    by_callback = over(DESTRUCTOR(writes(b"c")))
    in_c = over(libc.free)


def case_exit_with_arrays_in_other_modules():
    import builtins

    builtins.left = over(writes(b"p"))
    np.left = over(DESTRUCTOR(writes(b"c")))


class Cycle:
    """Can't be collected: an ndarray takes no part in that."""

    def __init__(self, letter):
        self.array = over(writes(letter), owner=self)


def case_exit_with_arrays_out_of_reach():
    """They are freed once or not at all, and nothing crashes."""
    Cycle(b"C")
    gc.collect()
    held, never = threading.Event(), threading.Event()

    def hold():
        array = over(writes(b"t"))
        held.set()
        never.wait()
        del array

    threading.Thread(target=hold, daemon=True).start()
    assert held.wait(DEADLINE_S)
    case_exit_with_arrays_in_other_modules()


if __name__ == "__main__":
    globals()[f"case_{sys.argv[1]}"]()
