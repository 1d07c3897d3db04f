# cython: language_level=3
"""The C API of sharena in Cython: an array in the heap, an array over memory of malloc().

    python setup.py build_ext --inplace && python use.py
"""

from libc.stdlib cimport free, malloc

from sharena.c_api cimport (
    SHARENA_PY_ZERO,
    import_sharena,
    sharena_array_handle,
    sharena_array_new,
    sharena_array_wrap,
)

import_sharena()


def powers(double x, Py_ssize_t n):
    """x ** 0, x ** 1, ... as an array in the heap."""
    array = sharena_array_new(None, "f8", 1, &n, SHARENA_PY_ZERO)
    cdef double[::1] out = array
    cdef double power = 1
    cdef Py_ssize_t i
    with nogil:
        for i in range(n):
            out[i] = power
            power *= x
    return array


cdef int freed = 0


cdef void give_back(void *address, void *context) noexcept with gil:
    """After the last view, in any thread, which has no GIL before."""
    global freed
    free(address)
    freed += 1


def scratch(Py_ssize_t n):
    """An array over memory of malloc()."""
    if n < 0 or n > 1 << 40:
        raise ValueError(f"n: no array has {n} elements")
    cdef void *memory = malloc(8 * n + 1)
    if memory == NULL:
        raise MemoryError
    try:
        return sharena_array_wrap(memory, "f8", 1, &n, NULL, 0, give_back, NULL, None)
    except:
        free(memory)  # it is still ours
        raise


def scratches_freed():
    return freed


def pack(array):
    """Handle bytes for one load."""
    return sharena_array_handle(array, 1)
