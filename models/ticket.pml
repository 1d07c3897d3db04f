/* Tickets: handles in flight held by the block itself (design, section 5), at one mask word.
 *
 * One block (block 0) and the heap-wide table of entries.  mask: bits of processes 0..5, and T = "some unspent ticket names this
 * block"; free <=> mask = 0, T counts.  Entry: word {seq, clm (claimer + 1), made, uses}, changed by CAS only; block eb, gen eg,
 * written while claimed.  eb = 1: an entry of another block.  A handle: {gen, entry, seq, bit}.
 *   claim    {s,0,_,0} -> {s+1,me,0,0}; store eb, eg; publish {s+1,me,0,0} -> {s+1,0,1,bit 0}
 *   add      {s,0,n,u} -> {s,0,n+1,u|bit n}: a bit is given once in a seq
 *   export   (holding) mark; claim or add; fetch-or T; look: my use is still there -> send; else settle, the export failed
 *   receive  acquire; CAS the use away if seq and bit match; left no use in the entry: settle
 *   settle   (holding) again: fetch-and ~T; any use of {block, gen}? no: done; fetch-or T; look again: yes: done; else again
 *   expire   acquire through the entry; CAS the whole word seen -> uses 0; settle; drop
 *   give back (a failed pickling)  spend as the exporter, settle
 *   reap D   D's claims -> {s+1,0,_,0}; D's bit there and block marked: CAS m -> m|mine where D is in m (held: count it), settle; clear
 *            D's bit; drop mine
 *
 * Actors: process 0 is the owner lane; 1..4 others; 5 the last reaper, which runs when all is quiet and makes the final checks.
 * Pn = "na,nx,nl,ne,nr,no": allocations, exports, loads, expiries, reapings, entries for the other block of process n.  GIVEBACK:
 * failed picklings.  REACH: a look reads `reach` entries (raised before T).  PRELOOK: a spender who sees another live use leaves T
 * alone.  ADD0: a use may be added to an entry without uses.  The private unit lock is not modelled: one thread a process.
 * A kill may fall between any two steps; a killed process runs to its end at once.
 *
 * Invariants: a believer's bit is set; a free block has no sent, unspent handle; a load of one never fails; nobody spends another's use;
 * at the end no bit is left, and T if and only if a live use is.  Ghosts: hs[t] 1 made, 2 sent and unspent, 3 sent and spent or expired,
 * 4 never sent; own: whose use a bit is; bel[p]: p believes it holds.
 *
 * Mutants: M_TFIRST (T before the use)  M_NOEXPLOOK  M_NOLOOK2 (no look after T is set again)  M_LOOKFIRST (look, then clear)
 *   M_SPENDFIRST (spend before acquire)  M_SPENDDROP (settle after letting go)  M_NOSETTLE  M_REUSEBIT  M_NOSEQ  M_SEQAPART (seq not
 *   in the word)  M_EXPNOHOLD  M_EXPBLIND (any word expired)  M_REACHLATE; with a kill: M_REAPNOT (reaper does not settle)  M_REAPFIRST
 *   (D's bit before settling)  M_MARKLATE  M_NOCLAIM (claims of the dead kept)  M_UNDERD (reaper without a bit of its own)
 *   M_CLAIMBLIND; with PRELOOK: M_REAPPRE (the reaper too)
 */
#ifndef NE
#define NE 1         /* entries */
#endif
#ifndef NH
#define NH 2         /* handles */
#endif
#ifndef K
#define K 2          /* uses an entry */
#endif
#ifndef MAXK
#define MAXK 1       /* kills */
#endif
#define F 5
#define T 64
#define B(p) (1<<(p))

byte mask; byte gen; bool mark;
byte seq[NE]; byte clm[NE]; byte made[NE]; byte uses[NE]; bit eb[NE]; byte eg[NE]; byte own[NE*K];
byte hs[NH+1]; byte hg[NH+1]; byte he[NH+1]; byte hq[NH+1]; byte hi[NH+1]; byte nh;
#ifdef REACH
byte reach = 1;       /* entries a look reads: raised, never lowered */
#endif
bool bel[6]; bool dead[6]; bool swept[6]; bool run_[6]; bool blk; byte nk; byte who[9];

