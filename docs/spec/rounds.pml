/* Safety of one height, every schedule: agreement, lock safety, accountability (docs/protocol.md, A30 to A47).

   Rounds are taken one after another, prevotes before precommits. Nothing is lost by that: what a member does in a round
   depends on its own past, on messages of that round and on polkas of earlier rounds, and hearing more never forbids it;
   so any run can be sorted by round without changing one vote. Timeouts fire at will (nil is always allowed), which is
   all that round skip and fast nil can do to safety. Every round has a lying proposer, with two proposals of any value
   and any valid round (A34 keeps two); liars have signed everything. So valid values and turns play no part here.

   Correct members differ by their lock alone and are counted; one of them, "I", is followed with what it signed. */

#ifndef N
#define N 9
#endif
#ifndef Q
#define Q 6
#endif
#ifndef LIARS
#define LIARS 2
#endif
#ifndef ROUNDS
#define ROUNDS 4
#endif

#define OTHERS (N - LIARS - 1)
#define LOCKS (1 + 2 * ROUNDS)
#define LOCK(r, v) (1 + 2 * (r) + (v))
#define LOCK_ROUND(l) (((l) - 1) / 2)
#define LOCK_VALUE(l) (((l) - 1) % 2)
/* Valid rounds are kept one higher: 0 is -1. */
#define FRESH 0
#define PLACE(r, v, vr) (((r) * 2 + (v)) * ROUNDS + (vr))
#define HAS_POLKA(r, v) (polka_of[(r) * 2 + (v)])

/* The lock rule: L22 and L28 as we have them, or a mutant. */
#define NOT_LATER(l, v, vr) ((l) == 0 || ((vr) != FRESH && LOCK_ROUND(l) <= (vr) - 1))
#if defined(NO_LOCK)
#define MAY(l, v, vr) true
#elif defined(PAPER)
#define MAY(l, v, vr) (NOT_LATER(l, v, vr) || ((vr) != FRESH && LOCK_VALUE(l) == (v)))
#elif defined(ANY_BLOCK_OF_THE_ROUND)
#define MAY(l, v, vr) NOT_LATER(l, v, vr)
#else
#define MAY(l, v, vr) ((l) == 0 || ((vr) != FRESH && (LOCK_ROUND(l) < (vr) - 1 || (LOCK_ROUND(l) == (vr) - 1 && LOCK_VALUE(l) == (v)))))
#endif

/* Forgetting a lock: a precommit of round s and, later, a prevote of another value with a valid round this much older. */
#if !defined(ANY_BLOCK_OF_THE_ROUND) && !defined(PAPER)
#define FORGOT(vr, s) ((vr) - 1 <= (s))
#define NAMES(vr, s) true
#else
#define FORGOT(vr, s) ((vr) - 1 < (s))
/* With valid round = s two polkas of round s stand against each other, if the proof of the first decision has its own. */
#if defined(POLKA_OF_ROUND_0)
#define NAMES(vr, s) true
#else
#define NAMES(vr, s) ((vr) - 1 < (s) || (s) > 0)
#endif
#endif

byte others[LOCKS];           /* lock -> how many of the other correct members have it */
byte my_lock;
bool polka_of[2 * ROUNDS];
bool decided[2];              /* the value has q precommits in an earlier round, or this one */
byte round;
#ifdef ACCOUNTABILITY
byte my_precommits[ROUNDS];   /* 0: none or nil; 1 + value */
#endif
#ifdef CULPRITS
bool polka[2 * ROUNDS * ROUNDS];
bool commit[2 * ROUNDS];
#endif

byte value_a, vr_a, value_b, vr_b;  /* the two proposals */
byte votes_a, votes_b, lock, left, r, s, v, vr;

inline offer(value, valid_round) {
    if :: value = 0 :: value = 1 fi;
    valid_round = FRESH;
    do
    :: valid_round < round -> valid_round++
    :: break
    od;
    /* L28 needs the polka of the valid round. */
    if
    :: valid_round == FRESH || HAS_POLKA(valid_round - 1, value)
    :: else -> valid_round = FRESH
    fi
}

