/* Writing messages: ForkingPickler's work, and that of picklers like it.
 *
 * It is done by the C pickler itself: ForkingPickler's __init__ copies two tables for every
 * message.  The result is the same, byte for byte, but for the handles; and who registers a
 * reducer later, or derives a class, finds what is expected.
 *
 * While a message is being written its tickets are OPEN: if pickling raises, or the process
 * dies, they end.  Bytes that nobody but their sender has (_transit.py knows who keeps them to
 * himself) stay OPEN until they are sent (transit.c).  Any other bytes may be anywhere: their
 * tickets are LOOSE from the end of pickling on.
 *
 * What is written to a file by a pickler of the caller's own is LOOSE from the start, but for
 * the arguments of a process being started: those belong to the child from then on.
 */
#include "judge.h"
#include "message.h"

/* What this thread is pickling by a pickler whose table is not ours, and the arguments of a
 * process that it starts; references.  Code that switches stacks (greenlet) may mix them up:
 * then the tickets of one message are taken for another's, and nothing dangles. */
_Thread_local ext_message *ext_message_now EXT_TLS;
static _Thread_local PyObject *pickler_now EXT_TLS; /* that writes it; only compared */
static _Thread_local ext_message *launching EXT_TLS;

/* ---- the table of reducers: what is registered when it is looked at ---- */

/* One a message: our reducer in it is the table itself, which knows the message. */
typedef struct {
    PyObject_HEAD ext_state *st;
    PyObject *first; /* what the library has registered; anything with [] */
    ext_message *message;
    int protocol;
} dispatch;

/* A new reference, or NULL without an exception: nobody has. */
static PyObject *registered(const dispatch *d, PyObject *type)
{
    PyObject *found;
    if (PyDict_CheckExact(d->first)) {
        found = Py_XNewRef(PyDict_GetItemWithError(d->first, type));
    } else {
        found = PyObject_GetItem(d->first, type);
        if (found == NULL && PyErr_ExceptionMatches(PyExc_KeyError))
            PyErr_Clear();
    }
    if (found == NULL && !PyErr_Occurred() && d->first == d->st->reducers)
        found = Py_XNewRef(PyDict_GetItemWithError(d->st->copyreg, type));
    return found;
}

static PyObject *dispatch_item(PyObject *self, PyObject *type)
{
    const dispatch *d = (dispatch *)self;
    PyObject *found = registered(d, type);
    if (found != NULL &&
        ((type == (PyObject *)&PyArray_Type && ext_reducer_is_ours(d->st, found)) ||
         found == d->st->reduce_block))
        Py_SETREF(found, Py_NewRef(self));
    if (found == NULL && !PyErr_Occurred())
        PyErr_SetObject(PyExc_KeyError, type);
    return found;
}

static PyObject *dispatch_call(PyObject *self, PyObject *args, PyObject *kwargs)
{
    dispatch *d = (dispatch *)self;
    /* once it is written, it takes no more */
    ext_message *m = d->message->state == EXT_MESSAGE_OPEN ? d->message : NULL;
    PyObject *array, *result = NULL;
    (void)kwargs;
    if (!PyArg_ParseTuple(args, "O:reduce_array", &array))
        return NULL;
    if (Py_IS_TYPE(array, d->st->block_type))
        return ext_reduce_block_in(d->st, array, m);
    if (!PyArg_ParseTuple(args, "O!:reduce_array", &PyArray_Type, &array))
        return NULL;
    PyObject *ours = registered(d, (PyObject *)&PyArray_Type);
    PyObject *fallback = ours == NULL ? NULL : ext_reducer_fallback(ours);
    if (!PyErr_Occurred())
        result = ext_reduce_in(d->st, (PyArrayObject *)array, m, fallback, d->protocol);
    Py_XDECREF(ours);
    return result;
}

static void dispatch_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(((dispatch *)self)->first);
    Py_XDECREF((PyObject *)((dispatch *)self)->message);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyType_Slot dispatch_slots[] = {
    {Py_tp_dealloc, dispatch_dealloc},
    {Py_tp_call, dispatch_call},
    {Py_mp_subscript, dispatch_item},
    {0, NULL},
};

static PyType_Spec dispatch_spec = {
    .name = "sharena._core._Dispatch",
    .basicsize = sizeof(dispatch),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = dispatch_slots,
};

/* The C pickler looks at its own member only, which a class attribute of a subclass (cloudpickle
 * has one) hides from setattr(). */
