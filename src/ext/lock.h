/* What the drop-ins for multiprocessing are built from. */
#ifndef SHARENA_EXT_LOCK_H
#define SHARENA_EXT_LOCK_H

#include "ext.h"

/* ---- heap_names.c, share.c ---- */

PyObject *ext_heap_setdefault(PyObject *, PyObject *);
PyObject *ext_weak_handle(PyObject *, PyObject *);

/* ---- lock.c ---- */

int ext_lock_init(ext_state *, PyObject *module);
PyObject *ext_lock_over(PyObject *, PyObject *);
/* The Block under a plain array of shared memory, borrowed, or NULL without an exception. */
PyObject *ext_block_under(ext_state *, PyObject *array);
PyObject *ext_block_of(PyObject *, PyObject *);

#endif
