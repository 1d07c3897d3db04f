/* Guests: a forked child without a slot of its own (design, section 3).
 *
 * Parent P (slot bit 1) holds block 0 privately (unmarked, its lane frees it by a plain store) and block 1 by an entry of its table.  No slot
 * is free: its child G is a guest.  It inherits P's lock page, so that P's slot is dead only when both are gone.  G may fork a guest G2 of
 * its own.
 *
 * Rules: prepare, in the bracket and under the unit locks, marks every block held and pins it: one more reference in the table, before
 * fork(), so that parent's and guest's copies have it; the pin is never dropped (but when fork() fails).  The lock page is MADV_DOFORK around
 * that one fork, a guest's forks too.  P's clean exit drops what is not pinned and leaves slot and lock to the reaper, if it ever had a
 * guest.  The verdict is the lock's alone.  A guest does not allocate.
 * Kills: P, G, G2 at any step.  A lock is free when all that share its page are gone.  In the end the reaper clears all.
 *
 * Invariants: whoever can reach a block has P's bit in its mask, and it is the life that it inherited or P's own; at the end, with all gone,
 * all bits are gone.
 *
 * Mutants: M_NOPIN  M_PINLATE (pinned in the parent's copy only: the guest's drop clears the bit)  M_NOMARK (unmarked: plain store)
 *   M_CLEANEXIT (P's exit clears its bits and frees the slot)  M_NOSHARE (lock page not inherited)  M_NOSHARE2 (not by G2)
 *   M_PIDVERDICT (dead when the parent's pid is gone)  M_FAILKEEPS (a failed fork leaves its pins: held until P's end)
 */
byte mask[2]; bool mark[2]; byte gen[2];
byte cnt[6];                            /* tables: process * 2 + block; 0: no entry */
bool reach[6]; byte rg[2];              /* ghosts: who can reach which block; the life inherited */
bool alive[3]; bool share[3]; bool born[3]; bool hadguest; bool pexit; byte nk; bool failed; byte na; byte who[8]; byte i_;

#define LOCKFREE (!(alive[0] && share[0]) && !(alive[1] && share[1]) && !(alive[2] && share[2]))
#define C(p, b) cnt[(p)*2 + (b)]
#define R(p, b) reach[(p)*2 + (b)]
#define CHK1(b) assert(!(R(0,b) || R(1,b) || R(2,b)) || mask[b]); assert(!(R(1,b) || R(2,b)) || gen[b] == rg[b])
#define CHK CHK1(0); CHK1(1)
#define OK(p) (alive[p])

inline release(p, b) {
    atomic { R(p,b) = 0;
        if
        :: !mark[b] -> mask[b] = 0
        :: else ->
            if :: C(p,b) -> C(p,b)-- :: else fi;
            if :: C(p,b) == 0 -> mask[b] = mask[b] & ~1 :: else fi
        fi;
        CHK }
}
/* pins what p holds in p's table; entry for an implicit reference first */
inline pin(p, b) {
    if
    :: mask[b] & 1 ->
#ifndef M_NOMARK
        mark[b] = 1;
#endif
        if :: C(p,b) == 0 && R(p,b) -> C(p,b) = 1 :: else fi;
        C(p,b)++
    :: else
    fi
}
inline fork_guest(p, q) {
    /* one step: under the bracket and all unit locks nobody of p moves; a kill before it or after is all the same */
    atomic {
#if !defined(M_NOPIN) && !defined(M_PINLATE)
        pin(p, 0); pin(p, 1);
#endif
        alive[q] = 1; born[q] = 1; hadguest = 1;
        share[q] = share[p];
#ifdef M_NOSHARE
        share[q] = 0;
#endif
#ifdef M_NOSHARE2
        if :: q == 2 -> share[q] = 0 :: else fi;
#endif
        C(q,0) = C(p,0); C(q,1) = C(p,1); R(q,0) = R(p,0); R(q,1) = R(p,1);
        if :: p == 0 -> rg[0] = gen[0]; rg[1] = gen[1] :: else fi;
#ifdef M_PINLATE
        pin(p, 0); pin(p, 1);
#endif
        i_ = run guest(q); who[i_] = q; i_ = 0 }
}

proctype parent() provided (alive[0]) {
    do
    :: R(0,0) -> release(0, 0)
    :: R(0,1) -> release(0, 1)
    :: !R(0,0) && na < 2 && mask[0] == 0 ->
        na++; gen[0]++; mark[0] = 0; atomic { mask[0] = 1; R(0,0) = 1; C(0,0) = 0; CHK }
    :: !born[1] && !failed -> fork_guest(0, 1)
    :: !born[1] && !failed ->                       /* fork() fails: pins go again */
        atomic { failed = 1; pin(0, 0); pin(0, 1) };
#ifndef M_FAILKEEPS
        atomic {
            if :: C(0,0) -> C(0,0)--; if :: !C(0,0) -> mask[0] = mask[0] & ~1 :: else fi :: else fi;
            if :: C(0,1) -> C(0,1)--; if :: !C(0,1) -> mask[1] = mask[1] & ~1 :: else fi :: else fi; CHK }
#else
        skip
#endif
    :: !R(0,0) && !R(0,1) && failed && !born[1] -> assert(!(mask[0] & 1) && !(mask[1] & 1)); break
    :: break
    od;
    /* clean exit */
    if :: R(0,0) -> release(0, 0) :: else fi;
    if :: R(0,1) -> release(0, 1) :: else fi;
#ifndef M_CLEANEXIT
    if :: hadguest -> skip :: else ->
#endif
        atomic { mask[0] = mask[0] & ~1; CHK };
        atomic { mask[1] = mask[1] & ~1; CHK };
#ifndef M_CLEANEXIT
    fi;
#endif
    atomic { alive[0] = 0; pexit = 1 }
}
proctype guest(byte p) provided (alive[who[_pid]]) {
    do
    :: R(p,0) -> release(p, 0)
    :: R(p,1) -> release(p, 1)
    :: p == 1 && !born[2] -> fork_guest(1, 2)
    :: break
    od;
    if :: atomic { R(p,0) = 0; R(p,1) = 0; alive[p] = 0 } :: 1 fi    /* exits, or stays */
}
#define SLAY(p) alive[p] -> alive[p] = 0; R(p,0) = 0; R(p,1) = 0; nk++
proctype killer() { do :: atomic { nk < 3 -> if :: SLAY(0) :: SLAY(1) :: SLAY(2) fi } :: break od }
proctype reaper() {
    do
    :: atomic {
#ifdef M_PIDVERDICT
        !alive[0]
#else
        LOCKFREE
#endif
        -> mask[0] = mask[0] & ~1; CHK };
        atomic { mask[1] = mask[1] & ~1; CHK };
        break
    :: timeout -> break
    od;
    if :: LOCKFREE -> assert(!mask[0] && !mask[1]) :: else fi
}
init {
    atomic {
        mask[0] = 1; mask[1] = 1; mark[1] = 1; cnt[1] = 1; reach[0] = 1; reach[1] = 1; alive[0] = 1; share[0] = 1;
        run parent(); run killer(); run reaper()
    }
}
