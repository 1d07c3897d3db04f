/* The lane's bracket on a machine that buffers stores (TSO): busy flag, membarrier, pending (design, section 3).
 *
 * The lane's stores go through a FIFO buffer; membarrier waits until that is empty.  The lane frees a block by a plain store inside its
 * bracket; the forker sets pending, membarriers, waits for busy = 0, stamps the child's bit.
 *
 * Invariant: a plain store does not land on a stamped mask.
 * Mutants: M_NOMEMBARRIER  M_CHECKFIRST (pending looked at before busy is set)  M_BUSYEARLY (busy = 0 before the store)
 */
byte mask = 1; bool pending; bool busy; bool stamped;
chan buffer = [3] of { byte };              /* 1: busy = 1, 2: mask = 0, 3: busy = 0 */

proctype drain() {
    byte v;
end:
    do
    :: atomic { buffer?v -> if :: v == 1 -> busy = 1 :: v == 2 -> mask = 0; assert(!stamped) :: v == 3 -> busy = 0 fi }
    od
}
proctype lane() {
    bool p;
    do
    ::
#ifdef M_CHECKFIRST
        p = pending; buffer!1;
#else
        buffer!1; p = pending;
#endif
        if :: p -> buffer!3; !pending :: !p -> break fi
    od;
    if
    :: stamped -> buffer!3                  /* sees the private mark behind the bracket: fetch-and instead */
    :: else ->
#ifdef M_BUSYEARLY
        buffer!3; buffer!2
#else
        buffer!2; buffer!3
#endif
    fi
}
proctype forker() {
    pending = 1;
#ifndef M_NOMEMBARRIER
    empty(buffer);
#endif
    !busy;
    atomic { if :: mask & 1 -> stamped = 1; mask = mask | 2 :: else fi };
    pending = 0
}
init { atomic { run drain(); run lane(); run forker() } }
