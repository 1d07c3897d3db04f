/* A message on its way to another process, and the tickets of the arrays in it. */
#ifndef SHARENA_MESSAGE_H
#define SHARENA_MESSAGE_H

#include "ext.h"

typedef struct {
    ext_arena *arena; /* a reference */
    const void *start; /* of the block */
    uint64_t offset, number;
    uint32_t ticket, seq;
} ext_message_ticket;

enum {
    EXT_MESSAGE_OPEN,  /* being written */
    EXT_MESSAGE_OURS,  /* written, and only who is about to send it has the bytes */
    EXT_MESSAGE_LET_GO /* sent, given back, or of unknown channel: nothing is owed */
};

typedef struct ext_message {
    PyObject_HEAD uint8_t *bytes; /* EXT_HEADER_ROOM first, for what goes before them */
    size_t used, room;
    Py_ssize_t views; /* buffers that point into it */
    ext_message_ticket *tickets;
    size_t n_tickets, tickets_room;
    uint32_t *index; /* of tickets by block, once there are many: number + 1 */
    size_t index_room;
    uint64_t machine;
    int state;
    int pid; /* of the process that wrote it */
} ext_message;

#define EXT_HEADER_ROOM 16 /* Connection's header has 4 or 12 bytes */

/* The message that a pickler of this thread is writing which asks reduce_array(), or NULL. */
extern _Thread_local ext_message *ext_message_now EXT_TLS;

/* The pickle of an array alone: these, the length of the handle in a byte, the handle, those. */
#define EXT_ALONE_BEFORE "\x80\x04\x8c\x07sharena\x8c\x0drebuild_array\x93\x43"
#define EXT_ALONE_AFTER "\x85R."

int ext_message_init(ext_state *, PyObject *module);
ext_message *ext_message_new(ext_state *);
int ext_message_append(ext_message *, const void *, size_t); /* -1 with MemoryError */
int ext_message_check(ext_state *, PyObject *);
/* A handle for one load, as part of the message; a code of the core. */
int ext_message_export(ext_message *, ext_arena *, const sharena_block *, sharena_handle *);
void ext_message_place(ext_message *, const sharena_place *); /* all of its tickets */
void ext_message_set_loose(ext_message *);
void ext_message_let_go(ext_message *);                        /* forgets them */
void ext_message_give_back(ext_message *);                     /* ends them */

/* ---- reduce.c ---- */

/* The handle of an array whose dtype it can describe, as part of a message.  1 and *out; 0:
 * another way must be found; -1. */
int ext_reduce_alone(ext_state *, PyArrayObject *, ext_message *, PyObject **out);
/* What a pickler makes of an array: a handle, as part of the message if there is one, or what
 * fallback(array), or without it (then it may be NULL) pickle says. */
PyObject *ext_reduce_in(ext_state *, PyArrayObject *, ext_message *, PyObject *fallback,
                        int protocol);
/* What a pickler makes of a Block: a handle of its bytes, or an exception. */
PyObject *ext_reduce_block_in(ext_state *, PyObject *block, ext_message *message);
PyObject *ext_reduce_block(PyObject *, PyObject *);
int ext_reducer_is_ours(ext_state *, PyObject *reducer);
PyObject *ext_reducer_fallback(PyObject *reducer); /* of ours; borrowed, or NULL */

/* ---- dumps.c, transit.c: for _transit.py ---- */

PyObject *ext_own_pickling(PyObject *, PyObject *);
PyObject *ext_dumps_with(PyObject *, PyObject *);
PyObject *ext_set_keepers(PyObject *, PyObject *);
PyObject *ext_dump(PyObject *, PyObject *);
PyObject *ext_send_message(PyObject *, PyObject *);
PyObject *ext_launch(PyObject *, PyObject *);
PyObject *ext_keep_handles(PyObject *, PyObject *);

#endif
