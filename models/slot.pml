/* A process slot: claim, death, reaping, re-use of the number, with a stopped reaper (design, section 3).
 *
 * One contested slot (number 0) and two words that name it (bit 0 of two masks).  The slot's word is {state, incarnation}, changed by
 * CAS; `olock` is the holder of the kernel's lock on the slot's byte, which death drops.
 *
 * Actors: clients 0..1 (2 with C3) claim the slot one after the other; reapers 3 and 4, which have slots of their own; with STOP,
 * reaper 3 may be stopped for ever without dying.  A kill freezes a process between any two steps.
 *
 * Rules: lock, then CAS FREE(k) -> LIVE(k).  Reap: announce {slot, k} in one's own slot, re-check DEAD(k), clear, CAS to CLOSING(k),
 * withdraw; CLOSING(k) -> FREE(k+1) when no live process announces it.
 *
 * Invariants: a live client's bits stay set; nothing names a free slot (I7); a stopped reaper hinders at most the re-use of the
 * number: the dead one's bits are gone all the same.
 *
 * Mutants: M_CLAIMFIRST (claim before lock)  M_NOINC (the incarnation is not compared)  M_FREEFIRST (free before clearing)
 *   M_NOANN (no announcement)  M_NORECHECK (no re-check after announcing)  M_NOTEST (the lock is not tested: the living is reaped)
 *   M_EXCLUSIVE with STOP (one reaper at a time: the stopped one blocks the rest)
 */
#define FREE 0
#define LIVE 1
#define DEAD 2
#define CLOSING 4
#ifndef NR
#define NR 2            /* tries of a reaper */
#endif
#ifndef MAXK
#define MAXK 2
#endif
#define NONE 9

byte st; byte inc; byte olock = NONE;
byte mask[2];
bool dead[5]; bool stopped[5]; byte who[12]; byte nk;
byte bel[3];            /* ghost: blocks that a client believes it holds */
byte ann[2];            /* announced incarnation + 1 of each reaper */

#define OK (!dead[who[_pid]] && !stopped[who[_pid]])
#define HELD(c) assert(!((bel[c] & 1) && !(mask[0] & 1))); assert(!((bel[c] & 2) && !(mask[1] & 1)))
#define CHK HELD(0); HELD(1); HELD(2)
#define CLR(b) atomic { mask[b] = mask[b] & ~1; CHK }

proctype client(byte c) provided (OK) {
#ifdef M_CLAIMFIRST
    atomic { st == FREE -> st = LIVE };
    atomic { olock == NONE -> olock = c };
#else
    atomic { olock == NONE && st == FREE -> olock = c };        /* lock; tried again while the slot is not free */
    atomic { assert(st == FREE); st = LIVE; assert(mask[0] == 0 && mask[1] == 0) };     /* I7 */
#endif
    atomic { mask[0] = mask[0] | 1; bel[c] = 1 };
    atomic { mask[1] = mask[1] | 1; bel[c] = bel[c] | 2 };
    if
    :: atomic { dead[c] = 1; bel[c] = 0; if :: olock == c -> olock = NONE :: else fi }  /* exit without tidying */
    :: 1
    fi
}

proctype reaper(byte r) provided (OK) {
    byte s; byte k; byte n;
    do
    :: atomic { n < NR && st != FREE -> n++; s = st; k = inc };
#ifdef M_EXCLUSIVE
        atomic { if :: ann[4-r] && !dead[7-r] -> goto nx :: else fi };
#endif
        if
        :: s == LIVE ->
#ifndef M_NOTEST
            atomic { if :: olock == NONE -> skip :: else -> goto nx fi };
#endif
#ifdef M_NOINC
            atomic { if :: st == LIVE -> st = DEAD; k = inc :: else -> goto nx fi }
#else
            atomic { if :: st == LIVE && inc == k -> st = DEAD :: else -> goto nx fi }
#endif
        :: else -> skip
        fi;
#ifndef M_NOANN
        ann[r-3] = k + 1;
#ifndef M_NORECHECK
        atomic {
            if
            :: st == DEAD && inc == k -> skip
            :: st == CLOSING && inc == k -> ann[r-3] = 0; goto fin
            :: else -> ann[r-3] = 0; goto nx
            fi };
#endif
#endif
#ifdef M_FREEFIRST
        atomic { if :: st == DEAD && inc == k -> st = FREE; inc = k + 1 :: else fi };
#endif
        CLR(0);
        CLR(1);
        atomic { if :: st == DEAD && inc == k -> st = CLOSING :: else fi };
        ann[r-3] = 0;
fin:    atomic { if :: ann[0] == 0 || dead[3] -> skip :: else -> goto nx fi };
        atomic { if :: ann[1] == 0 || dead[4] -> skip :: else -> goto nx fi };
        atomic { if :: st == CLOSING && inc == k -> st = FREE; inc = k + 1 :: else fi };
nx:     skip
    :: n == NR -> break
    od
}

#define SLAY(c) !dead[c] -> dead[c] = 1; nk++; \
    if :: c < 3 -> bel[c] = 0; if :: olock == c -> olock = NONE :: else fi :: else fi
proctype killer() {
    do
    :: nk < MAXK -> atomic { if :: SLAY(0) :: SLAY(1) :: SLAY(2) :: SLAY(3) :: SLAY(4) fi }
    :: break
    od
}
proctype stopper() { if :: stopped[3] = 1 :: 1 fi }

/* When all is quiet a reaper comes by: the dead one's bits go, and the number is free unless a live (stopped) reaper announces it. */
proctype last() {
    timeout -> atomic {
        if
        :: olock == NONE && st != FREE ->
#ifdef M_EXCLUSIVE
            if :: (ann[0] && !dead[3]) || (ann[1] && !dead[4]) -> skip :: else -> mask[0] = 0; mask[1] = 0; st = CLOSING fi;
#else
            if :: st != CLOSING -> mask[0] = 0; mask[1] = 0; st = CLOSING :: else fi;
#endif
            if :: (ann[0] && !dead[3]) || (ann[1] && !dead[4]) -> assert(stopped[3] && (!ann[1] || dead[4])) :: else -> st = FREE fi;
            assert(mask[0] == 0 && mask[1] == 0)
        :: else
        fi }
}

init {
    atomic {
        byte i;
#define RUN(x, p) i = run x; who[i] = p
        RUN(client(0), 0); RUN(client(1), 1);
#ifdef C3
        RUN(client(2), 2);
#endif
        RUN(reaper(3), 3); RUN(reaper(4), 4);
        i = run killer(); who[i] = 0; i = run last();
#ifdef STOP
        i = run stopper()
#endif
    }
}
