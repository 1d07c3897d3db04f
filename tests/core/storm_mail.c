/* The storm's mail: messages that are opened, placed, sent twice, taken raw and forwarded, given
 * back and judged while they are on their way.
 *
 * In a calm storm nobody expires what was sent.  Then no message may be lost: each load that it
 * is good for succeeds, whoever is killed. */
#include "storm.h"

#include <string.h>

/* The whole of the cell is written by now. */
static void leave(unsigned c, bool full)
{
    if (!full)
        store64_release(&mail->cells[c].pipe, 0);
    store32_release(&mail->cells[c].word, full ? FULL : 0);
}

static bool enter(struct worker *w, unsigned c, uint32_t seen)
{
    return cas32_acq_rel(&mail->cells[c].word, &seen, w->tag);
}

/* A handle of unknown channel, or one of a message in which a block occurs a few times. */
static bool write_message(struct worker *w, const void *block, unsigned loads, bool open,
                          sharena_handle *out)
{
    sharena_handle more;
    if (!open)
        return granted(sharena_export(w->heap, block, loads, out), "export");
    if (!granted(sharena_export_open(w->heap, block, NULL, out), "export_open"))
        return false;
    for (unsigned i = 1; i < loads; i++) {
        if (!granted(sharena_export_open(w->heap, block, out, &more), "export_open"))
            return false;
        if (more.ticket != out->ticket || more.seq != out->seq) { /* expired meanwhile */
            CHECK(!mail->calm);
            return false;
        }
    }
    return true;
}

static void put_place(struct worker *w, unsigned c, const sharena_handle *handle, uint32_t kind)
{
    sharena_place place = {.kind = kind};
    if (kind == SHARENA_PLACE_PIPE) {
        place.id = add64_relaxed(&mail->pipes, 1) + 1;
        store64_relaxed(&mail->cells[c].pipe, place.id);
    }
    int code = sharena_handle_place(w->heap, handle, &place);
    CHECK(code == 0 || (code == SHARENA_ESTALE && !mail->calm));
}

/* The same bytes were sent into another pipe before. */
static void send_again(struct worker *w, unsigned c, const sharena_handle *handle)
{
    sharena_place place = {.kind = SHARENA_PLACE_PIPE, .id = add64_relaxed(&mail->pipes, 1) + 1};
    int code = sharena_handle_place(w->heap, handle, &place);
    CHECK(code == 0 || (code == SHARENA_ESTALE && !mail->calm));
    store64_release(&mail->cells[c].pipe, 0);
}

void post(struct worker *w, unsigned i)
{
    unsigned c = (unsigned)draw(w, CELLS), loads = 1 + (unsigned)draw(w, 3);
    bool open = draw(w, 2), fails = draw(w, 20) == 0;
    sharena_handle handle;
    struct label label;
    if (!enter(w, c, 0))
        return;
    memcpy(&label, w->held[i], sizeof label);
    bool made = write_message(w, w->held[i], loads, open, &handle);
    if (made) {
        if (open && draw(w, 2)) /* bytes that the user asked for */
            put_place(w, c, &handle, SHARENA_PLACE_LOOSE);
        if (open || draw(w, 4))
            put_place(w, c, &handle, SHARENA_PLACE_PIPE);
        if (!fails && load64_relaxed(&mail->cells[c].pipe) && draw(w, 10) == 0)
            send_again(w, c, &handle);
        mail->cells[c].handle = handle;
        mail->cells[c].seed = label.seed;
        mail->cells[c].loads = loads;
        mail->cells[c].safe = mail->calm;
    }
    if (made && fails && mail->calm) /* before the last byte */
        CHECK_OK(sharena_give_back(w->heap, &handle));
    leave(c, made && !(fails && mail->calm));
    if (made && fails && !mail->calm) /* behind it: somebody may be loading */
        CHECK_OK(sharena_give_back(w->heap, &handle));
}

/* Takes the bytes out of a channel, and sends them on. */
void forward(struct worker *w)
{
    unsigned from = (unsigned)draw(w, CELLS), to = (unsigned)draw(w, CELLS);
    if (!enter(w, from, FULL))
        return;
    if (!enter(w, to, 0)) {
        leave(from, true);
        return;
    }
    int code = sharena_handle_keep(w->heap, &mail->cells[from].handle);
    CHECK(code == 0 || (code == SHARENA_ESTALE && !mail->cells[from].safe));
    mail->cells[to].handle = mail->cells[from].handle;
    mail->cells[to].seed = mail->cells[from].seed;
    mail->cells[to].loads = mail->cells[from].loads;
    mail->cells[to].safe = mail->cells[from].safe;
    leave(from, false);
    leave(to, true);
}

void take(struct worker *w, unsigned i)
{
    unsigned c = (unsigned)draw(w, CELLS);
    sharena_block block;
    struct label label;
    if (!enter(w, c, FULL))
        return;
    sharena_handle handle = mail->cells[c].handle;
    uint64_t seed = mail->cells[c].seed;
    bool safe = mail->cells[c].safe;
    int code = sharena_acquire(w->heap, &handle, &block);
    /* the last reader of a pipe may close it with uses left; what is kept would stay */
    bool closes = load64_relaxed(&mail->cells[c].pipe) && draw(w, 8) == 0;
    leave(c, code == 0 && --mail->cells[c].loads > 0 && !closes);
    if (code == 0) {
        w->held[i] = block.start;
        check_signature(block.start);
        memcpy(&label, block.start, sizeof label);
        CHECK_EQ(label.seed, seed);
        (void)add64_relaxed(&mail->loaded, 1);
    } else if (code != SHARENA_ESTALE || safe) {
        CHECK_OK(code);
    }
}

static bool is_in_a_cell(uint64_t pipe)
{
    for (unsigned c = 0; c < CELLS; c++)
        if (load64_acquire(&mail->cells[c].pipe) == pipe)
            return true;
    return false;
}

int judge(const sharena_inquiry *inquiry, void *argument)
{
    (void)argument;
    for (size_t i = 0; i < inquiry->n_places; i++) {
        inquiry->dead[i] = !is_in_a_cell(inquiry->places[i].id);
        (void)add64_relaxed(&mail->judged, inquiry->dead[i]);
    }
    return 0;
}

static int check_ticket(const sharena_ticket *t, void *argument)
{
    (void)argument;
    CHECK(t->place.kind == SHARENA_PLACE_LOOSE || t->place.kind == SHARENA_PLACE_PIPE);
    CHECK(t->place.kind == SHARENA_PLACE_LOOSE || is_in_a_cell(t->place.id));
    return 0;
}

void check_mail(sharena_heap *heap)
{
    sharena_set_judge(judge, NULL);
    CHECK_OK(sharena_reap(heap, NULL));
    CHECK_OK(sharena_ticket_list(heap, check_ticket, NULL));
}

void clear_cells(uint32_t tag)
{
    for (unsigned c = 0; c < CELLS; c++) {
        if (load32_acquire(&mail->cells[c].word) == tag)
            leave(c, false);
    }
}