inline check_own(value, valid_round) {
#ifdef ACCOUNTABILITY
    s = 0;
    do
    :: s < round ->
        assert(!(my_precommits[s] != 0 && my_precommits[s] != 1 + value && FORGOT(valid_round, s)));
        s++
    :: else -> break
    od;
    s = 0
#else
    skip
#endif
}

inline prevote() {
        if
    :: MAY(my_lock, value_a, vr_a) -> votes_a++; check_own(value_a, vr_a)
    :: MAY(my_lock, value_b, vr_b) -> votes_b++; check_own(value_b, vr_b)
    :: true
    fi;
    do
    :: lock < LOCK(round, 0) ->
        left = others[lock];
        do
        :: left > 0 && MAY(lock, value_a, vr_a) -> votes_a++; left--
        :: left > 0 && MAY(lock, value_b, vr_b) -> votes_b++; left--
        :: left > 0 -> left--  /* nil */
        :: left == 0 -> break
        od;
        lock++
    :: else -> break
    od;
    lock = 0;
    if
    :: value_a == value_b && vr_a == vr_b -> votes_a = votes_a + votes_b
    :: else
    fi;
    note_polka(votes_a, value_a, vr_a);
    note_polka(votes_b, value_b, vr_b);
    votes_a = 0; votes_b = 0; value_a = 0; vr_a = 0; value_b = 0; vr_b = 0
}

inline note_polka(votes, value, valid_round) {
    if
    :: votes + LIARS >= Q ->
#ifdef LOCK_SAFETY
        assert(!decided[1 - value]);
#endif
#ifdef CULPRITS
        polka[PLACE(round, value, valid_round)] = true;
#endif
        polka_of[round * 2 + value] = true
    :: else
    fi
}

inline precommit() {
    /* votes_a and votes_b now count precommits of value 0 and 1. */
    if
    :: HAS_POLKA(round, 0) -> sign_precommit(0); votes_a++
    :: HAS_POLKA(round, 1) -> sign_precommit(1); votes_b++
    :: true
    fi;
    do
    :: lock < LOCK(round, 0) ->
        left = others[lock];
        do
        :: left > 0 && HAS_POLKA(round, 0) -> others[lock]--; others[LOCK(round, 0)]++; votes_a++; left--
        :: left > 0 && HAS_POLKA(round, 1) -> others[lock]--; others[LOCK(round, 1)]++; votes_b++; left--
        :: left > 0 -> left--  /* nil, or nothing */
        :: left == 0 -> break
        od;
        lock++
    :: else -> break
    od;
    lock = 0;
    note_commit(votes_a, 0);
    note_commit(votes_b, 1);
    votes_a = 0; votes_b = 0
}

inline sign_precommit(value) {
    my_lock = LOCK(round, value);
#ifdef ACCOUNTABILITY
    my_precommits[round] = 1 + value
#endif
}

inline note_commit(votes, value) {
    if
    :: votes + LIARS >= Q ->
        decided[value] = true;
#ifdef AGREEMENT
        assert(!decided[1 - value]);
#endif
#ifdef CULPRITS
        commit[round * 2 + value] = true;
#endif
        skip
    :: else
    fi
}

#ifdef CULPRITS
inline check_forks() {
    r = 0;
    do
    :: r < round ->
        v = 0;
        do
        :: v < 2 && commit[r * 2 + v] && commit[round * 2 + 1 - v] -> check_fork(); v++
        :: v < 2 && !(commit[r * 2 + v] && commit[round * 2 + 1 - v]) -> v++
        :: v == 2 -> break
        od;
        r++
    :: else -> break
    od;
    r = 0; v = 0
}

/* v decided in round r, the other value in this one: the polka of its proof that steps over r names 2q - n culprits. */
inline check_fork() {
    s = r + 1;
    do
    :: s <= round ->
        vr = FRESH;
        do
        :: vr <= r + 1 -> assert(!polka[PLACE(s, 1 - v, vr)] || NAMES(vr, r)); vr++
        :: else -> break
        od;
        vr = 0;
        s++
    :: else -> break
    od;
    s = 0
}
#endif

init {
    others[0] = OTHERS;
    do
    :: round < ROUNDS ->
        offer(value_a, vr_a);
        offer(value_b, vr_b);
        prevote();
        precommit();
#ifdef CULPRITS
        check_forks();
#endif
        round++
    :: else -> break
    od
}
