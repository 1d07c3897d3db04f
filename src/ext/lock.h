/* Locks in shared memory, and what a Block travels as. */
#ifndef SHARENA_EXT_LOCK_H
#define SHARENA_EXT_LOCK_H

#include "ext.h"

int ext_lock_init(ext_state *, PyObject *module);
PyObject *ext_lock_over(PyObject *, PyObject *);
/* The Block under a plain array of shared memory, borrowed, or NULL without an exception. */
PyObject *ext_block_under(ext_state *, PyObject *array);
PyObject *ext_block_of(PyObject *, PyObject *);

#endif
