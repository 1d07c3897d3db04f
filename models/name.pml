/* Names and their reserved bit N: the table of names changes under one word tagged with the changer's slot (design, sections 1 and 5).
 *
 * Block b has the name n1 (bit N = 4) and a holder, 2.  One process takes n1 away, while another holds b, gives it a second name n2 and
 * lets go; a third changes the table last.  A kill may fall between any two steps; whoever finds the word with a dead tag takes it
 * over, and first brings N of the blocks named into line with the table.
 *
 * Rules: naming sets N, then writes the entry; taking away removes the entry, then clears N if no entry is left.  A holder lets go only
 * after that.  So a kill leaves at most an N without a name.
 * Invariants: a name implies N; at the end N implies a name.   Mutants: M_NOWORD (no changer's word)  M_ENTRYFIRST (entry before N)
 *   M_CLEARFIRST (N cleared before the entry goes)  M_NOREPAIR (the taker-over repairs nothing)
 */
byte mask = 4 | 2; bool n1 = 1; bool n2;
byte word;              /* changer's slot + 1 */
bool dead[3];

#define CHK assert(!((n1 || n2) && !(mask & 4)))
inline repair() {
#ifndef M_NOREPAIR
    if :: (mask & 4) && !n1 && !n2 -> mask = mask & ~4 :: else fi
#else
    skip
#endif
}
inline enter(p) {
#ifdef M_NOWORD
    skip
#else
    if
    :: atomic { word == 0 -> word = p + 1 }
    :: atomic { word && dead[word-1] -> word = p + 1 }; repair()
    fi
#endif
}
#define LEAVE word = 0

proctype unnamer() provided (!dead[0]) {
    enter(0);
#ifdef M_CLEARFIRST
    if :: n2 -> skip :: !n2 -> atomic { mask = mask & ~4; CHK } fi;
    n1 = 0;
#else
    n1 = 0;
    if :: n2 -> skip :: !n2 -> atomic { mask = mask & ~4; CHK } fi;
#endif
    LEAVE
}
proctype namer() provided (!dead[1]) {
    enter(1);
#ifdef M_ENTRYFIRST
    atomic { n2 = 1; CHK }; mask = mask | 4;
#else
    mask = mask | 4; atomic { n2 = 1; CHK };
#endif
    LEAVE;
    atomic { mask = mask & ~2; CHK }
}
/* comes by at the end, lives for ever */
proctype last() {
    timeout -> enter(2); LEAVE;
    if :: dead[1] -> mask = mask & ~2 :: else fi;
    assert(((mask & 4) != 0) == (n1 || n2))
}
proctype killer() {
    if :: atomic { dead[0] = 1 } :: 1 fi;
    if :: atomic { dead[1] = 1 } :: 1 fi
}
init { atomic { run unnamer(); run namer(); run last(); run killer() } }
