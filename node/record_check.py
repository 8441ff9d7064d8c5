"""Whether signer record, log and chain of a home belong together: asked at every start, before anything is signed.

A record that is cut between two entries, a log that lost its end, a chain or a record copied back from another day are
sound files, and no checksum tells. But each statement of a seat stands in three places: what led to it in the log,
flushed before it; itself in the record, flushed before it left; and, once decided, in the chain.

Rule D16. Refused, with what to do about it, is a home in which

- the record goes beyond the height after the chain's last block,
- the chain's last block was decided with a precommit of this seat that the record does not know,
- the log holds a statement of this seat that the record does not know,
- the record holds a statement of the present height to which the log does not lead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from consensus.certificates import signers
from consensus.effects import BroadcastProposal, BroadcastVote
from consensus.events import ProposalReceived, VoteReceived
from consensus.identifiers import Height
from node.errors import WriteAheadLogError
from node.signer import Position, SignedStep, position_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from consensus.blocks import Block
    from consensus.chain import ChainTip
    from consensus.effects import Effect
    from consensus.events import Event
    from consensus.identifiers import MemberIndex, Signature
    from consensus.schedule import MemberSchedule
    from node.signer import Signer


@dataclass(frozen=True, slots=True)
class Remembered:
    """What the log holds of a height, and what the core asks for when it replays that."""

    said: Sequence[Event | Block] = ()
    asked: Sequence[Effect] = ()


def check_record(
    signer: Signer,
    seat: MemberIndex,
    tip: ChainTip,
    schedule: MemberSchedule,
    remembered: Remembered,
) -> None:
    """Verify that nothing was forgotten.

    Args:
        signer: The record as it was opened.
        seat: Ours.
        tip: The chain's.
        schedule: Who sat where: signatures of another key than ours are not ours to remember.
        remembered: Of the height after the tip.

    Raises:
        WriteAheadLogError: Something was; says what to do.
    """
    here, last = Height(tip.height + 1), signer.last
    if last is not None and last.height > here:
        raise _apart(f"this seat has signed at height {last.height}, and the chain ends at {tip.height}")
    is_seated = schedule.members_at(tip.height).index_of(signer.public) == seat
    if is_seated and any(signer.is_stranger(*signed) for signed in _decided(tip, seat)):
        raise _apart(f"the signer record lacks what this seat signed at height {tip.height}")
    if any(signer.is_stranger(*signed) for signed in _logged(remembered.said, seat)):
        raise _apart("the signer record lacks what the log says that this seat has signed")
    led_to = {position_of(effect.vote) for effect in remembered.asked if isinstance(effect, BroadcastVote)}
    led_to |= {position_of(effect.proposal) for effect in remembered.asked if isinstance(effect, BroadcastProposal)}
    if not led_to.issuperset(signer.signed_at(here)):
        raise _apart(f"the log lacks what led to signatures of height {here}, and with it a lock perhaps")


def _decided(tip: ChainTip, seat: MemberIndex) -> Iterable[tuple[Position, Signature]]:
    if tip.last is None:
        return
    commit = tip.last.commit
    position = Position(height=commit.height, round=commit.round, step=SignedStep.PRECOMMIT)
    for member, signature in zip(signers(commit), commit.signatures, strict=True):
        if member == seat:
            yield position, signature


def _logged(said: Sequence[Event | Block], seat: MemberIndex) -> Iterable[tuple[Position, Signature]]:
    for entry in said:
        match entry:
            case VoteReceived(signed=vote) if vote.vote.member == seat:
                yield position_of(vote.vote), vote.signature
            case ProposalReceived(signed=made) if made.proposal.proposer == seat:
                yield position_of(made.proposal), made.signature
            case _:
                pass


def _apart(detail: str) -> WriteAheadLogError:
    return WriteAheadLogError(
        f"{detail}: a file of this home was cut or copied back from an older day; move signer and wal/log away and"
        " start again; the node then rejoins as after a fire (docs/operating.md, Damaged log or signer record)"
    )
