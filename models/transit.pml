/* Where handles are on their way: the place in a ticket's entry, verdicts on channels, shortage (design, section 5).
 *
 * One entry; its block and T are in ticket.pml, here a block lives as long as its entry.  Word {seq, state, pay = unspent uses}, changed by
 * CAS only; place pl and exporter ex beside it.  States: FREE; OPEN (being pickled: no byte has left), LOOSE (channel unknown), ON (the only
 * complete bytes are in channel pl, or are being written there), KEPT (loose for good).  All uses are of one message.
 *   pickle   FREE -> OPEN, -> LOOSE when the pickler returns; it raises: give back
 *   place    (exporter, a thread at a time, before the first byte) LOOSE: store pl; CAS LOOSE -> ON.  A second sending of the same bytes, into
 *            whatever channel: CAS ON -> KEPT
 *   fail     a sending raises before its last byte: give back if it was the one that placed the message and it is ON still
 *   loosen   CAS ON | LOOSE -> KEPT: who takes bytes raw, before it hands them on; who sends bytes that it did not pickle, before the first byte
 *   receive  CAS one use away if seq matches and it is live
 *   sweep    word seen; OPEN: is the exporter dead? ON: read pl, then the judge: has the channel a reader?  none, ever again: end
 *   shortage word seen; LOOSE or KEPT: is the exporter dead? end
 *   end      CAS the whole word seen -> {s,FREE,0}
 *
 * A channel is read by who has a reading end, which may be passed on, closed, and goes with its process.  A process keeps the end until
 * what it read is loaded; raw bytes may outlive it, be passed into another channel or loaded.  Bytes may go unknown ways (WILD).
 *
 * Actors: 0 exporter; 1 another exporter (TWO), a thread of 0 that sends what 0 pickled (THREAD), or a child of 0 by fork that does (FORK);
 * 2, 3 readers; 4 sweeper, and shortage (SHORT); 5 the last sweeper, when all is quiet.  NM messages, NS sendings each, NU uses each.
 * An exporter that leaves counts as dead.  A kill may fall between any two steps.
 *
 * Invariants: a load of a sent message that was loaded by nobody succeeds, unless a shortage ended it; nobody ends what can still be received,
 * but a shortage what is LOOSE or KEPT with a reason (raw, unknown way, sent twice); at quiescence no OPEN of the dead, no ON without a
 * reader, and after a shortage nothing at all.  Not promised: bytes that their sender keeps and sends again after the first channel died.
 * Ghosts by message: ms 1 made, 2 sent and unspent, 3 spent, 4 never sent, 5 taken by a shortage; cp channels with complete bytes; hand
 * processes with them; wild: under way elsewhere; loose: a reason to be LOOSE or KEPT.
 *
 * Mutants: M_PLACELATE (after the bytes)  M_REREAD (the judged word read again)  M_SECOND (a second channel: stays ON the first)  M_MOVE (or
 *   moves there)  M_PLACEKEPT (KEPT placed again)  M_OPENALIVE  M_GIVELATE (after the last byte)  M_GIVEKEPT (a failed second sending gives
 *   back)  M_SAME (second sending into the same channel: changes nothing)  M_SHORTLIVE  M_RAW (raw taker does not loosen)  M_RAWLATE
 *   M_NOLOCK (two threads place at once)  M_FORKED (child sends without loosening)  M_STREAM (bytes leave while OPEN)  M_REOPEN (a channel without readers gets one)
 *   M_SCAN (judge asks process after process, while ends are passed)  M_NOSWEEP
 */
#ifndef NM
#define NM 1
#endif
#ifndef NS
#define NS 1
#endif
#ifndef NU
#define NU 1
#endif
#ifndef NR
#define NR 2         /* readings by each reader */
#endif
#ifndef NW
#define NW 1         /* sweeps by 4 */
#endif
#ifndef MAXK
#define MAXK 1
#endif
#ifndef RD0
#define RD0 4        /* who has a reading end of channel 0, 1 at the start */
#endif
#ifndef RD1
#define RD1 8
#endif
#define B(p) (1<<(p))
#define FREE 0
#define OPEN 1
#define LOOSE 2
#define ON 3
#define KEPT 4

