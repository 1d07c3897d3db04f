/* PolicyScope: entering and leaving a memory policy, the base of sharena.MemoryPolicy.
 *
 * In C, so that no signal handler runs between NumPy's handler being set and it being noted what
 * was there before.  That is kept in a context variable, as (handler, what was kept before), so
 * one policy can be entered again, and in several contexts at once.
 */
#include "policy.h"

static PyObject *outer; /* the variable; NumPy's is one for the process, too */

static Py_ssize_t size_of(PyObject *self, const char *name)
{
    PyObject *value = PyObject_GetAttrString(self, name);
    Py_ssize_t size = value == NULL ? -1 : PyLong_AsSsize_t(value);
    Py_XDECREF(value);
    return size;
}

static PyObject *capsule_of(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    while (type->tp_base != &PyBaseObject_Type)
        type = type->tp_base;
    ext_state *st = PyType_GetModuleState(type);
    Py_ssize_t align = size_of(self, "align"), min_bytes = 0;
    if (st == NULL || (align == -1 && PyErr_Occurred()))
        return NULL;
    min_bytes = size_of(self, "min_bytes");
    if (min_bytes == -1 && PyErr_Occurred())
        return NULL;
    PyObject *heap = PyObject_GetAttrString(self, "heap");
    PyObject *capsule = heap == NULL ? NULL : ext_policy_capsule(st, heap, align, min_bytes);
    Py_XDECREF(heap);
    return capsule;
}

/* 0, or -1. */
static int keep(PyObject *handler)
{
    PyObject *before, *kept = NULL, *token = NULL;
    if (PyContextVar_Get(outer, Py_None, &before) < 0)
        return -1;
    kept = PyTuple_Pack(2, handler, before);
    Py_DECREF(before);
    if (kept != NULL)
        token = PyContextVar_Set(outer, kept);
    Py_XDECREF(kept);
    Py_XDECREF(token);
    return token == NULL ? -1 : 0;
}

static int set_handler(PyObject *handler)
{
    PyObject *old = PyDataMem_SetHandler(handler);
    Py_XDECREF(old);
    return old == NULL ? -1 : 0;
}

static PyObject *scope_enter(PyObject *self, PyObject *unused)
{
    (void)unused;
    PyObject *capsule = capsule_of(self);
    PyObject *old = capsule == NULL ? NULL : PyDataMem_SetHandler(capsule);
    Py_XDECREF(capsule);
    if (old == NULL)
        return NULL;
    if (keep(old) < 0) {
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        (void)set_handler(old);
        PyErr_Restore(type, value, traceback);
        Py_DECREF(old);
        return NULL;
    }
    Py_DECREF(old);
    return Py_NewRef(self);
}

static PyObject *scope_exit(PyObject *self, PyObject *args)
{
    PyObject *kept;
    (void)self;
    (void)args;
    if (PyContextVar_Get(outer, Py_None, &kept) < 0)
        return NULL;
    if (kept == Py_None) {
        Py_DECREF(kept);
        PyErr_SetString(PyExc_RuntimeError,
                        "a memory policy must be left in the context (thread, task) that "
                        "entered it");
        return NULL;
    }
    int status = set_handler(PyTuple_GET_ITEM(kept, 0));
    PyObject *token = status < 0 ? NULL : PyContextVar_Set(outer, PyTuple_GET_ITEM(kept, 1));
    Py_DECREF(kept);
    Py_XDECREF(token);
    if (token == NULL)
        return NULL;
    Py_RETURN_FALSE;
}

PyDoc_STRVAR(scope_doc,
             "What a MemoryPolicy with `heap`, `align` and `min_bytes` does in a `with`.");

static PyMethodDef scope_methods[] = {
    {"__enter__", scope_enter, METH_NOARGS, NULL},
    {"__exit__", scope_exit, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot scope_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t)scope_doc},
    {Py_tp_methods, scope_methods},
    {0, NULL},
};

static PyType_Spec scope_spec = {
    .name = "sharena._core.PolicyScope",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = scope_slots,
};

int ext_policy_scope_init(ext_state *st, PyObject *module)
{
    (void)st;
    PyObject *type = PyType_FromModuleAndSpec(module, &scope_spec, NULL);
    if (type == NULL)
        return -1;
    int status = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    if (status == 0 && outer == NULL)
        outer = PyContextVar_New("sharena.policies", NULL);
    return status < 0 || outer == NULL ? -1 : 0;
}
