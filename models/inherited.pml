/* A handle to a small block whose bit the process has by fork: "own bit set, no entry" (design, section 1, acquire).
 *
 * After a fork, parent P (bit 1, owner lane) and child C (bit 2) hold block b of life 1 by their memory alone: bits and mark are set,
 * neither has an entry in its private table.  A handle of it is about.
 *
 * Actors: of each process one thread that drops the inherited reference (P's goes on as the owner lane: new private lives, some
 * exported), and one that loads any handle and drops what it got.  A kill freezes both threads of a process between any two steps.
 *
 * Rules: a release without an entry is the last one; an acquirer that finds its own bit and no entry looks at gen again: still g ->
 * inherited, entry with count 2; else stale; in neither case does it touch the bit.  Everything under the private unit lock, but for the
 * lane's plain stores on private lives.
 *
 * Invariants: who believes has its bit; no life begins while somebody believes in the former; a load does not fail while the process
 * itself holds the life or somebody surely does; at the end a bit is set if and only if a live believer has it.
 *
 * Mutants: M_STALE (own bit without entry is always stale)  M_COUNT1 (entry with count 1)  M_NOGEN (gen not looked at again)
 *   M_UNDO (the stale one clears the bit)  M_NOLOCK
 */
#ifndef NT
#define NT 3            /* lives */
#endif
#ifndef NACQ
#define NACQ 2
#endif
#ifndef MAXK
#define MAXK 1
#endif
#define B(p) (1 << (p))
byte mask; byte gen = 1; bool mark = 1;
bool lk[2]; byte cnt[2]; byte tgen[2]; bool inh[2];     /* private: lock, entry, inherited or private reference without entry */
byte tag = 1; byte bel[2];                              /* ghosts: the life (gen is its number), references believed in */
bool pub[NT+2]; bool dead[3]; bool reaped[2]; byte nk; byte pp[8];

#define CHK assert(!(bel[0] && !(mask & 1))); assert(!(bel[1] && !(mask & 2)))
#define CLR(p) atomic { mask = mask & ~B(p); CHK }
#ifdef M_NOLOCK
#define LOCK(p) skip
#define UNLOCK(p) skip
#else
#define LOCK(p) atomic { !lk[p] -> lk[p] = 1 }
#define UNLOCK(p) lk[p] = 0
#endif

/* drops one reference; bel goes first: from then on the process needs the block no longer */
inline release(p) {
    LOCK(p);
    atomic { bel[p]--; if :: cnt[p] -> cnt[p]--; last = (cnt[p] == 0) :: else -> last = 1 fi };
    if :: last -> CLR(p) :: else fi;
    atomic { last = 0; UNLOCK(p) }
}

proctype owner(byte p) provided (!dead[pp[_pid]]) {
    bool last; bool ht = 1;
    do
    :: ht && mark -> ht = 0; release(p)
    :: ht && !mark -> atomic { ht = 0; bel[p]--; mask = 0; CHK }            /* plain store */
    :: ht && !pub[gen] ->                                                   /* export */
        mark = 1;
        LOCK(p);
        atomic { cnt[p]++; tgen[p] = gen; if :: cnt[p] > 1 -> assert(0) :: else fi };
        UNLOCK(p);
        pub[gen] = 1
    :: !ht && tag < NT && mask == 0 ->
        gen = gen + 1;
        mark = 0;
        atomic { assert(mask == 0 && !bel[0] && !bel[1]); mask = B(p); tag++; bel[p]++; ht = 1 }
    :: break
    od
}
proctype dropper(byte p) provided (!dead[pp[_pid]]) {
    bool last;
    if :: release(p) :: 1 fi
}
proctype loader(byte p) provided (!dead[pp[_pid]]) {
    byte n; byte g; byte m; bool last; bool sure;
    do
    :: n < NACQ ->
        atomic {
            n++;
            if :: pub[1] -> g = 1 :: pub[2] -> g = 2
#if NT > 2
               :: pub[3] -> g = 3
#endif
            fi };
        LOCK(p);
        atomic {
            sure = (bel[p] && gen == g && mark);    /* this process holds it, and its other thread can't let go: the lock is mine */
            if
            :: cnt[p] && tgen[p] == g -> cnt[p]++; bel[p]++; assert(gen == g); goto got
            :: cnt[p] && tgen[p] != g -> goto stale
            :: else
            fi };
retry:  if :: gen != g -> goto stale :: else fi;
        m = mask;
        if
        :: m == 0 -> goto stale
        :: m & B(p) ->                              /* own bit, no entry */
#ifdef M_STALE
            goto stale;
#endif
#ifdef M_NOGEN
            atomic { cnt[p] = 2; tgen[p] = g; bel[p]++; assert(gen == g); goto got };
#endif
            atomic {
                if
                :: gen == g ->
#ifdef M_COUNT1
                    cnt[p] = 1;
#else
                    cnt[p] = 2;
#endif
                    tgen[p] = g; bel[p]++; goto got
                :: else -> skip
                fi };
#ifdef M_UNDO
            CLR(p);
#endif
            goto stale
        :: else
        fi;
        atomic { if :: mask == m -> mask = m | B(p) :: else -> goto retry fi };
        atomic { if :: gen == g -> cnt[p] = 1; tgen[p] = g; bel[p]++; goto got :: else fi };
        CLR(p);
stale:  atomic { assert(!sure); sure = 0; m = 0; UNLOCK(p); goto next };
got:    atomic { sure = 0; m = 0; UNLOCK(p) };
        if :: release(p) :: break fi;
next:   g = 0
    :: break
    od
}
#define SLAY(p) !dead[p] -> dead[p] = 1; bel[p] = 0; nk++
proctype killer() { do :: atomic { nk < MAXK -> if :: SLAY(0) :: SLAY(1) fi } :: break od }
proctype reaper() {
    do
    :: atomic { dead[0] && !reaped[0] -> reaped[0] = 1; mask = mask & ~1; CHK }
    :: atomic { dead[1] && !reaped[1] -> reaped[1] = 1; mask = mask & ~2; CHK }
    :: timeout -> assert(((mask & 1) != 0) == (bel[0] > 0)); assert(((mask & 2) != 0) == (bel[1] > 0)); break
    od
}
init {
    atomic {
        byte i;
#define RUN(x, p) i = run x; pp[i] = p
        mask = 3; bel[0] = 1; bel[1] = 1; pub[1] = 1;
        RUN(owner(0), 0); RUN(loader(0), 0); RUN(dropper(1), 1); RUN(loader(1), 1);
        i = run killer(); pp[i] = 2; i = run reaper(); pp[i] = 2
    }
}