byte seq; byte st; byte pay; byte pl; byte ex;
byte rd[2] = 0;
byte made; byte mq[NM+1]; byte ms[NM+1]; byte cp[NM+1]; byte hand[NM+1]; byte copy[NM+1]; bool wild[NM+1]; bool loose[NM+1];
bool dead[6]; bool left[6]; bool run_[6]; byte nk;

#define LIVE (st != FREE)
#define OF(m) (LIVE && seq == mq[m])
#define GONE(x) (dead[x] || left[x])
#define RECEIVABLE(m) ((cp[m] & 1 && rd[0]) || (cp[m] & 2 && rd[1]) || hand[m] || wild[m])
/* message whose entry this is now */
#if NM==1
#define NOW(m) m = 1
#define MSG_IF(X) if :: X(1) -> m = 1 fi
#define MSG_ANY(X) (X(1))
#define NOHANDS(p) hand[1] = hand[1] & ~B(p); copy[1] = copy[1] & ~B(p)
#else
#define NOW(m) m = (mq[2] == seq -> 2 : 1)
#define MSG_IF(X) if :: X(1) -> m = 1 :: X(2) -> m = 2 fi
#define MSG_ANY(X) (X(1) || X(2))
#define NOHANDS(p) hand[1] = hand[1] & ~B(p); hand[2] = hand[2] & ~B(p); copy[1] = copy[1] & ~B(p); copy[2] = copy[2] & ~B(p)
#endif
#define CLOSE(c) rd[c] = rd[c] & ~B(p)
#define LOOSEN(m) if :: OF(m) && (st == ON || st == LOOSE) -> st = KEPT :: else fi

/* give back: the exporter's own end, of a word in state `was`; m is not complete anywhere */
#define GIVE(m) assert(ms[m] != 2 || !RECEIVABLE(m)); st = FREE; pay = 0; if :: ms[m] == 1 -> ms[m] = 4 :: else fi

#if defined(THREAD) && !defined(M_NOLOCK)
#define LOCK !lock -> lock = B(p)
#define UNLOCK lock = 0
#define UNSENT if :: lock == B(p) -> lock = 0 :: else fi
byte lock;
#else
#define LOCK skip
#define UNLOCK skip
#define UNSENT skip
#endif
/* send message m into channel c, by its exporter; placed: by this sending */
inline placing() {
    atomic { LOCK };
again:
    if :: atomic { !OF(m) -> goto unsent }
       :: atomic { OF(m) && st == LOOSE -> skip };
            pl = c;
            atomic { if :: OF(m) && st == LOOSE -> st = ON; placed = 1 :: else -> goto again fi }
#ifdef M_SAME
       :: atomic { OF(m) && st == ON && pl == c -> placed = 1 }
       :: atomic { OF(m) && st == ON && pl != c -> st = KEPT; loose[m] = 1 }
#elif defined(M_SECOND)
       :: atomic { OF(m) && st == ON -> loose[m] = 1 }
#elif defined(M_MOVE)
       :: atomic { OF(m) && st == ON -> pl = c; loose[m] = 1 }
#else
       :: atomic { OF(m) && st == ON -> st = KEPT; loose[m] = 1 }
#endif
#ifdef M_PLACEKEPT
       :: atomic { OF(m) && st == KEPT -> pl = c; st = ON; placed = 1 }
#else
       :: atomic { OF(m) && st == KEPT -> loose[m] = 1 }
#endif
    fi;
    UNLOCK
}
#define WRITE cp[m] = cp[m] | B(c); if :: ms[m] == 1 -> ms[m] = 2 :: else fi

inline send() {
    if :: c = 0 :: c = 1 fi;
#ifdef M_PLACELATE
    if :: atomic { rd[c] -> WRITE } :: goto unsent fi;
    placing();
#else
    placing();
    if :: atomic { rd[c] -> WRITE };
#ifdef M_GIVELATE
            if :: skip :: atomic { if :: OF(m) && st == ON && placed -> GIVE(m) :: else fi } fi
#endif
       :: atomic { true ->                                                                  /* it raises */
#ifdef M_GIVEKEPT
            if :: OF(m) -> GIVE(m) :: else fi }
#else
            if :: OF(m) && st == ON && placed -> GIVE(m) :: else fi }
#endif
    fi;
#endif
unsent: atomic { UNSENT; c = 0; placed = 0 }
}