static int table_set(ext_state *st, PyObject *pickler, PyObject *table)
{
    if (PyObject_TypeCheck(pickler, (PyTypeObject *)st->pickler))
        return Py_TYPE(st->table_member)->tp_descr_set(st->table_member, pickler, table);
    return PyObject_SetAttr(pickler, st->name_dispatch, table);
}

static PyObject *table_get(ext_state *st, PyObject *pickler)
{
    if (PyObject_TypeCheck(pickler, (PyTypeObject *)st->pickler))
        return Py_TYPE(st->table_member)
            ->tp_descr_get(st->table_member, pickler, (PyObject *)Py_TYPE(pickler));
    return PyObject_GetAttr(pickler, st->name_dispatch);
}

/* For `pickler`, which is about to write the message. */
static int set_dispatch(ext_state *st, PyObject *pickler, PyObject *first, ext_message *m,
                        int protocol)
{
    dispatch *d = PyObject_New(dispatch, st->dispatch_type);
    if (d == NULL)
        return -1;
    d->st = st;
    d->first = Py_NewRef(first);
    d->message = (ext_message *)Py_NewRef((PyObject *)m);
    d->protocol = protocol;
    int status = table_set(st, pickler, (PyObject *)d);
    Py_DECREF(d);
    return status;
}

PyObject *ext_own_pickling(PyObject *module, PyObject *args)
{
    ext_state *st = ext_state_of(module);
    PyObject *forking, *pickler, *first, *second;
    if (!PyArg_ParseTuple(args, "OO!O!O!i:_own_pickling", &forking, &PyType_Type, &pickler,
                          &PyDict_Type, &first, &PyDict_Type, &second, &st->protocol))
        return NULL;
    PyObject *dump = PyObject_GetAttr(pickler, st->name_dump);
    PyObject *member = PyObject_GetAttr(pickler, st->name_dispatch);
    if (dump == NULL || member == NULL || Py_TYPE(member)->tp_descr_set == NULL) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "this pickle.Pickler is not CPython's");
        Py_XDECREF(dump);
        Py_XDECREF(member);
        return NULL;
    }
    Py_XSETREF(st->table_member, member);
    Py_XSETREF(st->forking, Py_NewRef(forking));
    Py_XSETREF(st->pickler, Py_NewRef(pickler));
    Py_XSETREF(st->pickler_dump, dump);
    Py_XSETREF(st->reducers, Py_NewRef(first));
    Py_XSETREF(st->copyreg, Py_NewRef(second));
    Py_RETURN_NONE;
}

PyObject *ext_set_keepers(PyObject *module, PyObject *args)
{
    ext_state *st = ext_state_of(module);
    PyObject *codes, *keeps;
    if (!PyArg_ParseTuple(args, "O!O:_set_keepers", &PyTuple_Type, &codes, &keeps))
        return NULL;
    Py_XSETREF(st->keepers, Py_NewRef(codes));
    Py_XSETREF(st->keeps_bytes, Py_NewRef(keeps));
    Py_RETURN_NONE;
}

/* ---- writing ---- */

/* Whether the caller keeps the bytes to himself: only then are they in one place. */
static int caller_keeps(ext_state *st)
{
    PyFrameObject *frame = PyEval_GetFrame(); /* whoever called the C function */
    if (frame == NULL || st->keepers == NULL)
        return 0;
    PyObject *code = (PyObject *)PyFrame_GetCode(frame);
    int known = 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(st->keepers); i++)
        known |= PyTuple_GET_ITEM(st->keepers, i) == code;
    Py_DECREF(code);
    if (!known)
        return 0;
    PyObject *answer = PyObject_CallOneArg(st->keeps_bytes, (PyObject *)frame);
    int keeps = answer == NULL ? -1 : answer == Py_True;
    Py_XDECREF(answer);
    return keeps;
}

/* After pickling; a message without arrays owes nothing. */
static int finish(ext_state *st, ext_message *m)
{
    int keeps = m->n_tickets == 0 ? 0 : caller_keeps(st);
    if (keeps < 0)
        return -1;
    if (keeps) {
        m->state = EXT_MESSAGE_OURS;
        return 0;
    }
    ext_message_set_loose(m);
    ext_message_let_go(m);
    return 0;
}

/* `pickler` writes to `m`, which its reducers know by its table, or by this thread; consumes
 * both. */
