/* The reaper's slot: the one slot that only a reaper without a slot takes, while it reaps (design, sections 1 and 3).
 *
 * Slot D is dead, with its bit (1) on two blocks that handles name: who reaps it takes a bit of his own on a block first, settles, clears D's
 * bit, drops his own.  All ordinary slots are taken.  Newcomers (processes 0 and 1, at attach) have no slot: they take slot R (bit 2),
 * reap, and give it up.  Process 2 has a slot (bit 4), reaps D, and R when its taker died.  Any may be killed at any step; with STOP process
 * 2 may be stopped for ever.
 *
 * Rules: R is touched only by who holds the kernel's lock on its byte (`rlock`), also to reap it: so there are no announcements for R.  A new
 * taker that finds R's word not FREE takes over the bits that the dead one left (settles under them, clears them), then is R(k+1).
 * Leaving: one's bits are gone; word FREE(k+1); unlock.
 *
 * Invariants: a reaper holds what it believes to hold (it settles under a bit that nobody else clears); when R begins a life nothing names
 * it (I7); when all is quiet a last newcomer finds R's lock free, but for a stopped holder's, and then no bit of the dead is left.
 *
 * Mutants: M_NOSWEEP (the new taker keeps what the dead one left)  M_NORLOCK (CAS of the word only)  M_NOBIT (reaps D without a
 *   bit of its own)  M_ANNOUNCED (process 2 reaps R as any slot: verdict by the lock, DEAD(k), sweep: it clears R's bit under a new taker
 *   that settles under it)
 */
#ifndef MAXK
#define MAXK 1
#endif
#define NONE 9
#define FREE 0
#define LIVE 1
#define DEAD 2
byte mask[2]; byte rst; byte rk; byte rlock = NONE;     /* R's word: state and incarnation */
bool dead[3]; bool stopped; byte nk; byte who[8];
byte bel[4]; byte tries[2];                             /* ghost: blocks (bits) that a reaper believes it holds */

#define BIT(p) ((p) == 2 -> 4 : 2)
#define CHK1(b) assert(!((bel[0] | bel[1] | bel[3]) & (1 << (b))) || (mask[b] & 2)); assert(!(bel[2] & (1 << (b))) || (mask[b] & 4))
#define CHK CHK1(0); CHK1(1)

/* p clears bit q of block b, holding the block for the while */
inline sweep(p, b, q) {
#ifdef M_NOBIT
    if
    :: mask[b] & q -> assert(mask[b] & q); atomic { assert(mask[b] & q); mask[b] = mask[b] & ~q; CHK }
    :: else
    fi
#else
    atomic {
        if
        :: mask[b] & q -> assert(!(mask[b] & BIT(p))); mask[b] = mask[b] | BIT(p); bel[p] = bel[p] | (1 << b); h = 1
        :: else
        fi };
    if
    :: h ->
        atomic { assert(mask[b] & BIT(p)); mask[b] = mask[b] & ~q; CHK };      /* settled */
        atomic { bel[p] = bel[p] & ~(1 << b); h = 0; mask[b] = mask[b] & ~BIT(p); CHK }
    :: else
    fi
#endif
}
/* p, who has R's lock, goes on with the bit that the dead taker left */
inline take_over(p, b) {
    atomic { if :: mask[b] & 2 -> bel[p] = bel[p] | (1 << b); CHK; h = 1 :: else fi };
    if
    :: h -> atomic { CHK; bel[p] = bel[p] & ~(1 << b); h = 0; mask[b] = mask[b] & ~2 }     /* settled */
    :: else
    fi
}
#define UNLOCK(p) if :: rlock == p -> rlock = NONE :: else fi
inline reap_as_newcomer(p) {
#ifndef M_NORLOCK
    atomic { if :: rlock == NONE -> rlock = p :: else -> goto out fi };
#endif
    atomic { if :: rst == FREE -> rst = LIVE; goto in :: else -> skip fi };
#ifndef M_NOSWEEP
    take_over(p, 0);
    take_over(p, 1);
#endif
    rk++;
    rst = LIVE;
in:
    atomic { assert(!(mask[0] & 2) && !(mask[1] & 2)) };        /* I7 */
    sweep(p, 0, 1);
    sweep(p, 1, 1);
    atomic { rst = FREE; rk++ };
    atomic { UNLOCK(p) };
out:
    skip
}
proctype newcomer(byte p) provided (!dead[who[_pid]]) {
    bool h;
    if :: reap_as_newcomer(p) :: 1 fi
}
proctype reaper() provided (!dead[2] && !stopped) {
    byte n; byte k; bool h;
    do
    :: n < 2 ->
        n++;
        if
        :: 1 -> sweep(2, 0, 1); sweep(2, 1, 1)
        :: rst != FREE ->
#ifdef M_ANNOUNCED
            k = rk;
            if :: rlock == NONE -> skip :: else -> goto again fi;
            atomic { if :: rst == LIVE && rk == k -> rst = DEAD :: rst == DEAD && rk == k -> skip :: else -> goto again fi };
            sweep(2, 0, 2);
            sweep(2, 1, 2);
            atomic { if :: rst == DEAD && rk == k -> rst = FREE; rk++ :: else fi }
#else
            atomic { if :: rlock == NONE -> rlock = 2 :: else -> goto again fi };
            if
            :: rst != FREE ->
                sweep(2, 0, 2);
                sweep(2, 1, 2);
                atomic { rst = FREE; rk++ }
            :: else
            fi;
            atomic { UNLOCK(2) }
#endif
        fi;
again:  k = 0
    :: break
    od
}
#define SLAY(p) !dead[p] -> dead[p] = 1; bel[p] = 0; nk++; UNLOCK(p)
proctype killer() {
    do :: atomic { nk < MAXK -> if :: SLAY(0) :: SLAY(1) :: SLAY(2) fi } :: break od;
#ifdef STOP
    if :: stopped = 1 :: 1 fi
#endif
}
/* when all is quiet a newcomer comes by, who is not killed */
proctype last() {
    bool h;
    timeout ->
    if
    :: rlock == NONE ->
        reap_as_newcomer(3);
        assert(rlock == NONE && rst == FREE);
        /* what is left is a dead or stopped process 2's own */
        assert(!(mask[0] & 3) && !(mask[1] & 3)); assert(dead[2] || stopped || !(mask[0] | mask[1]))
    :: else -> assert(rlock == 2 && stopped && !dead[2])
    fi
}
init { atomic { mask[0] = 1; mask[1] = 1; 
    byte i; i = run newcomer(0); who[i] = 0; i = run newcomer(1); who[i] = 1; i = 0; run reaper(); run killer(); run last() } }
