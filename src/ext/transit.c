/* Sending messages, and saying where they are.
 *
 * A message that only its sender has is placed ON the channel when its first byte is about to
 * be written; a send that raises before the last byte gives it back.  The count of what was
 * written is kept here, where no signal handler can come between the system call and the count.
 */
#include <errno.h>
#include <unistd.h>

#include "judge.h"
#include "message.h"

#define WRITE_MOST ((size_t)0x7ffff000) /* of Linux, in one call */

/* ---- sending ---- */

static size_t put_header(ext_message *m)
{
    uint64_t n = m->used - EXT_HEADER_ROOM, wide = n > 0x7fffffff, word = wide ? n : n << 32;
    size_t size = wide ? 12 : 4;
    uint8_t *at = m->bytes + EXT_HEADER_ROOM - size;
    for (size_t i = 0; wide && i < 4; i++)
        *at++ = 0xff;
    for (size_t i = 0; i < (wide ? 8 : 4); i++)
        *at++ = (uint8_t)(word >> (56 - 8 * i));
    return size;
}

static int write_all(int fd, const uint8_t *bytes, size_t size, size_t *written)
{
    while (*written < size) {
        size_t left = size - *written;
        ssize_t n;
        int error;
        Py_BEGIN_ALLOW_THREADS
        n = write(fd, bytes + *written, left < WRITE_MOST ? left : WRITE_MOST);
        error = errno;
        Py_END_ALLOW_THREADS
        if (n >= 0) {
            *written += (size_t)n;
        } else if (error != EINTR) {
            errno = error;
            PyErr_SetFromErrno(PyExc_OSError);
            return -1;
        }
        /* Also after a part: that, too, is how a signal ends the wait for a reader. */
        if (*written < size && PyErr_CheckSignals() < 0)
            return -1;
    }
    return 0;
}

/* The message whose bytes a buffer shows, if there is something to say about it. */
static ext_message *message_behind(ext_state *st, const Py_buffer *view)
{
    PyObject *base = view->obj;
    if (base != NULL && PyMemoryView_Check(base))
        base = PyMemoryView_GET_BASE(base);
    if (base == NULL || !ext_message_check(st, base) || ((ext_message *)base)->n_tickets == 0)
        return NULL;
    return (ext_message *)base;
}

/* Whoever sends on and on finds out what nobody can receive. */
static void tend(const ext_message *m)
{
    for (size_t i = 0; i < m->n_tickets; i++) {
        if (i == 0 || m->tickets[i].arena != m->tickets[i - 1].arena)
            sharena_tend(m->tickets[i].arena->core);
    }
}

/* 1: sent; 0: the bytes are to be sent as any others; -1. */
static int send_message(int fd, ext_message *m, size_t shown)
{
    sharena_place place;
    size_t header, size, written = 0;
    if (shown != m->used - EXT_HEADER_ROOM) { /* a part of it */
        ext_message_set_loose(m);
        ext_message_let_go(m);
        return 0;
    }
    (void)ext_place_of(fd, &place);
    ext_message_place(m, &place);
    header = put_header(m);
    size = header + shown;
    if (write_all(fd, m->bytes + EXT_HEADER_ROOM - header, size, &written) == 0) {
        Py_BEGIN_ALLOW_THREADS
        tend(m);
        Py_END_ALLOW_THREADS
        ext_message_let_go(m);
        return 1;
    }
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (written < size)
        ext_message_give_back(m);
    else
        ext_message_let_go(m);
    PyErr_Restore(type, value, traceback);
    return -1;
}

/* The view keeps the message, and its bytes where they are, while others run. */
PyObject *ext_send_message(PyObject *module, PyObject *args)
{
    int fd, sent = 0;
    PyObject *buffer;
    Py_buffer view;
    if (!PyArg_ParseTuple(args, "iO:_send_message", &fd, &buffer))
        return NULL;
    if (!PyMemoryView_Check(buffer)) /* dumps() returns nothing else */
        Py_RETURN_FALSE;
    if (PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    ext_message *m = message_behind(ext_state_of(module), &view);
    if (m != NULL)
        sent = send_message(fd, m, (size_t)view.len);
    PyBuffer_Release(&view);
    return sent < 0 ? NULL : PyBool_FromLong(sent);
}

/* ---- receiving raw ---- */

PyObject *ext_keep_handles(PyObject *module, PyObject *buffer)
{
    Py_buffer view;
    if (PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    ext_handles_keep(ext_state_of(module), view.buf, (size_t)view.len);
    PyBuffer_Release(&view);
    Py_RETURN_NONE;
}
