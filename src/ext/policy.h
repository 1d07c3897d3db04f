/* What NumPy allocates (NEP 49): policy.c, its scope in Python, what memory is for. */
#ifndef SHARENA_POLICY_H
#define SHARENA_POLICY_H

#include "ext.h"

#define EXT_HANDLER "mem_handler" /* NumPy's name of a handler's capsule */

/* ---- purpose.c ---- */

int ext_memory_watch(void); /* once; 0, or -1 with an exception */
extern _Thread_local int ext_unpickling EXT_TLS; /* this thread does, an array of objects */
/* Is what the handler is asked to zero known to be for an array without objects? */
int ext_memory_is_numbers(const PyDataMem_Handler *);
void ext_memory_refused(void); /* the array that wanted it will not be */

/* ---- policy.c ---- */

int ext_policy_init(void); /* after import_array() */
/* A handler's capsule for arrays in the heap; heap: a Heap or None. */
PyObject *ext_policy_capsule(ext_state *, PyObject *heap, Py_ssize_t align, Py_ssize_t min_bytes);
PyObject *ext_policy_refusals(PyObject *, PyObject *);
PyObject *ext_policy_always(PyObject *, PyObject *);

/* ---- policy_scope.c ---- */

int ext_policy_scope_init(ext_state *, PyObject *module);

#endif