static PyObject *write_message(ext_state *st, PyObject *pickler, ext_message *m, PyObject *object,
                               int by_thread, PyObject *table)
{
    ext_message *before = ext_message_now;
    PyObject *pickler_before = pickler_now, *view = NULL;
    if (by_thread) {
        ext_message_now = (ext_message *)Py_NewRef((PyObject *)m);
        pickler_now = pickler;
    }
    PyObject *done = PyObject_CallMethodOneArg(pickler, st->name_dump, object);
    if (by_thread) {
        Py_SETREF(ext_message_now, before);
        pickler_now = pickler_before;
    }
    if (table != NULL) { /* ours would hide from gc what theirs refers to */
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        if (table_set(st, pickler, table) < 0)
            PyErr_Clear();
        PyErr_Restore(type, value, traceback);
    }
    Py_DECREF(pickler);
    if (done != NULL && finish(st, m) == 0)
        view = PyMemoryView_FromObject((PyObject *)m);
    if (view == NULL) {
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        ext_message_give_back(m);
        PyErr_Restore(type, value, traceback);
    }
    Py_XDECREF(done);
    Py_DECREF(m);
    return view;
}

/* What pickle makes of a protocol that may be None or negative. */
static int protocol_from(ext_state *st, PyObject *protocol)
{
    if (protocol == Py_None)
        return st->protocol;
    long number = PyLong_AsLong(protocol);
    if (number == -1 && PyErr_Occurred())
        PyErr_Clear(); /* the pickler has taken it already */
    return number < 0 || number > 5 ? 5 : (int)number;
}