proctype exporter(byte p; byte nm) {
    byte m; byte c; byte ns; bool placed; byte s;
    {
    do
    :: atomic { nm && !LIVE && made < NM -> nm--; made++; m = made; seq++; st = OPEN; pay = NU; ex = p; mq[m] = seq; ms[m] = 1; ns = NS };
#ifdef M_STREAM
        atomic { ms[m] = 2; wild[m] = 1; loose[m] = 1 };
#endif
        if :: atomic { OF(m) && st == OPEN && ms[m] == 1 -> GIVE(m); ns = 0 }              /* the pickling raises */
           :: atomic { OF(m) && st == OPEN -> st = LOOSE }
           :: atomic { !OF(m) -> assert(0) }                                                 /* nobody else may end it */
        fi;
#if defined(THREAD) || defined(FORK)
        if :: atomic { ns -> copy[m] = copy[m] | B(1) } :: skip fi;
#endif
#ifdef WILD
        if :: atomic { ns && !copy[m] -> wild[m] = 1; loose[m] = 1; ms[m] = 2; ns = 0 } :: skip fi;
#endif
        do
        :: atomic { ns -> ns-- }; send()
        :: break
        od;
        atomic { ns = 0; m = 0 }
#ifdef THREAD
    :: atomic { !run_[1] -> run_[p] = 0; left[p] = 1; nm = 0; break }
#else
    :: atomic { run_[p] = 0; left[p] = 1; nm = 0; break }
#endif
    od
    } unless { dead[p] };
    atomic { m = 0; c = 0; ns = 0; placed = 0; nm = 0 }
}

#define COPIED(m) (copy[m] & B(1))
/* sends what 0 pickled: a thread of 0, or a child */
proctype second(byte p) {
    byte m; byte c; bool placed;
    {
    do
    :: atomic { MSG_ANY(COPIED) -> MSG_IF(COPIED) };
#ifdef THREAD
        send();
        atomic { copy[m] = 0; m = 0 }
#else
#ifndef M_FORKED
        atomic { LOOSEN(m); if :: OF(m) -> loose[m] = 1 :: else -> goto none fi };
#endif
        if :: atomic { rd[0] -> c = 0; WRITE } :: atomic { rd[1] -> c = 1; WRITE } :: skip fi;
none:   atomic { copy[m] = 0; m = 0; c = 0 }
#endif
    :: atomic { run_[p] = 0; left[p] = 1; break }
    od
    } unless { dead[p] };
    atomic { m = 0; c = 0; placed = 0 }
}

#define IN0(m) (cp[m] & 1 && rd[0] & B(p))
#define IN1(m) (cp[m] & 2 && rd[1] & B(p))
proctype reader(byte p; byte nr) {
    byte m; byte i; byte c; bool raw;
    {
    do
    /* take a message out of a channel */
    :: atomic { nr && MSG_ANY(IN0) -> nr--; MSG_IF(IN0); c = 0; cp[m] = cp[m] & ~1; hand[m] = hand[m] | B(p) }; goto taken
    :: atomic { nr && MSG_ANY(IN1) -> nr--; MSG_IF(IN1); c = 1; cp[m] = cp[m] & ~2; hand[m] = hand[m] | B(p) };
taken:
        if
        :: skip                                                                               /* recv(), get(): loaded at once */
#ifdef RAW
        :: atomic { loose[m] = 1; raw = 1 };                                                   /* recv_bytes() */
#if !defined(M_RAW) && !defined(M_RAWLATE)
            atomic { LOOSEN(m) };
#endif
            do
            :: atomic { rd[0] & B(p) -> CLOSE(0) }
            :: atomic { rd[1] & B(p) -> CLOSE(1) }
            :: break
            od;
#ifdef M_RAWLATE
            atomic { LOOSEN(m) };
#endif
            if :: atomic { rd[0] -> hand[m] = hand[m] & ~B(p); cp[m] = cp[m] | 1; goto done }       /* forwarded */
               :: atomic { rd[1] -> hand[m] = hand[m] & ~B(p); cp[m] = cp[m] | 2; goto done }
               :: skip
            fi
#endif
        fi;
load:   i = NU;
        do
        :: atomic { i && OF(m) -> i--; pay--; ms[m] = 3; if :: pay == 0 -> st = FREE :: else fi }
        :: atomic { i && !OF(m) -> assert(ms[m] != 2); break }                               /* lost */
        :: !i -> break
        od;
        atomic { hand[m] = hand[m] & ~B(p) };
done:   atomic { m = 0; i = 0; c = 0; raw = 0 }
#ifdef WILD
#define WILD_(m) (wild[m])
    :: atomic { nr && MSG_ANY(WILD_) -> nr--; MSG_IF(WILD_); wild[m] = 0; hand[m] = hand[m] | B(p) }; goto load
#endif
    :: atomic { rd[0] & B(p) -> CLOSE(0) }
    :: atomic { rd[1] & B(p) -> CLOSE(1) }
#ifdef PASS
    :: atomic { rd[0] & B(p) && run_[5-p] -> rd[0] = rd[0] | B(5-p) }
#endif
#ifdef M_REOPEN
    :: atomic { !rd[0] -> rd[0] = B(p) }
#endif
    :: atomic { run_[p] = 0; left[p] = 1; break }
    od
    } unless { dead[p] };
    atomic { CLOSE(0); CLOSE(1); NOHANDS(p); m = 0; i = 0; c = 0; raw = 0; nr = 0 }
}

