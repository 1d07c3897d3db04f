/* Touch words (I8), hints, and the rescan before growth (design, section 1).
 *
 * A acquires (touch word first, then mask) and releases, or is killed at any step; the reaper looks only where the touch word says;
 * the owner O lets go of its exported block and rescans when the unit's hint has moved (it notes the hint before it looks at the
 * masks), and once before it grows.
 *
 * Invariants: nothing of the dead stays; no free block is lost.
 * Mutants: M_TOUCHLATE (touch after mask)  M_NOSCAN with M_REAPNOHINT or M_HINTLATE (no rescan before growth, and a hint is missed)
 *   M_TOUCHFIRST (the reaper clears the touch word before the mask and is killed: a second reaper skips the unit)
 */
byte mask = 1; byte touch = 1; byte hint = 1; byte last;
bool dead; bool rdead; bool fb;

proctype A() provided (!dead) {
#ifdef M_TOUCHLATE
    atomic { mask != 0 -> mask = mask | 2 };
    touch = touch | 2;
#else
    touch = touch | 2;
    atomic { mask != 0 -> mask = mask | 2 };
#endif
    if
    :: 1 -> mask = mask & ~2; if :: mask == 0 -> hint++ :: else fi
    :: 1
    fi
}
proctype O() {
    mask = mask & ~1;
    if :: mask == 0 -> hint++ :: else fi;
    do
    :: hint != last ->
#ifdef M_HINTLATE
        if :: mask == 0 -> fb = 1 :: else fi;
        last = hint
#else
        last = hint;
        if :: mask == 0 -> fb = 1 :: else fi
#endif
    :: timeout -> break
    od;
#ifndef M_NOSCAN
    if :: mask == 0 -> fb = 1 :: else fi;       /* rescan before growing */
#endif
    assert(!(dead && (mask & 2)));
    assert(!(mask == 0 && !fb))
}
inline reap() {
    if
    :: touch & 2 ->
#ifdef M_TOUCHFIRST
        touch = touch & ~2;
#endif
        mask = mask & ~2;
#ifndef M_REAPNOHINT
        hint++;
#endif
        touch = touch & ~2
    :: else
    fi
}
proctype reaper() provided (!rdead) { dead -> reap() }
proctype reaper2() { dead -> reap() }           /* lives for ever */
proctype killer() {
    if :: dead = 1 :: 1 fi;
    if :: rdead = 1 :: 1 fi
}
init { atomic { run A(); run O(); run killer(); run reaper(); run reaper2() } }
