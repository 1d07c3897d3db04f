/* Tickets: handles in flight held by the block itself (design, section 5), at one mask word.  Where they are on their way: transit.pml.
 *
 * One block (block 0) and the heap-wide table of entries.  mask: bits of processes 0..5, and T = "some unspent use names this block";
 * free <=> mask = 0, T counts.  Entry: word {seq, state, pay}, changed by CAS only: FREE, CLAIMED (pay = claimer + 1), and live: OPEN (its
 * message is being pickled), SHUT (all other live states), pay = unspent uses > 0; block eb, gen eg, exporter ex, written while claimed.
 * eb = 1: an entry of another block.  All uses of an entry are of one message.  Bucket word {bc, br}: a look reads `br` entries, none if bc = 0.
 *   claim    {s,FREE,0} -> {s+1,CLAIMED,me}; store eb, eg, ex; bucket {bc+1, max(br, e+1)}; publish {s+1,CLAIMED,me} -> {s+1,OPEN,1}
 *   add      (same message) {s,OPEN,u} -> {s,OPEN,u+1}
 *   export   (holding) mark; claim or add; fetch-or T; look: is my entry still there? else settle, the export failed
 *   shut     {s,OPEN,u} -> {s,SHUT,u}; then the message is sent
 *   receive  acquire; CAS one use away if seq matches and it is live; was it the last: lower the bucket, settle
 *   lower    {bc-1, bc-1 = 0 ? 0 : br}
 *   settle   (holding) again: fetch-and ~T; any live entry of {block, gen}? no: done; fetch-or T; look again: yes: done; else again
 *   end      acquire through the entry; CAS the whole word seen -> {s,FREE,0}; lower; settle; drop.  The block's life is over: CAS, lower.
 *            Who ends: expire (any live word), sweep (an OPEN one whose exporter is dead), give back (exporter, its pickling failed)
 *   reap D   D's claims -> {s+1,FREE,0}; D's bit there and block marked: CAS m -> m|mine where D is in m (held: count it), settle; clear
 *            D's bit; drop mine
 *
 * Actors: process 0 is the owner lane; 1..4 others; 5 the last reaper, which runs when all is quiet, sweeps and makes the final checks.
 * Pn = "na,nx,nl,ne,nr,no,ns": allocations, exports, loads, expiries, reapings, entries for the other block, sweeps of process n.
 * HANDLE: entries are published SHUT, one handle a message (`handle()`).  GIVEBACK: picklings may fail.  SEG: each entry is a segment with a
 * bucket of its own; `segs` is raised before an entry there is published.  The private unit lock is not modelled: one thread a process.
 * A kill may fall between any two steps; a killed process runs to its end at once.
 *
 * Invariants: a believer's bit is set; a free block has no sent, unspent handle; a load of one never fails when each is loaded once; nobody
 * spends a use of another message; a message that was pickled has its entries, unless one expired; bc >= live entries and br covers them; at the
 * end no bit is left, T if and only if a live use is, an entry has as many uses as unspent handles, and no OPEN entry of a dead one is left.
 * Ghosts: hs[t] 1 made, 2 sent and unspent, 3 sent and spent or expired, 4 never sent; bel[p]: p believes it holds.
 *
 * Mutants: M_TFIRST (T before the use)  M_NOEXPLOOK  M_NOLOOK2 (no look after T is set again)  M_LOOKFIRST (look, then clear)
 *   M_SPENDFIRST (spend before acquire)  M_SPENDDROP (settle after letting go)  M_NOSETTLE  M_NOSEQ  M_SEQAPART (seq not in the word)
 *   M_EXPNOHOLD  M_EXPBLIND (any word expired)  M_ADDBLIND (state not looked at)  M_OPENALIVE (OPEN of the living swept)
 *   M_RAISELATE (bucket raised after the publish)  M_LOWERFIRST (lowered before the end)  M_RESETAPART (br = 0 by a step of its own)  M_SEGLATE;
 *   with a kill: M_REAPNOT (reaper does not settle)  M_REAPFIRST (D's bit before settling)  M_REAPLOWER (a claim of the dead lowers the bucket)
 *   M_MARKLATE  M_NOCLAIM (claims of the dead kept)  M_UNDERD (reaper without a bit of its own)  M_CLAIMBLIND  M_NOSWEEP
 */
