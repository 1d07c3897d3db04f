/* What NumPy allocates (NEP 49): policy.c's companion to the module's table. */
#ifndef SHARENA_POLICY_H
#define SHARENA_POLICY_H

#include "ext.h"

int ext_policy_init(void); /* after import_array() */
PyObject *ext_policy_make(PyObject *, PyObject *);
PyObject *ext_policy_set(PyObject *, PyObject *);
PyObject *ext_policy_refusals(PyObject *, PyObject *);
PyObject *ext_policy_always(PyObject *, PyObject *);

#endif
