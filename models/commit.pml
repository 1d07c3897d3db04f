/* Commit and punch of one unit, by whoever holds it exclusively (design, sections 1 and 2).
 *
 * Two bits a unit: C, committed (no fault can fail); D, may have pages.  The page is a hole (0), zero (1) or dirty (2).  Read D first:
 * D = 0 says "known to be zero, and no page".  Then D = 1, fallocate, C = 1.  Punch: C = 0, punch, D = 0.
 *
 * Actors: two holders in turn, each may be killed between any two steps (the hold is dropped, nothing is repaired); a decayer takes
 * the unit like anyone else, and punches when D = 1: at the end it must have got all memory back.
 *
 * Invariants: a write meets no hole when C = 1; "known to be zero" is true; D = 0 implies no page (else memory would be lost: trim and
 * decay look for D = 1); C = 1 implies a page.
 *
 * Mutants: M_CFIRST (C before fallocate)  M_DLATE (D after fallocate: a kill between leaves pages nobody finds)  M_DAFTERWRITE
 *   M_PUNCHFIRST (punch before C = 0)  M_ONESTEP (C and D cleared together, before the punch)  M_AFTERRELEASE (punch without holding)
 */
#define FREE 9
bool C; bool D; byte page; byte own = FREE;
bool dead[2]; bool zero[3]; byte who[6];

#define CHK assert(!C || page); assert(D || !page)
#define SET(x) atomic { x; CHK }

inline punch(p) {
#if defined(M_PUNCHFIRST)
    SET(page = 0); SET(C = 0); SET(D = 0)
#elif defined(M_ONESTEP)
    SET(C = 0; D = 0); SET(page = 0)
#else
    SET(C = 0); SET(page = 0); SET(D = 0)
#endif
}
proctype holder(byte p) provided (!dead[who[_pid]]) {
    byte n;
    do
    :: n < 3 ->
        n++;
        atomic { if :: own == FREE -> own = p :: else -> goto next fi };
        zero[p] = !D;
        if
        :: C -> skip
        :: else ->
#if defined(M_CFIRST)
            D = 1; SET(C = 1); SET(page = (page == 0 -> 1 : page))
#elif defined(M_DLATE)
            SET(page = (page == 0 -> 1 : page)); D = 1; C = 1
#elif defined(M_DAFTERWRITE)
            SET(page = (page == 0 -> 1 : page)); SET(C = 1)
#else
            SET(D = 1); SET(page = (page == 0 -> 1 : page)); SET(C = 1)
#endif
        fi;
        atomic { assert(!zero[p] || page == 1); zero[p] = 0 };      /* handed out as zeros */
        if :: atomic { assert(page); page = 2 } :: 1 fi;            /* written, or not */
#ifdef M_DAFTERWRITE
        D = 1;
#endif
#ifdef M_AFTERRELEASE
        atomic { own = FREE };
        punch(p);
#else
        if :: punch(p) :: 1 fi;
        assert(own == p);
        own = FREE;
#endif
next:   skip
    :: break
    od
}
proctype killer() {
    if :: atomic { dead[0] = 1; zero[0] = 0 } :: 1 fi;
    if :: atomic { dead[1] = 1; zero[1] = 0 } :: 1 fi
}
/* a reaper drops the hold of the dead */
proctype reaper() {
    do
    :: atomic { own < 2 && dead[own] -> own = FREE }
    :: timeout -> break
    od;
    assert(own == FREE);
    if :: D -> punch(2) :: else fi;                                 /* decay */
    assert(page == 0)
}
init { atomic { byte i; i = run holder(0); who[i] = 0; i = run holder(1); who[i] = 1; run killer(); run reaper() } }