#ifndef NE
#define NE 1         /* entries */
#endif
#ifndef NH
#define NH 2         /* handles */
#endif
#ifndef MAXK
#define MAXK 1       /* kills */
#endif
#define F 5
#define T 64
#define B(p) (1<<(p))
#define FREE 0
#define CLAIMED 1
#define OPEN 2
#define SHUT 3
#ifdef HANDLE
#define FRESH SHUT
#else
#define FRESH OPEN
#endif
#ifdef SEG
#define NB NE
#define BU(e) (e)
#define FAR(e) 1
#else
#define NB 1
#define BU(e) 0
#define FAR(e) (e+1)
#endif

byte mask; byte gen; bool mark;
byte seq[NE]; byte st[NE]; byte pay[NE]; bit eb[NE]; byte eg[NE]; byte ex[NE];
byte bc[NB]; byte br[NB];
#ifdef SEG
byte segs = 1;
#endif
byte hs[NH+1]; byte hg[NH+1]; byte he[NH+1]; byte hq[NH+1]; byte nh;
bool bel[6]; bool dead[6]; bool swept[6]; bool run_[6]; bool blk; byte nk; byte who[9];

#define RECEIVABLE(t) (hs[t]==2 || hs[t]==3)
#if NH==1
#define H_ALL(X) X(1)
#define H_ANY(X) (X(1))
#define H_IF(X) if :: X(1) -> t=1 fi
#define COUNT2(e) (OWED(1,e))
#elif NH==2
#define H_ALL(X) X(1); X(2)
#define H_ANY(X) (X(1) || X(2))
#define H_IF(X) if :: X(1) -> t=1 :: X(2) -> t=2 fi
#define COUNT2(e) (OWED(1,e) + OWED(2,e))
#else
#define H_ALL(X) X(1); X(2); X(3)
#define H_ANY(X) (X(1) || X(2) || X(3))
#define H_IF(X) if :: X(1) -> t=1 :: X(2) -> t=2 :: X(3) -> t=3 fi
#define COUNT2(e) (OWED(1,e) + OWED(2,e) + OWED(3,e))
#endif
#define SENT(t) (hs[t]==2)
#define NOSENT (!H_ANY(SENT))
#define LIVE(e) (st[e]>=OPEN)
#define NAMES(e) (LIVE(e) && eb[e]==0)
#define LIVE0(e) (NAMES(e) && eg[e]==gen)
#define FREE_(e) (st[e]==FREE)
#define OPENED(e) (st[e]==OPEN && eb[e]==0)
#define COVERED(e) (!LIVE(e) || br[BU(e)]>=FAR(e))
#if NE==1
#define E_IF(X) if :: X(0) -> e=0 fi
#define E_ANY(X) (X(0))
#define E_ALL(X) (X(0))
#define ENOUGH (bc[0]>=LIVE(0))
#else
#define E_IF(X) if :: X(0) -> e=0 :: X(1) -> e=1 fi
#define E_ANY(X) (X(0) || X(1))
#define E_ALL(X) (X(0) && X(1))
#ifdef SEG
#define ENOUGH (bc[0]>=LIVE(0) && bc[1]>=LIVE(1))
#else
#define ENOUGH (bc[0]>=LIVE(0)+LIVE(1))
#endif
#endif
#define BCHK assert(ENOUGH && E_ALL(COVERED))
/* a living believer's bit is set; a free block has no sent, unspent handle */
#define BELIEVERS (bel[0] | bel[1]<<1 | bel[2]<<2 | bel[3]<<3 | bel[4]<<4 | bel[5]<<5)
#define CHK assert((mask & BELIEVERS) == BELIEVERS); assert(mask || NOSENT)
#define NOBEL (!bel[0] && !bel[1] && !bel[2] && !bel[3] && !bel[4] && !bel[5])
#define WIPE t=0; e=0; s=0; u=0; c=0; q=0; ret=0; f=0
#define DROP cnt--; if :: cnt==0 -> bel[p]=0; mask=mask & ~B(p); CHK :: else fi
#define THERE(t) (seq[he[t]]==hq[t] && LIVE(he[t]))
#define IN(t) (he[t]==e && hq[t]==seq[e])             /* handle t is of the entry's message */
#define OWED(t,e) (he[t]==e && hq[t]==seq[e] && hs[t]==2)
#define MINE(t) (hq[t] && he[t]==me && hq[t]==mq)     /* of the message under way */
#define STILL (mq && seq[me]==mq && LIVE(me))
#ifdef M_ADDBLIND
#define ADDABLE STILL
#define SHUTDOWN op = 0
#else
#define ADDABLE (mq && seq[me]==mq && st[me]==OPEN)
#define SHUTDOWN op = 0; me = 0; mq = 0
#endif
#ifdef M_NOSEQ
#define USABLE LIVE(he[t])
#else
#define USABLE THERE(t)
#endif
#define REAPABLE(x) (dead[x] && !swept[x] && x!=p)
#define REAP_ANY (REAPABLE(0) || REAPABLE(1) || REAPABLE(2) || REAPABLE(3) || REAPABLE(4))
#ifdef M_NOSWEEP
#define SWEEPER (p != F && ns)
#define SWEPT 1
#else
#define SWEEPER (p != F && ns || p == F && timeout && !REAP_ANY)
#define SWEPT (!E_ANY(OPENED))
#endif
/* one use goes: t's own; of a handle that was loaded before, a companion's (its message was loaded twice: no promise) */
#define MATE(x) (hs[x]==2 && he[x]==he[t] && hq[x]==hq[t])
#define SPENT assert(seq[he[t]] == hq[t]); e = he[t]; pay[e]--; \
    if :: hs[t]==2 -> hs[t]=3 \
       :: else -> assert(H_ANY(MATE)); c = t; H_IF(MATE); hs[t]=3; t = c; c = 0 fi; \
    if :: pay[e] -> skip :: else -> st[e] = FREE fi
