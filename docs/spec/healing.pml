/* Liveness of one height: how many rounds after the network has healed until everybody decides (A40 to A49, A61, A62).

   First up to BEFORE rounds in which the network and LIARS liars do what they like: any member sees any polka or none,
   so locks may be hidden. Then everything arrives within the timeouts, repeated certificates too. CORRECT members are
   up; of the others ACTIVE go on lying, the rest are silent. Within N rounds every seat has its turn once, in any order.

   WITHHOLD: liars show their block to whom they like, and nobody fetches a whole block from those who voted for it. It wants
   BEFORE 0.

   Values do not appear: within the budget a round has one polka at most, and the lock rule compares rounds alone.
   Rounds are kept one higher, 0 is none. */

#ifndef N
#define N 9
#endif
#ifndef Q
#define Q 6
#endif
#ifndef LIARS
#define LIARS 2
#endif
#ifndef CORRECT
#define CORRECT Q
#endif
#ifndef BEFORE
#define BEFORE 2
#endif
#ifndef ACTIVE
#define ACTIVE 0
#endif
#ifndef BOUND
#define BOUND 5
#endif
#ifndef FAST_NIL_ROUNDS
#define FAST_NIL_ROUNDS 4
#endif

byte locked[CORRECT];    /* round of the lock */
byte valid[CORRECT];     /* round of the valid value */
#ifdef NO_OVERRIDE
short counts[CORRECT];   /* bit r: saw q prevotes of round r as first votes */
#endif
#ifdef WITHHOLD
short has[CORRECT];      /* bit r: has the block proposed in round r */
#define HAS(i, r) (has[i] & BIT(r))
#else
#define HAS(i, r) true
#endif
short polkas;            /* bit r: round r has a polka */
byte round = 1;
byte calm;               /* rounds since the healing */
byte next;               /* correct members whose turn is over */
byte liars, silent;      /* other members whose turn is over */
byte votes, locking, vr, older, i;
bool quick;              /* q nil prevotes and q nil precommits: over before anything else has travelled */
bool late;               /* fast nil by precommits alone: the next round begins before this round's polka has travelled */

#define BIT(r) (1 << (r))
#ifdef NO_OVERRIDE
#define COUNTS(i, vr) (counts[i] & BIT(vr))
#else
#define COUNTS(i, vr) (polkas & BIT(vr))
#endif
#define MAY(i, vr) (((vr) == 0 && locked[i] == 0) || ((vr) != 0 && locked[i] <= (vr) && COUNTS(i, vr)))

inline count_votes() {
    votes = 0; i = 0;
    do
    :: i < CORRECT && MAY(i, vr) && HAS(i, round) -> votes++; i++
    :: i < CORRECT && !(MAY(i, vr) && HAS(i, round)) -> i++
    :: i == CORRECT -> break
    od;
    i = 0
}

/* Whoever has it shows the block to all; a liar to whom it likes, and a block of an earlier round is then known. */
#ifdef WITHHOLD
inline show_all() {
    i = 0;
    do
    :: i < CORRECT -> has[i] = has[i] | BIT(round) | BIT(vr); i++
    :: i == CORRECT -> break
    od;
    i = 0
}
inline show_some() {
    i = 0;
    do
    :: i < CORRECT -> has[i] = has[i] | BIT(round) | BIT(vr); i++
    :: i < CORRECT && !(vr != 0 && HAS(i, vr)) -> i++
    :: i < CORRECT && vr != 0 && HAS(i, vr) -> has[i] = has[i] | BIT(round); i++
    :: i == CORRECT -> break
    od;
    i = 0
}
#else
#define show_all() skip
#define show_some() skip
#endif

/* A liar's proposal: fresh, or with any polka that there is. */
inline choose_valid_round() {
    vr = 0;
    do
    :: vr < round - 1 -> vr++
    :: break
    od;
    if
    :: vr != 0 && !(polkas & BIT(vr)) -> vr = 0
    :: else
    fi
}

inline see_polka() {
    valid[i] = round;
#ifdef NO_OVERRIDE
    counts[i] = counts[i] | BIT(round);
#endif
    polkas = polkas | BIT(round)
}

