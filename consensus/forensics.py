"""The guilty named from two conflicting commits of one height: at least 2q - n, never an honest member (rule A39).

Two proofs count, each of two signatures that contradict each other:

- *Equivocation*: two different votes of one kind in one round (A36).
- *Amnesia*: a precommit for a block, and in a later round a prevote for another whose valid round is not later than
  the precommit's. Who precommits locks (A47), locks only move to later rounds, and a lock allows neither a fresh block
  (A45) nor another one whose valid round is not later than it (A46).

Why enough are named: commits of one round share 2q - n members, who equivocated. Otherwise the proof of the later
commit leads from its round back to valid round -1 (A26): one of its polkas lies above the earlier commit's round and
has a valid round at or below it, and the 2q - n members that it shares with the earlier commit forgot their lock.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from consensus.certificates import commit_votes, polka_votes
from consensus.chain import check_decision
from consensus.errors import RejectionError, RejectionReason
from consensus.signing import check_signature
from consensus.votes import Precommit, Prevote

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consensus.blocks import DecidedBlock
    from consensus.identifiers import MemberIndex
    from consensus.members import MemberSet
    from consensus.signing import SignatureCheck
    from consensus.votes import SignedVote, Vote


class Guilt(StrEnum):
    """What two signatures of one member prove."""

    EQUIVOCATION = "equivocation"
    AMNESIA = "amnesia"


@dataclass(frozen=True, slots=True, kw_only=True)
class Culprit:
    """A member and the two signed votes that no honest member signs both."""

    member: MemberIndex
    guilt: Guilt
    first: SignedVote
    second: SignedVote


def name_culprits(
    one: DecidedBlock, other: DecidedBlock, members: MemberSet, check: SignatureCheck = check_signature
) -> tuple[Culprit, ...]:
    """Return who made two blocks of one height decided, each member once, in seat order.

    Raises:
        RejectionError: WRONG_HEIGHT (two heights, or no conflict), or why one of them was not decided.
    """
    if one.commit.height != other.commit.height or one.commit.block_hash == other.commit.block_hash:
        raise RejectionError(RejectionReason.WRONG_HEIGHT, "no two blocks of one height")
    votes = (*_proven_votes(one, members, check), *_proven_votes(other, members, check))
    found: dict[MemberIndex, Culprit] = {}
    for member in sorted({signed.vote.member for signed in votes}):
        culprit = _judged([signed for signed in votes if signed.vote.member == member])
        if culprit is not None:
            found[member] = culprit
    return tuple(found.values())


def is_amnesia(earlier: Vote, later: Vote) -> bool:
    """Say whether a prevote forgets the lock that a precommit of the same member and height made."""
    return (
        isinstance(earlier, Precommit)
        and isinstance(later, Prevote)
        and (earlier.member, earlier.height) == (later.member, later.height)
        and None not in (earlier.block_hash, later.block_hash)
        and earlier.block_hash != later.block_hash
        and later.valid_round <= earlier.round < later.round
    )


def _proven_votes(decided: DecidedBlock, members: MemberSet, check: SignatureCheck) -> tuple[SignedVote, ...]:
    """Verify a decision and return every vote that its proof holds."""
    check_decision(decided, members, check)
    return (*commit_votes(decided.commit), *(signed for polka in decided.polkas for signed in polka_votes(polka)))


def _judged(votes: Sequence[SignedVote]) -> Culprit | None:
    """Return what one member's votes prove, equivocation first: two signatures say it all."""
    for guilt in Guilt:
        for first in votes:
            for second in votes:
                if _proves(guilt, first.vote, second.vote):
                    return Culprit(member=first.vote.member, guilt=guilt, first=first, second=second)
    return None


def _proves(guilt: Guilt, first: Vote, second: Vote) -> bool:
    if guilt is Guilt.AMNESIA:
        return is_amnesia(first, second)
    return type(first) is type(second) and first.round == second.round and first != second
