"""What the ledger remembers of proven faults: each place once, for ever (rules A53, T16).

    "f" member (1) kind (1) height (8, BE) round (4, BE)      the block whose evidence proves it      FaultState

Kinds: 0 proposal, 1 prevote, 2 precommit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from consensus.encoding import Record
from consensus.errors import RejectionError, RejectionReason
from consensus.evidence import fault_place
from consensus.identifiers import HEIGHT, Height, MemberIndex, Round
from storage.state import FAULT_PREFIX, StateOverlay, StateReader, decode_state

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consensus.evidence import Evidence

KINDS: Final = ("Proposal", "Prevote", "Precommit")
"""By the number that stands in a state key; the order in which a member signs them."""


class FaultState(Record, tag=9):
    """A proven fault; the height is that of the block that holds the proof."""

    height: Annotated[Height, HEIGHT]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One line of what is public: this member signed two different messages of one kind, height and round."""

    member: MemberIndex
    kind: str
    height: Height
    round: Round
    proven_at: Height


def fault_key(evidence: Evidence) -> bytes:
    """Return the state key of the fault that evidence proves."""
    kind, member, height, round_ = fault_place(evidence)
    return FAULT_PREFIX + bytes((member, KINDS.index(kind))) + height.to_bytes(8, "big") + round_.to_bytes(4, "big")


def read_fault(state_key: bytes, encoded: bytes) -> Fault:
    """Return a fault from its row of the state."""
    return Fault(
        member=MemberIndex(state_key[1]),
        kind=KINDS[state_key[2]].lower(),
        height=Height(int.from_bytes(state_key[3:11], "big")),
        round=Round(int.from_bytes(state_key[11:15], "big")),
        proven_at=decode_state(encoded, FaultState).height,
    )


def check_new_faults(reader: StateReader, evidence: Sequence[Evidence]) -> None:
    """Raise RejectionError(BAD_EVIDENCE) if a fault is on chain already."""
    for proof in evidence:
        if reader.value(fault_key(proof)) is not None:
            kind, member, height, round_ = fault_place(proof)
            detail = f"{kind.lower()} of member {member}, height {height}, round {round_}: on chain already"
            raise RejectionError(RejectionReason.BAD_EVIDENCE, detail)


def remember_faults(overlay: StateOverlay, height: Height, evidence: Sequence[Evidence]) -> None:
    """Note what a block of this height proves."""
    for proof in evidence:
        overlay.put(fault_key(proof), FaultState(height=height))
