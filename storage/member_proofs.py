"""How whoever knows genesis alone comes to know the members of any height, from one proof a change (rule M11).

The header before the first height of a change is signed by the members before it, and its root holds the change under
the key "m". So each proof is judged by the members that the proofs before it have led to. Whoever leaves proofs out
shows an older set, of which a quorum must then have signed what it shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from consensus.encoding import decode
from consensus.errors import RejectionError, RejectionReason
from consensus.genesis import genesis_members
from consensus.identifiers import Height
from consensus.schedule import MemberSchedule
from consensus.signing import check_signature
from storage.genesis import storage_genesis
from storage.ledger_seats import is_due
from storage.membership import SCHEDULED_KEY, ScheduledState, members_of, seats_after
from storage.proofs import StateProof, certified_header, check_state_proof
from storage.seat_changes import ChangeParameters
from storage.state import SeatState, StateReader, decode_state
from storage.state_tree import prove

if TYPE_CHECKING:
    from collections.abc import Iterable

    from consensus.blocks import DecidedBlock
    from consensus.genesis import Genesis
    from consensus.signing import SignatureCheck
    from storage.ledger import LedgerContext

PROOF_BYTES_MAX: Final = 128 * 1024
"""A scheduled change of at most 4 KiB, a header, 64 signatures and 256 siblings, several times over."""


def change_proof(context: LedgerContext, before: StateReader, decided: DecidedBlock) -> StateProof | None:
    """Return the proof of the change of members that a block carries out; None when it carries out none.

    Args:
        context: What the block is run by.
        before: The state that its header commits.
        decided: The block, with its certificate.
    """
    height, scheduled = decided.block.header.height, context.membership.scheduled
    if scheduled is None or isinstance(scheduled.change, ChangeParameters) or not is_due(context.membership, height):
        return None
    return StateProof(
        certified=certified_header(decided, context.members),
        value=before.value(SCHEDULED_KEY),
        tree=prove(before, SCHEDULED_KEY),
    )


def decode_change_proof(encoded: bytes) -> StateProof:
    """Read a proof of a change or raise RejectionError."""
    return decode(encoded, StateProof, bytes_max=PROOF_BYTES_MAX)


def proven_schedule(
    genesis: Genesis, proofs: Iterable[StateProof], check: SignatureCheck = check_signature
) -> MemberSchedule:
    """Return who the members of each height are; parameters are those of genesis.

    Args:
        genesis: Trusted.
        proofs: Of all changes of members, oldest first.
        check: Verifies signatures.

    Raises:
        RejectionError: BAD_PROOF, and what check_state_proof gives.
    """
    return _followed(genesis, proofs, check)[0]


def proven_seats(
    genesis: Genesis, proofs: Iterable[StateProof], check: SignatureCheck = check_signature
) -> tuple[SeatState, ...]:
    """Return every seat that ever was, by number, as the last change has left it; arguments as of proven_schedule()."""
    return _followed(genesis, proofs, check)[1]


def _followed(
    genesis: Genesis, proofs: Iterable[StateProof], check: SignatureCheck
) -> tuple[MemberSchedule, tuple[SeatState, ...]]:
    sets = [genesis_members(genesis)]
    seats = tuple(
        SeatState(signing_key=signing_key, seat=seat, opened=Height(0), joined=Height(0), closed=None)
        for signing_key, seat in zip(genesis.members, storage_genesis(genesis).seats, strict=True)
    )
    for proof in proofs:
        value = check_state_proof(proof, SCHEDULED_KEY, sets[-1], check)
        if value is None:
            raise RejectionError(RejectionReason.BAD_PROOF, "no change is decided there")
        scheduled = decode_state(value, ScheduledState)
        if scheduled.effective != proof.certified.header.height + 1 or scheduled.effective <= sets[-1].since:
            raise RejectionError(RejectionReason.BAD_PROOF, f"a change of height {scheduled.effective} out of place")
        seats = seats_after(seats, scheduled.change, scheduled.effective)
        sets.append(members_of(sets[0].genesis_hash, seats, scheduled.effective))
    return MemberSchedule(members=tuple(sets), parameters=genesis.parameters), seats
