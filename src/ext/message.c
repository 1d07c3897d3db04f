/* A message: the bytes of a pickle, and the tickets of the arrays in it.
 *
 * It is the file that the pickler writes to and the buffer that is sent, so it knows when the
 * bytes are gone: a message that only its sender had (Connection.send(), a queue's feeder) and
 * that is freed unsent gives its tickets back, whatever raised in between.  In a forked child
 * it gives nothing back: the parent has the message, too.
 *
 * Arrays that are views of one block share a ticket.  Which block has one already is found by
 * looking through the list, or, in a long one, by an open-addressed index.
 */
#include "message.h"

#include <pthread.h>
#include <unistd.h>

static int own_pid; /* getpid() is a system call */

#define LINEAR 8 /* tickets up to which looking through them is as fast */

ext_message *ext_message_new(ext_state *st)
{
    ext_message *m = PyObject_New(ext_message, st->message_type);
    if (m == NULL)
        return NULL;
    memset((char *)m + sizeof(PyObject), 0, sizeof *m - sizeof(PyObject));
    m->used = EXT_HEADER_ROOM;
    m->pid = own_pid;
    return m;
}

int ext_message_check(ext_state *st, PyObject *object)
{
    return Py_IS_TYPE(object, st->message_type);
}

/* ---- tickets ---- */

static sharena_handle handle_of(const ext_message *m, const ext_message_ticket *t)
{
    sharena_handle handle = {.offset = t->offset,
                             .number = t->number,
                             .machine = m->machine,
                             .ticket = t->ticket,
                             .seq = t->seq};
    memcpy(handle.heap, t->arena->uuid, sizeof handle.heap);
    return handle;
}

static size_t index_slot(const ext_message *m, const void *start)
{
    uint64_t hash = ((uint64_t)(uintptr_t)start >> 4) * 0x9e3779b97f4a7c15u;
    size_t i = (size_t)(hash >> 20) & (m->index_room - 1);
    while (m->index[i] != 0 && m->tickets[m->index[i] - 1].start != start)
        i = (i + 1) & (m->index_room - 1);
    return i;
}

/* Of a block with several tickets (its first one was full) the latest counts. */
static int index_rebuild(ext_message *m)
{
    size_t room = m->index_room == 0 ? 64 : m->index_room * 2;
    uint32_t *index = PyMem_RawCalloc(room, sizeof *index);
    if (index == NULL)
        return -1;
    PyMem_RawFree(m->index);
    m->index = index;
    m->index_room = room;
    for (size_t i = 0; i < m->n_tickets; i++)
        index[index_slot(m, m->tickets[i].start)] = (uint32_t)i + 1;
    return 0;
}

static const ext_message_ticket *find(const ext_message *m, const void *start)
{
    if (m->index != NULL) {
        uint32_t number = m->index[index_slot(m, start)];
        return number == 0 ? NULL : &m->tickets[number - 1];
    }
    for (size_t i = m->n_tickets; i-- > 0;) {
        if (m->tickets[i].start == start)
            return &m->tickets[i];
    }
    return NULL;
}

/* Room for one more ticket and its place in the index. */
static int reserve(ext_message *m)
{
    if (m->n_tickets == m->tickets_room) {
        size_t room = m->tickets_room == 0 ? 4 : m->tickets_room * 2;
        ext_message_ticket *tickets = PyMem_RawRealloc(m->tickets, room * sizeof *tickets);
        if (tickets == NULL)
            return -1;
        m->tickets = tickets;
        m->tickets_room = room;
    }
    if (m->n_tickets < LINEAR || 2 * (m->n_tickets + 1) <= m->index_room)
        return 0;
    return index_rebuild(m);
}

static void add(ext_message *m, ext_arena *arena, const void *start, const sharena_handle *handle)
{
    m->tickets[m->n_tickets++] = (ext_message_ticket){
        ext_arena_ref(arena), start, handle->offset, handle->number, handle->ticket, handle->seq};
    m->machine = handle->machine;
    if (m->index != NULL)
        m->index[index_slot(m, start)] = (uint32_t)m->n_tickets;
}

/* In a child that was forked while its parent wrote the message, and goes on with it: each has
 * it now, so what is in it so far is the parent's, and of unknown channel. */
static void take_over(ext_message *m)
{
    ext_message_set_loose(m); /* by another than its maker: for good */
    ext_message_let_go(m);
    m->state = EXT_MESSAGE_OPEN;
    m->pid = own_pid;
}

int ext_message_export(ext_message *m, ext_arena *arena, const sharena_block *block,
                       sharena_handle *out)
{
    if (m->pid != own_pid)
        take_over(m);
    if (reserve(m) < 0)
        return SHARENA_ENOMEM;
    const ext_message_ticket *known = find(m, block->start);
    sharena_handle joins;
    if (known != NULL)
        joins = handle_of(m, known);
    int code = sharena_export_open(arena->core, block->start, known == NULL ? NULL : &joins, out);
    if (code == 0 && (known == NULL || known->ticket != out->ticket || known->seq != out->seq))
        add(m, arena, block->start, out);
    return code;
}

