# The C API of sharena for Cython; sharena_py.h, in sharena.get_include(), says what each does.
#
#     from sharena.c_api cimport import_sharena, sharena_array_new
#     import_sharena()  # once in each module, before the first use
#
# heap, dtype and owner may be None where the header says NULL.

cdef extern from "sharena/sharena_py.h":
    ctypedef void (*sharena_destructor)(void *address, void *context) noexcept nogil

    enum:
        SHARENA_PY_VERSION
        SHARENA_PY_ZERO
        SHARENA_PY_FORTRAN
        SHARENA_PY_READONLY
        SHARENA_PY_GIL

    int import_sharena() except -1
    object sharena_array_new(object heap, object dtype, int nd, const Py_ssize_t *dims,
                             unsigned flags)
    object sharena_array_wrap(void *address, object dtype, int nd, const Py_ssize_t *dims,
                              const Py_ssize_t *strides, unsigned flags,
                              sharena_destructor destructor, void *context, object owner)
    object sharena_array_handle(object array, unsigned uses)
    object sharena_array_attach(object handle)
    int sharena_array_is_shared(object) except -1
