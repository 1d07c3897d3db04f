/* Growing and shrinking a run in place against fork() (design, section 2, "reallocate").
 *
 * Parent P holds the run of unit 0, or (LONG: for shrinking) of units 0 and 1, never exported, with an entry of count 1; VIEW: P has a
 * second reference.  Its thread R resizes it in place; F forks; X, another process, takes free runs.  The child uses what it could reach
 * at fork(), for the length that it knows.
 *
 * Rules: mark, count = 1 and the split (one fetch-or in heads) or merge (one fetch-and) under the unit's private lock and in one bracket,
 * lock outside.  To grow, the neighbour is taken in full first, outside; refused: it is let go.  Then the merger drops its bit on the
 * absorbed run.  Fork: locks, pending, busy = 0; stamps the child's bit on the runs of the table and marks them.
 * Kills: P at any step; the reaper clears P's bit on both units.
 *
 * Invariants: whoever can use a unit has a bit on the run that it is in, and the unit is nobody else's; at the end every bit has a user.
 *
 * Mutants: M_MARKEARLY (mark read before lock and bracket)  M_UNGUARDED (neither lock nor bracket)  M_NOCOUNT (a second reference in the
 *   process is not looked for)  M_NOTAKE (neighbour that looks free is absorbed without taking)  M_BITFIRST (bit on the neighbour dropped
 *   before the head bit)
 * With the lock the bracket adds nothing against fork(), which takes all locks; without the lock `count` could change.
 */
byte m[2]; bool head1; bool mark; bool lk; bool pending; bool busy; byte cnt = 1;
bool pu[2]; bool cu[2]; bool xu[2];             /* ghosts: units that P, the child, X use */
bool vu[2];                                     /* a second reference in P: a view of the array as it was */
bool pd; bool cd; bool born; bool forked; bool reaped; byte nk;

#define ENTER busy = 1; do :: pending -> busy = 0; !pending; busy = 1 :: !pending -> break od
#define LEAVE busy = 0
#define MASK(u) ((u) == 0 || head1 -> m[u] : m[0])
#define CHK1(u) assert(!(pu[u] || vu[u]) || (MASK(u) & 1)); assert(!cu[u] || (MASK(u) & 2)); assert(!xu[u] || (MASK(u) & 4)); \
    assert(!(xu[u] && (pu[u] || vu[u] || cu[u])))
#define CHK CHK1(0); CHK1(1)

proctype resizer() provided (!pd) {
    bool refuse; bool took;
    if
#ifdef LONG
    :: 1 ->                                     /* shrink */
#ifdef M_MARKEARLY
        refuse = mark || cnt != 1;
#endif
#ifndef M_UNGUARDED
        atomic { !lk -> lk = 1 };
        ENTER;
#endif
#ifndef M_MARKEARLY
        refuse = mark;
#ifndef M_NOCOUNT
        refuse = refuse || cnt != 1;
#endif
#endif
        if
        :: !refuse -> atomic { pu[1] = 0; head1 = 1; CHK }
        :: else
        fi;
#ifndef M_UNGUARDED
        LEAVE;
        lk = 0
#else
        skip
#endif
#else
    :: 1 ->                                     /* grow */
#ifndef M_NOTAKE
        atomic { if :: head1 && m[1] == 0 -> m[1] = 1; took = 1 :: else -> goto out fi };
#else
        if :: head1 && m[1] == 0 -> took = 1 :: else -> goto out fi;
#endif
#ifdef M_MARKEARLY
        refuse = mark || cnt != 1;
#endif
#ifndef M_UNGUARDED
        atomic { !lk -> lk = 1 };
        ENTER;
#endif
#ifndef M_MARKEARLY
        refuse = mark || cnt != 1;
#endif
        if
        :: !refuse ->
#ifdef M_BITFIRST
            atomic { m[1] = m[1] & ~1; CHK };
            atomic { head1 = 0; pu[1] = 1; CHK };
#else
            atomic { head1 = 0; CHK };
            atomic { m[1] = m[1] & ~1; pu[1] = 1; CHK };
#endif
            took = 0
        :: else
        fi;
#ifndef M_UNGUARDED
        LEAVE;
        lk = 0;
#endif
        if :: took -> atomic { m[1] = m[1] & ~1; CHK } :: else fi
#endif
    :: 1
    fi;
out:
    skip;
#ifndef VIEW
    if
    :: atomic { !lk -> lk = 1 };                /* release */
        atomic { pu[0] = 0; pu[1] = 0; cnt-- };
        if :: cnt == 0 -> atomic { m[0] = m[0] & ~1; CHK } :: else fi;
        lk = 0
    :: 1
    fi
#endif
}
proctype forker() provided (!pd) {
    atomic { !lk -> lk = 1 };
    pending = 1;
    !busy;
    if :: cnt -> mark = 1; m[0] = m[0] | 2 :: else fi;
    atomic { born = 1; if :: cnt -> cu[0] = pu[0]; cu[1] = pu[1] :: else fi; CHK; run child() };
    pending = 0;
    lk = 0
}
proctype child() provided (!cd) {
    if
    :: atomic { cu[0] = 0; cu[1] = 0; m[0] = m[0] & ~2; CHK }
    :: 1
    fi
}
/* another process takes what is free: head bit looked at after the mask is set */
proctype taker() {
    byte u; byte n;
    do
    :: n < 2 ->
        n++;
        if :: u = 0 :: u = 1 fi;
        atomic { if :: m[u] == 0 -> m[u] = 4 :: else -> goto next fi };
        atomic {
            if
            :: u == 0 || head1 ->
                xu[u] = 1; if :: u == 0 && !head1 -> xu[1] = 1 :: else fi;
                assert(!pu[u] && !cu[u] && !vu[u] && !(xu[1] && (pu[1] || cu[1] || vu[1])))
            :: else
            fi };
        atomic { m[u] = m[u] & ~4; xu[0] = 0; xu[1] = 0 };
next:   u = 0
    :: break
    od
}
proctype killer() {
    if :: atomic { pd = 1; pu[0] = 0; pu[1] = 0; vu[0] = 0; vu[1] = 0 } :: 1 fi;
    if :: atomic { born && !cd -> cd = 1; cu[0] = 0; cu[1] = 0 } :: 1 fi
}
proctype reaper() {
    do
    :: atomic { pd && !reaped -> m[0] = m[0] & ~1; CHK }; atomic { m[1] = m[1] & ~1; reaped = 1; CHK };
        /* an embryo that was not born, or a child killed */
        if :: !born -> atomic { m[0] = m[0] & ~2; CHK } :: else fi
    :: atomic { cd && (m[0] & 2) -> m[0] = m[0] & ~2; CHK }
    :: timeout -> break
    od;
    assert(((m[0] & 1) != 0) == (pu[0] || vu[0])); assert(((m[0] & 2) != 0) == (cu[0])); assert(!(m[0] & 4));
    assert(m[1] == 0)
}
init {
    atomic {
        m[0] = 1; pu[0] = 1; head1 = 1;
#ifdef LONG
        head1 = 0; pu[1] = 1;
#endif
#ifdef VIEW
        cnt = 2; vu[0] = 1;
#ifdef LONG
        vu[1] = 1;
#endif
#endif
        run resizer(); run forker(); run taker(); run killer(); run reaper()
    }
}
