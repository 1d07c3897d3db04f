/* Arrays over memory that another library made, and the C API for other extensions. */
#ifndef SHARENA_FOREIGN_H
#define SHARENA_FOREIGN_H

#include "ext.h"

/* What an array shall lie over, and what happens after its last view.  All borrowed. */
typedef struct {
    void *address; /* of element [0, ..., 0]; NULL only without elements */
    PyArray_Descr *descr;
    int nd;
    const npy_intp *dims, *strides; /* strides: NULL for C order */
    int readonly;
    void (*destructor)(void *address, void *context); /* or NULL */
    void *context;
    int with_gil; /* call the destructor with the GIL */
    PyObject *callable; /* without a destructor: called with `number`; else kept until it ran */
    PyObject *number; /* the address as an int; NULL without a callable to call */
    PyObject *owner; /* kept, or NULL */
} ext_foreign_memory;

int ext_foreign_init(ext_state *, PyObject *module);
/* On failure nothing is freed: the memory is still the caller's. */
PyObject *ext_foreign_array(ext_state *, const ext_foreign_memory *);

EXT_FAST(from_address);

/* ---- capi.c ---- */

/* The capsule `_C_API` of the module. */
int ext_capi_init(PyObject *module);
void ext_capi_end(PyObject *module); /* its functions raise from now on */

#endif
