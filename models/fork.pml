/* fork() against a sibling thread: the bracket of the lanes, the stamps, the exported marks, the child's slot (design, section 3).
 *
 * One mask word, two blocks in a unit of L.  Bits: 1 the parent P, 2 the child.  P has two threads: the forker and a lane L, which
 * allocates and frees by plain stores.  fork() copies the private table (`priv`) and the objects the program can reach (`user`).
 *
 * Rules: prepare takes an EMBRYO slot for the child (lock first), sets pending, (membarrier,) waits until the lane is not busy, stamps
 * the child's bit on every block held and marks it exported, and keeps the bracket across fork(); both sides release.  The verdict on
 * an embryo is its lock alone.  A failed fork leaves the stamps to a reaper.
 * Kills: parent and child, between any two steps; the reaper clears the bits of the dead.
 *
 * Invariants: whoever can reach a block has its bit set; a plain store never wipes another's bit; at the end a bit is set if and only
 * if its process lives and reaches the block.
 *
 * Mutants: M_NOBRACKET  M_EARLY (bracket let go after stamping, before fork)  M_RECONCILE (the same, and the child mends its table)
 *   M_NOMARK (stamped blocks are not marked exported)  M_PARENTPID (an embryo is dead when its parent is)
 */
#ifndef NA
#define NA 3            /* allocations */
#endif
byte mask[2]; byte gen[2];
bool pd; bool cd; bool born;            /* parent dead, child dead, child born */
bool lk_p; bool lk_c;                   /* the parent's and the child's copy of the child's lock */
byte st;                                /* child's slot: 0 free, 1 embryo, 2 live, 3 dead */
bool priv[2]; byte pgen[2]; bool expo[2];
bool cpriv[2];
bool user[2]; bool cuser[2];            /* ghosts: objects that the program can reach */
bool pending; bool busy; byte na; bool swept;

#define CHK assert(!(cuser[0] && !(mask[0] & 2))); assert(!(cuser[1] && !(mask[1] & 2))); \
            assert(!(user[0] && !(mask[0] & 1))); assert(!(user[1] && !(mask[1] & 1)))
#ifdef M_NOBRACKET
#define ENTER skip
#define LEAVE skip
#else
#define ENTER busy = 1; do :: pending -> busy = 0; !pending; busy = 1 :: !pending -> break od
#define LEAVE busy = 0
#endif

proctype lane() provided (!pd) {
    byte d;
    do
    :: atomic { na < NA && (!user[0] || !user[1]) -> na++; if :: !user[0] -> d = 0 :: !user[1] -> d = 1 fi };
        ENTER;
        if
        :: mask[d] == 0 ->
            atomic { gen[d]++; assert(!cuser[d]) };
            atomic { mask[d] = 1; CHK; user[d] = 1; priv[d] = 1; pgen[d] = gen[d]; expo[d] = 0 }
        :: else
        fi;
        LEAVE
    :: atomic { user[0] || user[1] -> if :: user[0] -> d = 0 :: user[1] -> d = 1 fi };
        ENTER;
        if
        :: !expo[d] -> atomic { user[d] = 0; priv[d] = 0; mask[d] = 0; CHK }
        :: expo[d] -> atomic { user[d] = 0; priv[d] = 0; mask[d] = mask[d] & ~1; CHK }
        fi;
        LEAVE
    :: break
    od
}

inline stamp(d) {
    if
    :: priv[d] ->
#ifndef M_NOMARK
        expo[d] = 1;
#endif
        mask[d] = mask[d] | 2
    :: !priv[d]
    fi
}
proctype forker() provided (!pd) {
    atomic { lk_p = 1; st = 1 };                /* prepare: lock first, then EMBRYO */
#ifndef M_NOBRACKET
    pending = 1;
    !busy;
#endif
    stamp(0); stamp(1);
#if defined(M_EARLY) || defined(M_RECONCILE)
    pending = 0;
#endif
    if
    :: 1 -> atomic {
            born = 1; lk_c = lk_p; cpriv[0] = priv[0]; cpriv[1] = priv[1]; cuser[0] = user[0]; cuser[1] = user[1];
#ifndef M_RECONCILE
            CHK;
#endif
            run child() }
    :: 1 -> skip                                /* fork fails */
    fi;
    lk_p = 0;                                   /* parent's handler, also after a failed fork */
    pending = 0
}
proctype child() provided (!cd) {
#ifdef M_RECONCILE
    atomic { if :: cpriv[0] && !(mask[0] & 2) -> cpriv[0] = 0 :: else fi };
    atomic { if :: cpriv[1] && !(mask[1] & 2) -> cpriv[1] = 0 :: else fi };
    atomic { if :: !cpriv[0] && (mask[0] & 2) -> mask[0] = mask[0] & ~2 :: else fi };
    atomic { if :: !cpriv[1] && (mask[1] & 2) -> mask[1] = mask[1] & ~2; CHK :: else fi };
#endif
    atomic { st == 1 -> st = 2 };               /* child's handler: EMBRYO -> LIVE */
    do
    :: atomic { cuser[0] -> cuser[0] = 0; cpriv[0] = 0; mask[0] = mask[0] & ~2; CHK }
    :: atomic { cuser[1] -> cuser[1] = 0; cpriv[1] = 0; mask[1] = mask[1] & ~2; CHK }
    :: break
    od
}

proctype killer() {
    if :: atomic { !pd -> pd = 1; lk_p = 0; user[0] = 0; user[1] = 0 } :: 1 fi;
    if :: atomic { born && !cd -> cd = 1; lk_c = 0; cuser[0] = 0; cuser[1] = 0 } :: 1 fi
}
proctype reaper() {
    do
    :: atomic {
        (st == 1 || st == 2) &&
#ifdef M_PARENTPID
        ((st == 1 && pd) || (!lk_p && !lk_c))
#else
        (!lk_p && !lk_c)
#endif
        -> st = 3 };
        atomic { mask[0] = mask[0] & ~2; CHK };
        atomic { mask[1] = mask[1] & ~2; CHK };
        st = 0
    :: atomic { pd && !swept -> mask[0] = mask[0] & ~1; CHK };
        atomic { mask[1] = mask[1] & ~1; CHK; swept = 1 }
    :: timeout ->
        assert(((mask[0] & 1) != 0) == (!pd && user[0])); assert(((mask[1] & 1) != 0) == (!pd && user[1]));
        assert(((mask[0] & 2) != 0) == (born && !cd && cuser[0])); assert(((mask[1] & 2) != 0) == (born && !cd && cuser[1]));
        break
    od
}
init { atomic { run lane(); run forker(); run killer(); run reaper() } }