proctype sweeper(byte p; byte n) {
    byte s; byte t; byte u; byte c; byte m;
    {
    do
    :: atomic { LIVE && (p == 5 && timeout || n) -> if :: n -> n-- :: else fi; s = seq; t = st; u = pay };
        if
        :: t == OPEN ->
#ifndef M_OPENALIVE
            if :: GONE(ex) -> skip :: else -> goto next fi
#endif
        :: t == ON ->
#ifdef M_NOSWEEP
            goto next;
#endif
            c = pl;
#ifdef M_SCAN
            if :: rd[c] & B(2) -> goto next :: else fi;
            if :: rd[c] & B(3) -> goto next :: else fi
#else
            if :: rd[c] -> goto next :: else fi
#endif
        :: t == LOOSE || t == KEPT ->
#ifndef SHORT
            goto next;
#endif
#ifndef M_SHORTLIVE
            if :: GONE(ex) -> skip :: else -> goto next fi
#endif
        fi;
#ifdef M_REREAD
        atomic { if :: LIVE -> s = seq; t = st; u = pay :: else fi };
#endif
        atomic { if :: seq == s && st == t && pay == u -> NOW(m);
                    if :: t == LOOSE || t == KEPT -> assert(loose[m] || !RECEIVABLE(m));
                            if :: ms[m] <= 2 && GONE(ex) -> ms[m] = 5 :: else fi
                       :: else -> assert(ms[m] != 2 || !RECEIVABLE(m)) fi;
                    st = FREE; pay = 0
                 :: else fi };
next:   atomic { s = 0; t = 0; u = 0; c = 0; m = 0 }
    :: atomic { p == 4 -> run_[p] = 0; n = 0; break }
#ifdef M_NOSWEEP
#define IDLE true
#elif defined(SHORT)
#define IDLE (st == FREE)
#else
#define IDLE (st == FREE || st == LOOSE || st == KEPT)
#endif
    :: atomic { p == 5 && timeout && IDLE ->
        assert(!run_[0] && !run_[1] && !run_[2] && !run_[3] && !run_[4]);                    /* nobody is stuck */
        assert(st != ON && st != OPEN);
        break }
    od
    } unless { dead[p] };
    atomic { n = 0; s = 0; t = 0; u = 0; c = 0; m = 0 }
}

#ifdef THREAD
#define WITH0 dead[1] = run_[1]; run_[1] = 0
#else
#define WITH0 skip
#endif
#define SLAY(x) run_[x] -> dead[x] = 1; run_[x] = 0; nk++
proctype killer() {
    do :: atomic { nk < MAXK && (run_[0] || run_[1] || run_[2] || run_[3] || run_[4]) ->
         if :: SLAY(0); WITH0
#ifndef THREAD
            :: SLAY(1)
#endif
            :: SLAY(2) :: SLAY(3) :: SLAY(4) fi } od }

init { atomic {
    rd[0] = RD0; rd[1] = RD1;
    run_[0] = 1; run exporter(0, NM);
#ifdef TWO
    run_[1] = 1; run exporter(1, NM);
#elif defined(THREAD) || defined(FORK)
    run_[1] = 1; run second(1);
#endif
    run_[2] = 1; run reader(2, NR);
    run_[3] = 1; run reader(3, NR);
    run_[4] = 1; run sweeper(4, NW);
    run sweeper(5, 0);
    run killer()
    } }
