/* Abandoning a slab while holding blocks of it (design, section 1, "abandon" and "Nothing strands").
 *
 * A slab {S, p} of a lane of process 0, with one block b, which 0 holds privately (a plain store would free it).  Process 0's lane
 * abandons the slab: b marked exported first, then 0's bit dropped from the run's mask.  Process 1 adopts it, and has a second thread with
 * a stale handle of an earlier life of b, which sets its bit for a moment and undoes it.
 *
 * Rules: a release reads the mark; marked: under the unit lock, fetch-and; left 0: look at the run's mask: S alone -> adopt it and, if it is
 * empty, give it back; so does an undo.  Adopting passes the unit lock and rescans.  An owner with no private block in the slab gives it back when it is
 * empty, else abandons it.  The abandoner looks at the masks again after it dropped its bit: all 0 -> it adopts and gives back.
 * A kill may fall between any two steps.  The reaper, who meets S alone and empty, gives back too.
 *
 * Invariants: a believer's bit is set; a life begins only at 0 and meets no believer; nobody owns the slab twice; at the end, with no kill
 * and nobody's bit on the run, no empty slab is left (with a kill the reaper sees to it).
 *
 * Mutants: M_NOMARK (abandoned without marking)  M_NOLOOK (the last release does not look at the run)
 *   M_UNDONOLOOK (nor does an undo)  M_NOAGAIN (the abandoner does not look again: the last release saw its bit still there)  M_NOPASS (adopter does not pass its lock)
 *   M_FREEDIRECT (who finds it empty clears S without adopting)
 */
#ifndef MAXK
#define MAXK 0
#endif
#ifndef NT
#define NT 3
#endif
#define B(p) (1 << (p))
#define S 8
byte rm = S | 1; byte cls = 1; byte b = 1; byte gen = 1; bool mark;
bool lk[2]; byte owner = 1; byte bel[2]; byte tag = 1;          /* owner, bel, tag: ghosts */
bool dead[3]; bool reaped[2]; byte pp[8]; byte nk; byte nad;

#define CHK assert(!(bel[0] && !(b & 1))); assert(!(bel[1] && !(b & 2)))
#define CLR(p) atomic { b = b & ~B(p); CHK }
#define LOCK(p) atomic { !lk[p] -> lk[p] = 1 }
#define UNLOCK(p) lk[p] = 0

/* p owns the slab (bit in run, unit lock passed) and saw b = 0: class word 0, then S and mine */
inline give_back(p) {
    atomic { assert(owner == p + 1); cls = 0 };
    atomic { rm = rm & ~(S | B(p)); owner = 0 }
}
/* S alone: own = 1 */
inline adopt(p) {
    atomic { if :: rm == S -> rm = S | B(p); assert(owner == 0); owner = p + 1; own = 1 :: else fi };
    if
    :: own ->
#ifndef M_NOPASS
        !lk[p];
#endif
        if :: cls == 0 -> atomic { rm = rm & ~(S | B(p)); owner = 0; own = 0 } :: else fi
    :: else
    fi
}
/* somebody left b at 0, or comes by: nothing strands.  Whoever drops an owner's bit looks again */
inline tidy(p) {
    do
    :: rm == S && b == 0 && cls ->
#ifdef M_FREEDIRECT
        cls = 0;
        atomic { if :: rm == S -> rm = 0 :: else fi };
#else
        adopt(p);
        if :: own -> if :: b == 0 -> give_back(p); own = 0 :: else -> abandon(p) fi :: else fi;
#endif
#ifdef M_NOAGAIN
        break
#endif
    :: else -> break
    od
}
inline abandon(p) {
#ifndef M_NOMARK
    if :: ht -> mark = 1 :: else fi;
#endif
    atomic { rm = rm & ~B(p); owner = 0; own = 0 }
}

proctype lane(byte p) provided (!dead[pp[_pid]]) {
    bool own; bool ht; bool left;
    atomic { if :: p == 0 -> own = 1; ht = 1 :: else fi };
    do
    /* allocate, privately */
    :: own && !ht && tag < NT && b == 0 ->
        gen = gen + 1;
        mark = 0;
        atomic { assert(b == 0 && !bel[0] && !bel[1]); b = B(p); tag++; bel[p]++; ht = 1 }
    /* release */
    :: ht && !mark -> atomic { ht = 0; bel[p]--; b = 0; CHK }
    :: ht && mark ->
        LOCK(p);
        atomic { ht = 0; bel[p]-- };
        atomic { CLR(p); left = (b == 0) };
        UNLOCK(p);
#ifndef M_NOLOOK
        if :: left && !own -> tidy(p) :: else fi;
#endif
        left = 0
    :: own && nad < 3 ->
        nad++;
        if
        :: b == 0 && !ht -> give_back(p); own = 0
        :: else ->
            abandon(p);
#ifndef M_NOAGAIN
            if :: b == 0 -> tidy(p) :: else fi
#endif
        fi
    :: !own && rm == S && nad < 3 -> adopt(p)
    :: !own && !ht -> break
    :: own && (bel[p] || b) && nad == 3 -> break            /* keeps it */
    od
}
/* a thread of p with a stale handle: its gen differs, it undoes */
proctype stale(byte p) provided (!dead[pp[_pid]]) {
    byte m; bool own; bool ht; bool left;
    LOCK(p);
retry:
    m = b;
    if :: m == 0 || (m & B(p)) -> goto out :: else fi;
    atomic { if :: b == m -> b = m | B(p) :: else -> goto retry fi };
    atomic { CLR(p); left = (b == 0) };
out:
    UNLOCK(p);
#ifndef M_UNDONOLOOK
    if :: left -> tidy(p) :: else fi
#endif
}
#define SLAY(p) !dead[p] -> dead[p] = 1; bel[p] = 0; nk++; if :: owner == p + 1 -> owner = 0 :: else fi
proctype killer() { do :: atomic { nk < MAXK -> if :: SLAY(0) :: SLAY(1) fi } :: break od }
inline sweep(q) {
    rm = rm & ~B(q);
    if :: cls -> CLR(q) :: else fi;
    atomic { if :: rm == S && (b == 0 || !cls) -> rm = 0; cls = 0 :: else fi }    /* adopts and gives back, in one step here */
}
proctype reaper() {
    do
    :: atomic { dead[0] && !reaped[0] -> reaped[0] = 1 }; sweep(0)
    :: atomic { dead[1] && !reaped[1] -> reaped[1] = 1 }; sweep(1)
    :: timeout -> break
    od;
    assert(((b & 1) != 0) == (bel[0] > 0)); assert(((b & 2) != 0) == (bel[1] > 0));
    assert(!(rm == S && b == 0));
    assert(!cls || (rm & S))
}
init {
    atomic {
        byte i;
#define RUN(x, p) i = run x; pp[i] = p
        bel[0] = 1;
        RUN(lane(0), 0); RUN(lane(1), 1); RUN(stale(1), 1);
        i = run killer(); pp[i] = 2; i = run reaper(); pp[i] = 2
    }
}