/* Any member may see the polka in time to lock it, or too late, or not at all; liars show their votes as they like. */
inline storm() {
    choose_valid_round();
    count_votes();
    if
    :: votes + LIARS >= Q ->
        do
        :: i < CORRECT -> see_polka(); locked[i] = round; i++
        :: i < CORRECT -> see_polka(); i++
        :: i < CORRECT -> i++
        :: i == CORRECT -> break
        od;
        i = 0
    :: true
    fi;
    votes = 0; vr = 0;
    round++
}

/* A certificate is worth something to those who have its block. */
#ifdef WITHHOLD
byte here;
inline latest_here(polka) {
    here = polka;
    do
    :: here > valid[i] && !((polkas & BIT(here)) && HAS(i, here)) -> here--
    :: here <= valid[i] || ((polkas & BIT(here)) && HAS(i, here)) -> break
    od;
    valid[i] = here;
    here = 0
}
#else
#define latest_here(polka) valid[i] = polka
#endif

/* Repeated certificates: the polka of one member's valid value becomes everybody's. */
inline hear_of(polka) {
#if !defined(NO_OVERRIDE) && !defined(NO_EARLIER_POLKA)
    i = 0;
    do
    :: i < CORRECT && valid[i] < polka -> latest_here(polka); i++
    :: i < CORRECT && valid[i] >= polka -> i++
    :: i == CORRECT -> break
    od;
    i = 0
#else
    skip
#endif
}

inline find_latest() {
    older = 0; i = 0;
    do
    :: i < CORRECT && valid[i] > older -> older = valid[i]; i++
    :: i < CORRECT && valid[i] <= older -> i++
    :: i == CORRECT -> break
    od;
    i = 0
}

/* Liars complete a polka for fewer than q members, at the last moment; the others precommit nil. */
inline hide_a_lock() {
    do
    :: i < CORRECT && locking + 1 < Q && HAS(i, round) -> see_polka(); locked[i] = round; locking++; i++
    :: i < CORRECT -> i++
    :: i == CORRECT -> break
    od;
#ifdef FAST_NIL_BY_PRECOMMITS
    late = (round <= FAST_NIL_ROUNDS && CORRECT - locking + ACTIVE >= Q);
#else
    late = (round <= FAST_NIL_ROUNDS && CORRECT - locking + ACTIVE >= Q && CORRECT - votes + ACTIVE >= Q);
#endif
    locking = 0; i = 0
}

/* The seats' order is whatever comes out of the first N rounds, and then the same again. */
#if BOUND > N
#define ORDER(seat) (calm < N || order[calm % N] == (seat))
#define KEEP_ORDER(seat) if :: calm < N -> order[calm] = (seat) :: else fi
#define NEW_CYCLE if :: calm > 0 && calm % N == 0 -> next = 0; liars = 0; silent = 0 :: else fi
byte order[N];
#else
#define ORDER(seat) true
#define KEEP_ORDER(seat) skip
#define NEW_CYCLE skip
#endif

inline take_turn() {
    NEW_CYCLE;
    if
    :: next < CORRECT && ORDER(0) -> KEEP_ORDER(0); vr = valid[next]; show_all(); next++; count_votes()
    :: liars < ACTIVE && ORDER(1) -> KEEP_ORDER(1); liars++; choose_valid_round(); show_some(); count_votes();
        if
        :: votes = 0; quick = (round <= FAST_NIL_ROUNDS)
        :: votes < Q
        :: votes >= Q -> votes = Q - 1   /* it tells too few */
        fi
    :: silent < N - CORRECT - ACTIVE && ORDER(2) -> KEEP_ORDER(2); silent++; votes = 0
    fi;
    vr = 0
}

inline calm_round() {
    find_latest();
    take_turn();
    if
    :: votes >= Q -> break
    :: votes < Q && votes + ACTIVE >= Q && ACTIVE > 0 -> hide_a_lock()
    :: votes < Q && CORRECT - votes + ACTIVE >= Q -> quick = (round <= FAST_NIL_ROUNDS)   /* no polka beside q nil prevotes */
    :: votes < Q
    fi;
    votes = 0;
    calm++; round++;
    assert(calm < BOUND);
    if :: !quick -> hear_of(older) :: else fi;
    if :: !quick && !late -> find_latest(); hear_of(older) :: else fi;
    older = 0; quick = false; late = false
}

init {
    do
    :: round <= BEFORE -> storm()
    :: break
    od;
    find_latest();
    hear_of(older);
    older = 0;
    do
    :: calm_round()
    od
}