void ext_message_place(ext_message *m, const sharena_place *place)
{
    for (size_t i = 0; i < m->n_tickets; i++) {
        sharena_handle handle = handle_of(m, &m->tickets[i]);
        (void)sharena_handle_place(m->tickets[i].arena->core, &handle, place);
    }
}

void ext_message_set_loose(ext_message *m)
{
    sharena_place loose = {.kind = SHARENA_PLACE_LOOSE};
    ext_message_place(m, &loose);
}

void ext_message_let_go(ext_message *m)
{
    for (size_t i = 0; i < m->n_tickets; i++)
        ext_arena_unref(m->tickets[i].arena);
    PyMem_RawFree(m->tickets);
    PyMem_RawFree(m->index);
    m->tickets = NULL;
    m->index = NULL;
    m->n_tickets = m->tickets_room = m->index_room = 0;
    m->state = EXT_MESSAGE_LET_GO;
}

void ext_message_give_back(ext_message *m)
{
    ext_uninterruptible++; /* an exception is on its way */
    for (size_t i = 0; i < m->n_tickets && m->pid == own_pid; i++) {
        sharena_handle handle = handle_of(m, &m->tickets[i]);
        (void)sharena_give_back(m->tickets[i].arena->core, &handle);
    }
    ext_uninterruptible--;
    ext_message_let_go(m);
}

/* ---- the type ---- */

static int grow(ext_message *m, size_t more)
{
    size_t room = m->room + m->room / 2;
    if (room < m->used + more)
        room = m->used + more + 256;
    uint8_t *bytes = more > SIZE_MAX / 4 ? NULL : PyMem_RawRealloc(m->bytes, room);
    if (bytes == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    m->bytes = bytes;
    m->room = room;
    return 0;
}

int ext_message_append(ext_message *m, const void *data, size_t size)
{
    if (m->used + size > m->room && grow(m, size) < 0)
        return -1;
    memcpy(m->bytes + m->used, data, size);
    m->used += size;
    return 0;
}

static PyObject *message_write(PyObject *self, PyObject *data)
{
    ext_message *m = (ext_message *)self;
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    if (m->views > 0) { /* this one may be of the message itself */
        PyBuffer_Release(&view);
        PyErr_SetString(PyExc_BufferError, "the message is written already");
        return NULL;
    }
    Py_ssize_t size = view.len;
    int status = ext_message_append(m, view.buf, (size_t)size);
    PyBuffer_Release(&view);
    return status < 0 ? NULL : PyLong_FromSsize_t(size);
}

static int message_get_buffer(PyObject *self, Py_buffer *view, int flags)
{
    ext_message *m = (ext_message *)self;
    if (m->room == 0 && grow(m, EXT_HEADER_ROOM) < 0)
        return -1;
    if (PyBuffer_FillInfo(view, self, m->bytes + EXT_HEADER_ROOM,
                          (Py_ssize_t)(m->used - EXT_HEADER_ROOM), 0, flags) < 0)
        return -1;
    m->views++;
    return 0;
}

static void message_release_buffer(PyObject *self, Py_buffer *view)
{
    (void)view;
    ((ext_message *)self)->views--;
}

static void message_dealloc(PyObject *self)
{
    ext_message *m = (ext_message *)self;
    PyTypeObject *type = Py_TYPE(self);
    if (m->state == EXT_MESSAGE_LET_GO)
        ext_message_let_go(m);
    else
        ext_message_give_back(m); /* nobody has the bytes */
    PyMem_RawFree(m->bytes);
    PyObject_Free(m);
    Py_DECREF(type);
}

static PyMethodDef message_methods[] = {
    {"write", message_write, METH_O, "write($self, data, /)\n--\n\nAppend bytes."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot message_slots[] = {
    {Py_tp_doc, "The bytes of a pickle for another process, and whose arrays are in it."},
    {Py_tp_methods, message_methods},
    {Py_tp_dealloc, message_dealloc},
    {Py_bf_getbuffer, message_get_buffer},
    {Py_bf_releasebuffer, message_release_buffer},
    {0, NULL},
};

static PyType_Spec message_spec = {
    .name = "sharena._core.Message",
    .basicsize = sizeof(ext_message),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = message_slots,
};

static void after_fork(void)
{
    own_pid = (int)getpid();
}

int ext_message_init(ext_state *st, PyObject *module)
{
    if (own_pid == 0) {
        after_fork();
        (void)pthread_atfork(NULL, NULL, after_fork);
    }
    st->message_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &message_spec, NULL);
    return st->message_type == NULL ? -1 : PyModule_AddType(module, st->message_type);
}