#if NH==1
#define NOSENT (hs[1]!=2)
#define PICK(t) if :: hs[1]==2 || hs[1]==3 -> t=1 fi
#define ANY (hs[1]==2 || hs[1]==3)
#elif NH==2
#define NOSENT (hs[1]!=2 && hs[2]!=2)
#define PICK(t) if :: hs[1]==2 || hs[1]==3 -> t=1 :: hs[2]==2 || hs[2]==3 -> t=2 fi
#define ANY (hs[1]==2 || hs[1]==3 || hs[2]==2 || hs[2]==3)
#else
#define NOSENT (hs[1]!=2 && hs[2]!=2 && hs[3]!=2)
#define PICK(t) if :: hs[1]==2 || hs[1]==3 -> t=1 :: hs[2]==2 || hs[2]==3 -> t=2 :: hs[3]==2 || hs[3]==3 -> t=3 fi
#define ANY (hs[1]==2 || hs[1]==3 || hs[2]==2 || hs[2]==3 || hs[3]==2 || hs[3]==3)
#endif
#define NAMES(e) (uses[e] && eb[e]==0)
#define FREE(e) (clm[e]==0 && uses[e]==0)
#ifdef ADD0
#define ADD(e) (clm[e]==0 && seq[e] && eb[e]==0 && eg[e]==gen && made[e]<K)
#elif defined(M_REUSEBIT)
#define ADD(e) (uses[e] && eb[e]==0 && eg[e]==gen && uses[e]!=(1<<K)-1)
#else
#define ADD(e) (uses[e] && eb[e]==0 && eg[e]==gen && made[e]<K)
#endif
#if NE==1
#define E_IF(X) if :: X(0) -> e=0 fi
#define E_ANY(X) (X(0))
#else
#define E_IF(X) if :: X(0) -> e=0 :: X(1) -> e=1 fi
#define E_ANY(X) (X(0) || X(1))
#endif
#define LIVE0(e) (NAMES(e) && eg[e]==gen)
/* a living believer's bit is set; a free block has no sent, unspent ticket */
#define BELIEVERS (bel[0] | bel[1]<<1 | bel[2]<<2 | bel[3]<<3 | bel[4]<<4 | bel[5]<<5)
#define CHK assert((mask & BELIEVERS) == BELIEVERS); assert(mask || NOSENT)
#define NOBEL (!bel[0] && !bel[1] && !bel[2] && !bel[3] && !bel[4] && !bel[5])
#define WIPE t=0; e=0; s=0; u=0; c=0; q=0; ret=0; f=0
#define DROP cnt--; if :: cnt==0 -> bel[p]=0; mask=mask & ~B(p); CHK :: else fi
#define BIT (1<<hi[t])
#define MYUSE (seq[he[t]]==hq[t] && (uses[he[t]] & BIT))
#ifdef M_NOSEQ
#define USE (uses[he[t]] & BIT)
#else
#define USE MYUSE
#endif
#ifdef M_REAPPRE
#define PRE ret
#else
#define PRE (ret==1 && !u)     /* a spender (or a failed exporter); not an expirer, not a reaper */
#endif
#define REAPABLE(x) (dead[x] && !swept[x] && x!=p)

proctype proc(byte p; byte na; byte nx; byte nl; byte ne; byte nr; byte no) provided (!blk || dead[who[_pid]]) {
    byte cnt; byte t; byte e; byte s; byte u; byte c; byte q; byte ret; bool f;
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
#ifndef M_MARKLATE
                mark = 1
#endif
              };
#ifdef M_TFIRST
        mask = mask | T;
#endif
        if :: atomic { E_ANY(FREE) -> E_IF(FREE); seq[e]++; clm[e] = p+1; made[e] = 0 };
                eb[e] = 0;
                eg[e] = gen;
#if defined(REACH) && !defined(M_REACHLATE)
                atomic { if :: reach <= e -> reach = e+1 :: else fi };