#define EXPIRED(t) if :: IN(t) && hs[t]!=4 -> hs[t] = (hs[t]==1 -> 4 : 3) :: else fi
#define GIVEN(t) if :: IN(t) -> assert(hs[t]==1 || hs[t]==4); hs[t]=4 :: else fi
#define UNSENT(t) assert(!IN(t) || hs[t]==1 || hs[t]==4)
/* why an entry ends */
#define EXPIRE 1
#define SWEEP 2
#define GIVE 3

proctype proc(byte p; byte na; byte nx; byte nl; byte ne; byte nr; byte no; byte ns) provided (!blk || dead[who[_pid]]) {
    byte cnt; byte t; byte e; byte s; byte u; byte c; byte q; byte ret; bool f;
    bool op; byte me; byte mq;      /* a message is being pickled; its entry, 0 if it has none */
    {
    skip;
top:    atomic { WIPE };
    do
    /* owner lane */
    :: atomic { na && mask == 0 && !cnt -> na-- };
        atomic { assert(NOBEL && NOSENT && !E_ANY(NAMES)); gen++; mark = 0 };
        atomic { assert(mask == 0); mask = B(p); cnt = 1; bel[p] = 1 }
    :: atomic { p == 0 && cnt == 1 && !mark -> cnt = 0; bel[p] = 0; mask = 0; CHK }             /* never exported: plain store */
    /* release */
    :: atomic { cnt && (p || mark) -> DROP }
    /* export */
    :: atomic { nx && cnt && nh < NH -> nx--; nh++; t = nh; hs[t] = 1; hg[t] = gen;
#ifndef HANDLE
                op = 1;
#endif
#ifndef M_MARKLATE
                mark = 1
#endif
              };
#ifdef M_TFIRST
        mask = mask | T;
#endif
        if :: atomic { ADDABLE -> pay[me]++; he[t] = me; hq[t] = mq }
           :: atomic { !ADDABLE && E_ANY(FREE_) -> E_IF(FREE_); seq[e]++; st[e] = CLAIMED; pay[e] = p+1 };
                eb[e] = 0;
                atomic { eg[e] = gen; ex[e] = p };
#if defined(SEG) && !defined(M_SEGLATE)
                atomic { if :: segs <= e -> segs = e+1 :: else fi };
#endif
#ifndef M_RAISELATE
                atomic { bc[BU(e)]++; if :: br[BU(e)] < FAR(e) -> br[BU(e)] = FAR(e) :: else fi };
#endif
                atomic { assert(st[e] == CLAIMED && pay[e] == p+1); st[e] = FRESH; pay[e] = 1; he[t] = e; hq[t] = seq[e];
#ifndef HANDLE
                    me = e; mq = seq[e];
#endif
#ifndef M_RAISELATE
                    BCHK
#endif
                };
#ifdef M_RAISELATE
                atomic { bc[BU(e)]++; if :: br[BU(e)] < FAR(e) -> br[BU(e)] = FAR(e) :: else fi };
#endif
            :: atomic { !ADDABLE && !E_ANY(FREE_) -> hs[t] = 4; goto top }                        /* table full */
        fi;
#ifndef M_TFIRST
        atomic { mask = mask | T };
#endif
#ifdef M_SEGLATE
        atomic { if :: segs <= he[t] -> segs = he[t]+1 :: else fi };
#endif
#ifdef M_MARKLATE
        mark = 1;
#endif
#ifdef M_NOEXPLOOK
        atomic {
#ifdef HANDLE
            hs[t] = (hs[t] == 1 -> 2 : 3);
#endif
            goto top }
#else
        if :: atomic { THERE(t) ->
#ifdef HANDLE
                assert(hs[t] == 1); hs[t] = 2;                                              /* sent */
#endif
                goto top }
           :: atomic { !THERE(t) -> hs[t] = 4; ret = 1; goto settle }                       /* expired under my hands */
        fi
#endif
#ifndef HANDLE
    /* pickled: shut, and sent */
    :: atomic { op -> e = me;
        if :: STILL -> st[e] = SHUT;
#define SEND(t) if :: MINE(t) && hs[t]==1 -> hs[t] = 2 :: else fi
                H_ALL(SEND)
           :: else ->
#define GONE(t) assert(!MINE(t) || hs[t]!=1)                                            /* only an expiry takes it */
                H_ALL(GONE)
        fi; SHUTDOWN; e = 0 }
#ifdef GIVEBACK
    /* the pickling failed: given back */
    :: atomic { op -> if :: STILL -> e = me; s = mq; u = pay[e]; f = (st[e] == OPEN); c = eg[e]; q = GIVE; SHUTDOWN; goto hold
                         :: else -> SHUTDOWN; goto top fi }
#endif
#endif
    /* receive */
    :: atomic { nl && H_ANY(RECEIVABLE) -> nl--; H_IF(RECEIVABLE) };
#ifdef M_SPENDFIRST
        atomic { if :: USABLE -> f = (hs[t] == 2); SPENT; u = 1 :: else fi };
#endif
        atomic { if :: cnt && gen == hg[t] -> cnt++; goto spend
                   :: cnt && gen != hg[t] -> assert(hs[t] != 2 && !f); goto top
                   :: !cnt && mask -> assert(!(mask & B(p))); mask = mask | B(p)
                   :: !cnt && !mask -> assert(hs[t] != 2 && !f); goto top fi };
        if :: atomic { gen == hg[t] -> cnt = 1; bel[p] = 1; goto spend }
            :: atomic { gen != hg[t] -> assert(hs[t] != 2 && !f) } fi;
        atomic { mask = mask & ~B(p); CHK; goto top };                                    /* undo */
spend:
#ifdef M_SPENDFIRST
        atomic { f = 0; if :: u && st[e] == FREE -> u = 0; ret = 1; goto lower :: else -> goto top fi };
#endif
#ifdef M_SEQAPART
        atomic { if :: seq[he[t]] == hq[t] -> skip :: else -> goto top fi };
        atomic { if :: LIVE(he[t]) -> SPENT
#elif defined(M_LOWERFIRST)
        atomic { if :: USABLE -> if :: pay[he[t]] == 1 -> f = 1; bc[BU(he[t])]-- :: else fi :: else -> goto top fi };
        atomic { if :: USABLE -> SPENT
#else
        atomic { if :: USABLE -> SPENT
#endif
                  ; if :: st[e] == FREE -> ret = 1 :: else -> goto top fi
                :: else -> assert(hs[t] != 2); goto top fi };
#ifdef M_NOSETTLE
        atomic { bc[BU(e)]--; if :: bc[BU(e)] == 0 -> br[BU(e)] = 0 :: else fi };
        goto top;
#endif
#ifdef M_SPENDDROP
        atomic { DROP };
#endif
        goto lower
    /* end: expire, or sweep */
    :: atomic { ne && E_ANY(NAMES) -> ne--; E_IF(NAMES); s = seq[e]; u = pay[e]; f = (st[e] == OPEN); q = EXPIRE };
        c = eg[e];
#ifdef M_EXPNOHOLD
        ret = 1; goto end_;
#endif
        goto hold
    :: atomic { SWEEPER && E_ANY(OPENED) -> if :: p != F -> ns-- :: else fi; E_IF(OPENED); s = seq[e]; u = pay[e]; f = 1; q = SWEEP };
        atomic { c = eg[e];
#ifndef M_OPENALIVE
                 if :: dead[ex[e]] -> skip :: else -> goto top fi
#endif
               };
        goto hold
    :: 0 ->
hold:   atomic { if :: cnt && gen == c -> cnt++; goto end_
                   :: cnt && gen != c -> goto over
                   :: !cnt && mask -> assert(!(mask & B(p))); mask = mask | B(p)
                   :: !cnt && !mask -> goto over fi };
        if :: atomic { gen == c -> cnt = 1; bel[p] = 1; goto end_ } :: gen != c fi;
        atomic { mask = mask & ~B(p); CHK };
over:   ret = 3;                                                                              /* its life is over: nothing to settle */
end_:
#ifdef M_EXPBLIND
        atomic { if :: LIVE(e) ->
#else
        atomic { if :: seq[e] == s && pay[e] == u && (f && st[e] == OPEN || !f && st[e] == SHUT) ->
#endif
                  assert(eb[e] == 0 && eg[e] == c);
                  if :: q == EXPIRE -> H_ALL(EXPIRED) :: q == SWEEP -> H_ALL(UNSENT) :: q == GIVE -> H_ALL(GIVEN) fi;
                  st[e] = FREE; pay[e] = 0; f = 0; q = 0; ret = (ret -> ret : 1)
                :: else -> goto top fi };
lower:
#ifdef M_LOWERFIRST
        atomic { if :: f -> f = 0 :: else -> bc[BU(e)]-- fi; BCHK };
#elif defined(M_RESETAPART)
        atomic { bc[BU(e)]--; f = (bc[BU(e)] == 0) };
        atomic { if :: f -> f = 0; br[BU(e)] = 0 :: else fi; BCHK };
#else
        atomic { assert(bc[BU(e)]); bc[BU(e)]--; if :: bc[BU(e)] == 0 -> br[BU(e)] = 0 :: else fi; BCHK };
#endif
        atomic { e = 0; s = 0; u = 0; c = 0; if :: ret == 3 -> goto top :: ret == 4 -> goto top :: else -> goto settle fi }
    /* settle */
    :: 0 ->
settle:
#ifdef M_LOOKFIRST
        goto look;
clear:  atomic { mask = mask & ~T; CHK; goto settled };
#else
clear:  atomic { mask = mask & ~T; CHK };
#endif
look:
#ifdef SEG
        u = segs;
#endif
        s = (bc[0] -> br[0] : 0);
        if :: s < 1 -> goto no0 :: else fi;
        atomic { if :: LIVE(0) -> skip :: else -> goto no0 fi };
        if :: eb[0] == 0 -> skip :: else -> goto no0 fi;
        atomic { if :: eg[0] == gen -> goto yes :: else -> skip fi };
no0:
#if NE==2
#ifdef SEG
        if :: u < 2 -> goto no1 :: else fi;
        s = (bc[1] -> 2*br[1] : 0);
#endif
        if :: s < 2 -> goto no1 :: else fi;
        atomic { if :: LIVE(1) -> skip :: else -> goto no1 fi };
        if :: eb[1] == 0 -> skip :: else -> goto no1 fi;
        atomic { if :: eg[1] == gen -> goto yes :: else -> skip fi };
no1:
#endif
#ifdef M_LOOKFIRST
        goto clear;
yes:    goto settled;
#else
        atomic { if :: f -> f = 0; goto clear :: else -> goto settled fi };
yes:    atomic { if :: f -> goto settled :: else -> f = 1 fi };
        atomic { mask = mask | T; CHK };
#ifdef M_NOLOOK2
        goto settled;
#endif
        goto look;
#endif
settled: atomic { f = 0; s = 0; u = 0; if :: ret == 2 -> goto kclr :: else -> goto top fi }
    /* entries for another block */
    :: atomic { no && E_ANY(FREE_) -> no--; E_IF(FREE_); seq[e]++; st[e] = CLAIMED; pay[e] = p+1; s = seq[e] };
        eb[e] = 1;
        atomic { eg[e] = 1; ex[e] = p };
#ifdef SEG
        atomic { if :: segs <= e -> segs = e+1 :: else fi };
#endif
        atomic { bc[BU(e)]++; if :: br[BU(e)] < FAR(e) -> br[BU(e)] = FAR(e) :: else fi };
        atomic { assert(st[e] == CLAIMED && pay[e] == p+1); st[e] = SHUT; pay[e] = 1; BCHK };
        atomic { if :: seq[e] == s && LIVE(e) -> st[e] = FREE; pay[e] = 0; ret = 4; goto lower :: else -> goto top fi }
    /* reap */
    :: atomic { nr && REAP_ANY && (p != F || timeout) -> nr--;
         if :: REAPABLE(0) -> q = 0 :: REAPABLE(1) -> q = 1 :: REAPABLE(2) -> q = 2 :: REAPABLE(3) -> q = 3 :: REAPABLE(4) -> q = 4 fi };
#ifdef M_REAPLOWER
#define UNCLAIM(e) seq[e]++; st[e] = FREE; pay[e] = 0; if :: bc[BU(e)] -> bc[BU(e)]-- :: else fi; BCHK
#else
#define UNCLAIM(e) seq[e]++; st[e] = FREE; pay[e] = 0
#endif
#define CLAIM_OF(e) (st[e] == CLAIMED && pay[e] == q+1)
#ifndef M_NOCLAIM
#ifdef M_CLAIMBLIND
        atomic { if :: CLAIM_OF(0) -> f = 1 :: else fi };
        atomic { if :: f -> UNCLAIM(0); f = 0 :: else fi };
#else
        atomic { if :: CLAIM_OF(0) -> UNCLAIM(0) :: else fi };
#endif
#if NE==2
        atomic { if :: CLAIM_OF(1) -> UNCLAIM(1) :: else fi };
#endif
#endif
        atomic { if :: mask & B(q) -> skip :: else -> goto kdone fi };
        atomic { if :: mark -> skip :: else -> goto kclr fi };
#ifdef M_REAPFIRST
        atomic { mask = mask & ~B(q); CHK };
#endif
#ifdef M_REAPNOT
        goto kclr;
#endif
#if defined(M_UNDERD) || defined(M_REAPFIRST)
        ret = 2; goto settle;
#endif
        atomic { if :: cnt -> cnt++
                   :: else -> if :: mask & B(q) ->
                            assert(!(mask & B(p))); mask = mask | B(p); cnt = 1; bel[p] = 1 :: else -> goto kdone fi fi;
                ret = 2; goto settle };
kclr:   atomic { mask = mask & ~B(q); CHK };
kdone:  atomic { swept[q] = 1; goto top }
    /* end */
    :: atomic { p != F && !cnt && !op -> run_[p] = 0; me = 0; mq = 0; break }
    :: atomic { p == F && !cnt && timeout && !REAP_ANY && SWEPT ->
         assert(!run_[0] && !run_[1] && !run_[2] && !run_[3] && !run_[4]);             /* nobody is stuck */
         assert((mask & ~T) == 0);                                                         /* no bit is left */
         assert((mask == T) == E_ANY(LIVE0));                                              /* T iff a live use */
         assert(E_ANY(LIVE0) == E_ANY(NAMES));
         assert(!E_ANY(OPENED));                                                           /* no OPEN of the dead */
#define UNCLAIMED(e) (st[e] != CLAIMED)
         assert(E_ALL(UNCLAIMED));
#ifdef HANDLE
#define EXACT(e) 1
#else
#define EXACT(e) (!NAMES(e) || pay[e] == COUNT2(e))
#endif
         assert(E_ALL(EXACT));
         BCHK;
         break }
    od;
    skip
    } unless { dead[p] };
    atomic { cnt = 0; na = 0; nx = 0; nl = 0; ne = 0; nr = 0; no = 0; ns = 0; op = 0; me = 0; mq = 0; WIPE; blk = 0 }
}

#define SLAY(x) run_[x] -> dead[x]=1; run_[x]=0; bel[x]=0; nk++; blk=1
proctype killer() provided (!blk) {
    do :: atomic { nk < MAXK && (run_[0] || run_[1] || run_[2] || run_[3] || run_[4]) ->
         if :: SLAY(0) :: SLAY(1) :: SLAY(2) :: SLAY(3) :: SLAY(4) fi } od }

#define START(p, ...) run_[p] = 1; i = run proc(p, __VA_ARGS__); who[i] = p
init { atomic {
    byte i;
#ifdef P0
    START(0, P0);
#endif
#ifdef P1
    START(1, P1);
#endif
#ifdef P2
    START(2, P2);
#endif
#ifdef P3
    START(3, P3);
#endif
#ifdef P4
    START(4, P4);
#endif
    i = run proc(F, 0, 0, 0, 0, 9, 0, 0); who[i] = F; i = 0;
    run killer()
    } }
