/* Process-private unit locks, the lane registry's lock and the fork bracket: one order, no deadlock, a child with a sound table
 * (design, section 3, "Order").
 *
 * Parent P (bit 1) holds d, a private block of its lane; b, exported, is held by an outsider (bit 4).  Child C: bit 2.
 *
 * Actors, threads of P: the lane L frees d (fast or slow, as the mark says, which it reads in its bracket), allocates it again, and
 * cuts, which passes the unit lock; A acquires and releases b under the unit lock; E ends its lane: registry's lock, then a unit lock
 * (marking blocks exported); the forker F.  fork() copies locks, table and reachable objects; only F lives on in the child, which uses
 * a lock at once.
 *
 * Rules: registry's lock, unit locks, bracket, in that order; prepare takes registry and unit locks, then sets pending, then waits for
 * busy = 0; nobody waits for a unit lock in its bracket; both handlers release all.
 *
 * Invariants: everybody comes to an end; child and parent have a bit if and only if they can reach the block.
 *
 * Mutants: M_REVERSE (slow release: bracket outside, lock inside)  M_PASSINSIDE (cut passes the lock in its bracket)  M_PENDINGFIRST
 *   (pending before the unit locks)  M_REGISTRYLAST (E takes the unit lock first)  M_NOLOCKS (prepare takes no unit lock)
 *   M_KEPT (the child's handler does not release)
 */
byte mb = 4; byte md = 1; bool mark;                /* masks of b and d, mark of d */
bool lk; bool reg; bool pending; bool busy;
byte cnt; bool hasd = 1; bool hasb;                   /* P's entry of b; objects of d and b that P can reach */
bool clk; byte ccnt; bool chasd; bool chasb; bool born; /* the child's copies */
byte done;

#define LOCK atomic { !lk -> lk = 1 }
#define UNLOCK lk = 0
#define ENTER busy = 1; do :: pending -> busy = 0; !pending; busy = 1 :: !pending -> break od
#define LEAVE busy = 0
#define CHK assert(!(chasd && born && !(md & 2))); assert(!(chasb && born && !(mb & 2))); \
            assert(!(hasd && !(md & 1))); assert(!(hasb && !(mb & 1)))

proctype lane() {
    byte n; bool slow;
    do
    :: n < 2 ->
        n++;
        ENTER;
        if
        :: hasd && !mark -> atomic { hasd = 0; md = 0; CHK }
        :: hasd && mark ->                            /* slow release */
#ifdef M_REVERSE
            LOCK;
            atomic { hasd = 0; md = md & ~1; CHK };
            UNLOCK
#else
            LEAVE;
            LOCK;
            ENTER;
            atomic { hasd = 0; md = md & ~1; CHK };
            UNLOCK
#endif
        :: !hasd && md == 0 -> mark = 0; atomic { assert(md == 0); md = 1; hasd = 1 }
        :: else
        fi;
        LEAVE
    :: n < 2 ->                                     /* cut or adopt */
        n++;
#ifdef M_PASSINSIDE
        ENTER;
        !lk;
        LEAVE
#else
        !lk;
        ENTER;
        LEAVE
#endif
    :: n == 2 -> break
    od;
    done++
}
proctype acquirer() {
    LOCK;
    mb = mb | 1;
    atomic { cnt = 1; hasb = 1 };
    UNLOCK;
    if
    :: 1 -> LOCK; atomic { cnt--; hasb = 0 }; mb = mb & ~1; UNLOCK
    :: 1
    fi;
    done++
}
proctype ender() {
#ifdef M_REGISTRYLAST
    LOCK;
    atomic { !reg -> reg = 1 };
#else
    atomic { !reg -> reg = 1 };
    LOCK;
#endif
    UNLOCK;
    reg = 0;
    done++
}
proctype child() {
    /* handler */
#ifndef M_KEPT
    clk = 0;
#endif
    /* and first use of a lock */
    atomic { !clk -> clk = 1 };
    if
    :: chasb -> ccnt--; atomic { assert(ccnt == 0); chasb = 0; mb = mb & ~2 }
    :: else
    fi;
    clk = 0;
    if :: chasd -> atomic { chasd = 0; md = md & ~2; CHK } :: else fi;
    assert(!(mb & 2) && !(md & 2));                 /* nothing stamped that the child can't reach */
    done++
}
proctype forker() {
#ifdef M_PENDINGFIRST
    pending = 1;
#endif
    atomic { !reg -> reg = 1 };
#ifndef M_NOLOCKS
    LOCK;
#endif
    pending = 1;
    !busy;
    if :: md & 1 -> mark = 1; md = md | 2 :: else fi;
    if :: mb & 1 -> mb = mb | 2 :: else fi;
    atomic { born = 1; clk = lk; ccnt = cnt; chasd = hasd; chasb = hasb; CHK; run child() };
    pending = 0;
#ifndef M_NOLOCKS
    UNLOCK;
#endif
    reg = 0;
    done++
}
proctype last() {
    timeout ->
    assert(done == 5);                              /* nobody is stuck */
    assert(((mb & 1) != 0) == hasb); assert(((md & 1) != 0) == hasd)
}
init { atomic { if :: mark = 1 :: 1 fi; run lane(); run acquirer(); run ender(); run forker(); run last() } }
