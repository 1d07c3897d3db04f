/* "Exported" marks are one byte a block, set before the exporter lets go (design, section 1).
 *
 * Lane L owns blocks 0 and 1 of one unit.  T, a thread of the same process, holds block 1 too: it exports it and drops its reference
 * while L allocates block 0 and clears that block's mark.  L drops the last reference to block 1: by plain store if it sees no mark.
 * R, another process, acquires block 1 through T's message.
 *
 * Invariant: R's bit is not wiped.   Mutants: M_BITMAP (marks in one word, load / or / store)  M_MARKLATE (mark after letting go)
 */
byte mask[2]; byte expo; byte pref = 2;     /* pref: private count of block 1 */
bool msg; bool rbel;

proctype T() {
    byte x;
#ifdef M_MARKLATE
    msg = 1; pref = pref - 1;
#endif
#ifdef M_BITMAP
    x = expo; expo = x | 2;
#else
    expo = expo | 2;
#endif
#ifndef M_MARKLATE
    msg = 1; pref = pref - 1
#endif
}
proctype L() {
    byte x;
#ifdef M_BITMAP
    x = expo; expo = x & ~1;
#else
    expo = expo & ~1;
#endif
    mask[0] = 1;
    atomic { pref = pref - 1 };
    pref == 0 ->                            /* in truth whoever drops the last one; here L */
    if
    :: expo & 2 -> mask[1] = mask[1] & ~1
    :: else -> atomic { mask[1] = 0; assert(!(rbel && !(mask[1] & 2))) }
    fi
}
proctype R() {
    byte m;
    msg -> m = mask[1];
    do
    :: m == 0 -> break
    :: m != 0 -> atomic { if :: mask[1] == m -> mask[1] = m | 2; rbel = 1; break :: else -> m = mask[1] fi }
    od
}
init { atomic { mask[1] = 1; expo = 1; run T(); run L(); run R() } }