#endif
                atomic { assert(clm[e] == p+1); clm[e] = 0; uses[e] = 1; made[e] = 1; hi[t] = 0; own[e*K] = t; he[t] = e; hq[t] = seq[e] }
            :: atomic { E_ANY(ADD) -> E_IF(ADD);
#ifdef M_REUSEBIT
                hi[t] = 0; do :: uses[e] & BIT -> hi[t]++ :: else -> break od;
#else
                hi[t] = made[e]; made[e]++;
#endif
                uses[e] = uses[e] | BIT; own[e*K+hi[t]] = t; he[t] = e; hq[t] = seq[e] }
            :: atomic { !E_ANY(FREE) && !E_ANY(ADD) -> hs[t] = 4; goto top }               /* table full */
        fi;
#ifndef M_TFIRST
        atomic { mask = mask | T };
#endif
#ifdef M_MARKLATE
        mark = 1;
#endif
#ifdef M_REACHLATE
        atomic { if :: reach <= he[t] -> reach = he[t]+1 :: else fi };
#endif
#ifdef M_NOEXPLOOK
        atomic { hs[t] = (hs[t] == 1 -> 2 : 3); goto top }
#else
        if :: atomic { MYUSE -> assert(hs[t] == 1); hs[t] = 2; goto top }                   /* sent */
#ifdef GIVEBACK
            :: atomic { MYUSE -> uses[he[t]] = uses[he[t]] & ~BIT; hs[t] = 4;
                if :: uses[he[t]] -> goto top :: else -> ret = 1; goto settle fi }
#endif
            :: atomic { !MYUSE -> assert(hs[t] == 4); ret = 1; goto settle }                 /* expired under my hands */
        fi
#endif
    /* receive */
    :: atomic { nl && ANY -> nl--; PICK(t) };
#ifdef M_SPENDFIRST
        atomic { if :: USE -> assert(own[he[t]*K+hi[t]] == t);
            uses[he[t]] = uses[he[t]] & ~BIT; f = (hs[t] == 2); hs[t] = 3; u = 1 :: else fi };
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
        atomic { if :: u && !uses[he[t]] -> ret = 1; goto settle :: else -> goto top fi };