/* ForkingPickler(m, protocol), without its copies of tables. */
static PyObject *pickler_for(ext_state *st, ext_message *m, PyObject *protocol)
{
    PyObject *arguments[] = {NULL, (PyObject *)m, protocol};
    PyObject *pickler = PyObject_Vectorcall(st->pickler, arguments + 1,
                                            2 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    if (pickler != NULL &&
        set_dispatch(st, pickler, st->reducers, m, protocol_from(st, protocol)) < 0)
        Py_CLEAR(pickler);
    return pickler;
}

/* The pickle of an array alone: what the pickler would write, less what nobody reads again. */
static int write_alone(ext_state *st, ext_message *m, PyArrayObject *array)
{
    static const char before[] = EXT_ALONE_BEFORE, after[] = EXT_ALONE_AFTER;
    PyObject *handle;
    int status = ext_reduce_alone(st, array, m, &handle);
    if (status <= 0)
        return status;
    uint8_t size = (uint8_t)PyBytes_GET_SIZE(handle);
    if (PyBytes_GET_SIZE(handle) > UINT8_MAX ||
        ext_message_append(m, before, sizeof before - 1) < 0 ||
        ext_message_append(m, &size, 1) < 0 ||
        ext_message_append(m, PyBytes_AS_STRING(handle), size) < 0 ||
        ext_message_append(m, after, sizeof after - 1) < 0)
        status = PyErr_Occurred() ? -1 : 0;
    Py_DECREF(handle);
    return status;
}

/* Most messages are one array: no pickler is made for them.  Unless somebody has registered a
 * reducer of ndarray after us, who then has the say.  NULL without an exception: not this way. */
static PyObject *dumps_alone(ext_state *st, PyObject *object)
{
    PyObject *reducer = PyDict_GetItemWithError(st->reducers, (PyObject *)&PyArray_Type);
    if (reducer == NULL || !ext_reducer_is_ours(st, reducer))
        return NULL;
    ext_message *m = ext_message_new(st);
    PyObject *view = NULL;
    if (m == NULL)
        return NULL;
    if (write_alone(st, m, (PyArrayObject *)object) > 0 && finish(st, m) == 0)
        view = PyMemoryView_FromObject((PyObject *)m);
    Py_DECREF(m); /* without a view: what was made for it is given back */
    return view;
}

PyObject *ext_dumps(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ext_signature signature = {"dumps", 2, 3, 3, {"cls", "obj", "protocol"}};
    ext_state *st = ext_state_of(module);
    PyObject *v[3], *pickler = NULL;
    if (ext_arguments(&signature, args, nargs, kwnames, v) < 0)
        return NULL;
    int ours = v[0] == st->forking;
    PyObject *protocol = v[2] == NULL ? Py_None : v[2];
    if (PyArray_CheckExact(v[1]) && ours && protocol == Py_None) {
        PyObject *view = dumps_alone(st, v[1]);
        if (view != NULL || PyErr_Occurred())
            return view;
    }
    ext_message *m = ext_message_new(st);
    if (m != NULL)
        pickler = ours ? pickler_for(st, m, protocol)
                       : PyObject_CallFunctionObjArgs(v[0], (PyObject *)m, protocol, NULL);
    if (pickler == NULL) {
        Py_XDECREF(m);
        return NULL;
    }
    return write_message(st, pickler, m, v[1], !ours, NULL);
}

/* Of a pickler that has a table of its own in `dispatch_table`. */
PyObject *ext_dumps_with(PyObject *module, PyObject *args)
{
    ext_state *st = ext_state_of(module);
    PyObject *make, *object, *table = NULL;
    int protocol;
    if (!PyArg_ParseTuple(args, "OOi:_dumps_with", &make, &object, &protocol))
        return NULL;
    ext_message *m = ext_message_new(st);
    PyObject *pickler = m == NULL ? NULL : PyObject_CallOneArg(make, (PyObject *)m);
    if (pickler != NULL)
        table = table_get(st, pickler);
    if (table == NULL || set_dispatch(st, pickler, table, m, protocol) < 0)
        Py_CLEAR(pickler);
    if (pickler == NULL) {
        Py_XDECREF(table);
        Py_XDECREF(m);
        return NULL;
    }
    PyObject *view = write_message(st, pickler, m, object, 0, table);
    Py_DECREF(table);
    return view;
}

PyObject *ext_dump(PyObject *module, PyObject *args)
{
    ext_state *st = ext_state_of(module);
    PyObject *pickler, *object, *dump = st->pickler_dump;
    if (!PyArg_ParseTuple(args, "OO|O:_dump", &pickler, &object, &dump))
        return NULL;
    if (pickler == pickler_now)
        return PyObject_CallFunctionObjArgs(dump, pickler, object, NULL);
    /* Not by a pickler inside another one's work: whoever calls it may keep the bytes. */
    ext_message *before = ext_message_now, *m = pickler_now == NULL ? launching : NULL;
    PyObject *pickler_before = pickler_now;
    ext_message_now = (ext_message *)Py_XNewRef((PyObject *)m);
    pickler_now = pickler;
    PyObject *done = PyObject_CallFunctionObjArgs(dump, pickler, object, NULL);
    if (m != NULL && done != NULL)
        ext_message_set_loose(m); /* before the bytes leave */
    Py_XSETREF(ext_message_now, before);
    pickler_now = pickler_before;
    return done;
}

/* ---- arguments of a process being started ---- */

static void place_in_child(ext_message *m, PyObject *popen)
{
    sharena_place place;
    PyObject *pid = PyObject_GetAttrString(popen, "pid");
    long number = pid == NULL ? -1 : PyLong_AsLong(pid);
    Py_XDECREF(pid);
    PyErr_Clear(); /* an odd Popen: its tickets stay LOOSE */
    if (number > 0 && ext_place_of_child((pid_t)number, &place) == 0)
        ext_message_place(m, &place);
}

PyObject *ext_launch(PyObject *module, PyObject *args)
{
    ext_state *st = ext_state_of(module);
    PyObject *original, *popen, *process;
    if (!PyArg_ParseTuple(args, "OOO:_launch", &original, &popen, &process))
        return NULL;
    ext_message *m = ext_message_new(st), *before = launching;
    PyObject *pickler_before = pickler_now;
    if (m == NULL)
        return NULL;
    launching = (ext_message *)Py_NewRef((PyObject *)m);
    pickler_now = NULL;
    PyObject *result = PyObject_CallFunctionObjArgs(original, popen, process, NULL);
    Py_SETREF(launching, before);
    pickler_now = pickler_before;
    if (result != NULL && m->n_tickets > 0)
        place_in_child(m, popen);
    if (result != NULL)
        ext_message_let_go(m);
    Py_DECREF(m); /* after a failure: gives back */
    return result;
}

int ext_dumps_init(ext_state *st, PyObject *module)
{
    st->dispatch_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &dispatch_spec, NULL);
    st->name_dump = PyUnicode_InternFromString("dump");
    st->name_dispatch = PyUnicode_InternFromString("dispatch_table");
    return st->dispatch_type == NULL || st->name_dump == NULL || st->name_dispatch == NULL ? -1
                                                                                           : 0;
}
