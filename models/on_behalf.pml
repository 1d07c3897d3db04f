/* A bit set "on behalf of another" on a run: the stamp of a fork, a name (N), a ticket (T); its touch word; the reaper (design, section 1).
 *
 * One run with life 1 and two mask words (-DW1: one).  Slots: X (word 0), a taker; A (word 0) holds at the start; H (word 1) acquires, sets O (word
 * 0) on behalf of another, lets go.  O is a child's slot, or (NAME) the bit N, which stands as long as the table has a name, and which the changer
 * of names clears without holding the run.
 *
 * Rules: set O's touch bit, then O, abort a closing, only then let go of one's own.  X: fetch-or (W1: CAS from 0), scan, close, scan, commit.
 * An embryo lives and dies with its parent till it is born.  Kills: X, A, H, O at any step; the reaper goes by the touch word, clears masks
 * first, the touch word last.
 *
 * Invariants: a commit meets no believer; a believer's bit is set; at the end a bit is set if and only if its slot lives and holds, and N if
 * and only if there is a name.
 *
 * Mutants: M_DROPFIRST (lets go before O is set)  M_TOUCHLATE (O before its touch bit)  M_NOABORT (the closing is left: X's scan straddles
 *   "O set, H gone"; at one word, where the scan is one load, it would do)
 */
#define X 0
#define A 1
#define H 2
#define O 3
#ifdef W1
#define WD(p) 0
#define BT(p) (1 << (p))
#else
#define WD(p) ((p) == H -> 1 : 0)
#define BT(p) (1 << (p))
#endif
#define OPEN(g) (2*(g))
#define CLOS(g) (2*(g) + 1)
#ifndef MAXK
#define MAXK 1
#endif
byte m[2]; byte gen = 2; byte touch = 1 << A;
bool bel[4]; bool life = 1; bool dead[5]; bool reaped[4]; bool alive[4]; byte pp[9]; byte nk;
bool named; bool word;              /* NAME: the table's entry; the changer's word, held by H */

#define CHK assert(!bel[A] || (m[WD(A)] & BT(A))); assert(!bel[H] || (m[WD(H)] & BT(H))); assert(!(bel[O] || named) || (m[WD(O)] & BT(O)))
#define CLR(p) atomic { m[WD(p)] = m[WD(p)] & ~BT(p); CHK }
#define SCAN(p) if :: m[0] & ~BT(p) -> goto undo :: else fi; if :: m[1] & ~(WD(p) == 1 -> BT(p) : 0) -> goto undo :: else fi

proctype taker(byte p) provided (!dead[pp[_pid]]) {
    byte g; byte n;
    do
    :: n < 2 ->
        n++;
        touch = touch | BT(p);
#ifdef W1
        atomic { if :: m[0] == 0 -> m[0] = BT(p) :: else -> goto next fi };
#else
        m[0] = m[0] | BT(p);
        SCAN(p);
#endif
        g = gen;
        atomic { if :: gen == g -> g = g/2; gen = CLOS(g) :: else -> goto undo fi };
        SCAN(p);
        atomic { if :: gen == CLOS(g) -> gen = OPEN(g+1); assert(!bel[A] && !bel[H] && !bel[O] && !named); life = 0 :: else -> goto undo fi };
undo:   CLR(p);
next:   g = 0
    :: break
    od
}
proctype holder(byte p) provided (!dead[pp[_pid]]) {
    bel[A] = 0;
    CLR(p)
}
proctype behalf(byte p) provided (!dead[pp[_pid]]) {
    byte x;
    touch = touch | BT(p);
#ifdef W1
retry:
    x = m[0];
    if :: x == 0 -> goto out :: else fi;
    atomic { if :: m[0] == x -> m[0] = x | BT(p) :: else -> goto retry fi };
#else
    m[1] = m[1] | BT(p);
#endif
look:
    x = gen;
    if
    :: x == OPEN(1) -> atomic { assert(life); bel[H] = 1 }
    :: x == CLOS(1) -> atomic { if :: gen == x -> gen = OPEN(1) :: else fi }; goto look
    :: else -> CLR(p); goto out
    fi;
#ifdef NAME
    word = 1;
#endif
#ifdef M_DROPFIRST
    bel[H] = 0;
    CLR(p);
#endif
    /* on behalf */
#ifdef M_TOUCHLATE
    m[WD(O)] = m[WD(O)] | BT(O);
    touch = touch | BT(O);
#else
#ifndef NAME
    touch = touch | BT(O);
#endif
    m[WD(O)] = m[WD(O)] | BT(O);
#endif
#ifndef M_NOABORT
    atomic { if :: gen == CLOS(1) -> gen = OPEN(1) :: else fi };
#endif
#ifdef NAME
    atomic { named = 1; assert(life); CHK; word = 0 };
#else
    atomic { alive[O] = 1; bel[O] = 1; assert(life); CHK };     /* born */
#endif
#ifndef M_DROPFIRST
    bel[H] = 0;
    CLR(p);
#endif
out:
    skip
}
proctype other(byte p) provided (!dead[pp[_pid]]) {
#ifdef NAME
    named && !word -> named = 0; CLR(p)             /* unnamed */
#else
    bel[O] -> if :: atomic { bel[O] = 0; CHK }; CLR(p) :: 1 fi
#endif
}
#define SLAY(p) !dead[p] -> dead[p] = 1; bel[p] = 0; nk++
proctype killer() {
    do
    :: atomic { nk < MAXK ->
        if
        :: SLAY(X) :: SLAY(A)
#ifdef NAME
        :: SLAY(H)
#else
        :: SLAY(H); if :: !alive[O] && !dead[O] -> dead[O] = 1 :: else fi
        :: alive[O] && SLAY(O)
#endif
        fi }
    :: break
    od
}
#ifdef NAME
#define REAPABLE(p) (dead[p] && !reaped[p] && p != O)
#else
#define REAPABLE(p) (dead[p] && !reaped[p])
#endif
#define END(p) assert(((m[WD(p)] & BT(p)) != 0) == bel[p])
proctype reaper() {
    byte q;
    do
    :: atomic { REAPABLE(0) || REAPABLE(1) || REAPABLE(2) || REAPABLE(3) ->
            if :: REAPABLE(0) -> q = 0 :: REAPABLE(1) -> q = 1 :: REAPABLE(2) -> q = 2 :: REAPABLE(3) -> q = 3 fi };
        if :: touch & BT(q) -> CLR(q); touch = touch & ~BT(q) :: else fi;
        atomic { reaped[q] = 1; q = 0 }
    :: timeout -> break
    od;
#ifdef NAME
    /* the next changer takes the dead one's word over and brings N into line (name.pml) */
    if :: word && !named -> word = 0; CLR(O) :: else fi;
    assert(((m[WD(O)] & BT(O)) != 0) == named);
#else
    END(O);
#endif
    END(X); END(A); END(H)
}
init {
    atomic {
        byte i;
#define RUN(x, p) i = run x; pp[i] = p
        m[0] = BT(A); bel[A] = 1;
        RUN(taker(X), X); RUN(holder(A), A); RUN(behalf(H), H); RUN(other(O), O);
        i = run killer(); pp[i] = 4; i = run reaper(); pp[i] = 4
    }
}