#endif
#ifdef M_SEQAPART
        atomic { if :: seq[he[t]] == hq[t] -> skip :: else -> goto top fi };
        atomic { if :: (uses[he[t]] & BIT) ->
#else
        atomic { if :: USE ->
#endif
                  assert(own[he[t]*K+hi[t]] == t);                                        /* nobody else's use */
                  uses[he[t]] = uses[he[t]] & ~BIT; hs[t] = 3;
                  if :: uses[he[t]] -> goto top :: else -> ret = 1; fi
                :: else -> goto top fi };
#ifdef M_NOSETTLE
        goto top;
#endif
#ifdef M_SPENDDROP
        atomic { DROP };
#endif
        goto settle
    /* expire */
    :: atomic { ne && E_ANY(NAMES) -> ne--; E_IF(NAMES); s = seq[e]; u = uses[e]; c = eg[e] };
#ifdef M_EXPNOHOLD
        ret = 1; goto expire;
#endif
        atomic { if :: cnt && gen == c -> cnt++; goto expire
                   :: cnt && gen != c -> goto top
                   :: !cnt && mask -> assert(!(mask & B(p))); mask = mask | B(p)
                   :: !cnt && !mask -> goto top fi };
        if :: atomic { gen == c -> cnt = 1; bel[p] = 1; goto expire } :: gen != c fi;
        atomic { mask = mask & ~B(p); CHK; goto top };
expire:
#ifdef M_EXPBLIND
        atomic { if :: clm[e] == 0 && uses[e] ->
#else
        atomic { if :: seq[e] == s && uses[e] == u ->
#endif
                  if :: (uses[e] & 1) && eb[e] == 0 -> assert(eg[e] == c); hs[own[e*K]] = (hs[own[e*K]] == 1 -> 4 : 3) :: else fi;
                  if :: (uses[e] & 2) && eb[e] == 0 -> assert(eg[e] == c); hs[own[e*K+1]] = (hs[own[e*K+1]] == 1 -> 4 : 3) :: else fi;
#ifdef M_EXPBLIND
                  assert(eb[e] == 0);
#endif
                  uses[e] = 0; ret = 1; goto settle
                :: else -> goto top fi }
    /* settle */
    :: 0 ->
settle:
#ifdef PRELOOK
        if :: PRE -> skip :: else -> goto clear fi;
        atomic { if :: uses[0] -> skip :: else -> goto pn0 fi };
        atomic { if :: eb[0] == 0 && eg[0] == gen -> goto settled :: else -> skip fi };
pn0:
#if NE==2
        atomic { if :: uses[1] -> skip :: else -> goto clear fi };
        atomic { if :: eb[1] == 0 && eg[1] == gen -> goto settled :: else -> skip fi };
#endif
#endif
#ifdef M_LOOKFIRST
        goto look;
clear:  atomic { mask = mask & ~T; CHK; goto settled };
#else
clear:  atomic { mask = mask & ~T; CHK };
#endif
look:
#ifdef REACH
        s = reach;
#endif
        atomic { if :: uses[0] -> skip :: else -> goto no0 fi };
        if :: eb[0] == 0 -> skip :: else -> goto no0 fi;
        atomic { if :: eg[0] == gen -> goto yes :: else -> skip fi };
no0:
#if NE==2
#ifdef REACH
        if :: s < 2 -> goto no1 :: else fi;
#endif
        atomic { if :: uses[1] -> skip :: else -> goto no1 fi };
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
settled: atomic { f = 0; if :: ret == 2 -> goto kclr :: else -> goto top fi }
    /* entries for another block */
    :: atomic { no && E_ANY(FREE) -> no--; E_IF(FREE); seq[e]++; clm[e] = p+1; made[e] = 0; s = seq[e] };
        eb[e] = 1;
        eg[e] = 1;
        atomic { assert(clm[e] == p+1); clm[e] = 0; uses[e] = 1; made[e] = 1; own[e*K] = NH+1 };
        atomic { if :: seq[e] == s && (uses[e] & 1) -> uses[e] = uses[e] & ~1; goto top :: else -> goto top fi }
    /* reap */
    :: atomic { nr && (REAPABLE(0) || REAPABLE(1) || REAPABLE(2) || REAPABLE(3) || REAPABLE(4)) && (p != F || timeout) -> nr--;
         if :: REAPABLE(0) -> q = 0 :: REAPABLE(1) -> q = 1 :: REAPABLE(2) -> q = 2 :: REAPABLE(3) -> q = 3 :: REAPABLE(4) -> q = 4 fi };
#ifndef M_NOCLAIM
#ifdef M_CLAIMBLIND
        atomic { if :: clm[0] == q+1 -> f = 1 :: else fi };
        atomic { if :: f -> seq[0]++; clm[0] = 0; uses[0] = 0; f = 0 :: else fi };
#else
        atomic { if :: clm[0] == q+1 -> seq[0]++; clm[0] = 0 :: else fi };
#endif
#if NE==2
        atomic { if :: clm[1] == q+1 -> seq[1]++; clm[1] = 0 :: else fi };
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
    :: atomic { p != F && !cnt -> run_[p] = 0; break }
    :: atomic { p == F && !cnt && timeout && !REAPABLE(0) && !REAPABLE(1) && !REAPABLE(2) && !REAPABLE(3) && !REAPABLE(4) ->
         assert(!run_[0] && !run_[1] && !run_[2] && !run_[3] && !run_[4]);             /* nobody is stuck */
         assert((mask & ~T) == 0);                                                         /* no bit is left */
         assert((mask == T) == E_ANY(LIVE0));                                              /* T iff a live use */
         assert(E_ANY(LIVE0) == E_ANY(NAMES));
         assert(clm[0] == 0);
#if NE==2
         assert(clm[1] == 0);
#endif
         break }
    od;
    skip
    } unless { dead[p] };
    atomic { cnt = 0; na = 0; nx = 0; nl = 0; ne = 0; nr = 0; no = 0; WIPE; blk = 0 }
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
    i = run proc(F, 0, 0, 0, 0, 9, 0); who[i] = F; i = 0;
    run killer()
    } }
