"""What the consensus shell needs of the chain and its application, and how records find the entries they belong to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from storage.record_claims import RecordClaim
from storage.records import record_address

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from consensus.blocks import Block, DecidedBlock
    from consensus.certificates import CommitCertificate
    from consensus.chain import ChainRules, ChainTip
    from consensus.evidence import Evidence
    from consensus.identifiers import Height, MemberIndex, Milliseconds, TransactionId
    from consensus.proposals import Proposal
    from consensus.turns import ProposerOrder
    from storage.identifiers import RecordAddress, SegmentId
    from storage.state import ObjectName


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """What a decided block changed beyond the state."""

    height: Height
    transaction_ids: tuple[TransactionId, ...]
    committed_segments: tuple[SegmentId, ...]
    freed_segments: tuple[SegmentId, ...]
    erased_records: tuple[RecordAddress, ...]
    added_records: tuple[RecordClaim, ...]
    """Referenced since this block; whoever lacks one pulls it."""
    changed_objects: tuple[ObjectName, ...] = ()
    """Of which some version was written, changed or deleted."""


class NodeChain(Protocol):
    """Blocks, ledger and records of this node. Methods that write or read much block: call them from a thread."""

    @property
    def tip(self) -> ChainTip:
        """The last decided block."""
        ...

    @property
    def turns(self) -> ProposerOrder:
        """Whose turn it is at the next height."""
        ...

    @property
    def rules(self) -> ChainRules:
        """What the next block is judged by; its schedule reaches one height further."""
        ...

    def make_block(
        self,
        transactions: Sequence[bytes],
        evidence: Sequence[Evidence],
        now_ms: Milliseconds,
        parent_commit: CommitCertificate | None,
    ) -> Block:
        """Return this seat's block on the tip; the parent's certificate as it was appended when none is given."""
        ...

    def check_proposed(self, block: Block, proposal: Proposal, now_ms: Milliseconds) -> None:
        """Raise RejectionError unless the block may follow the tip now; the clock counts for a fresh one alone."""
        ...

    def check_decided(self, decided: DecidedBlock) -> None:
        """Raise RejectionError unless the block follows the tip and is proven decided."""
        ...

    def append(self, decided: DecidedBlock) -> Appended:
        """Apply a decided block durably (blocks)."""
        ...

    def decided_block(self, height: Height) -> DecidedBlock | None:
        """Return a block of the chain (blocks)."""
        ...

    def is_known_fault(self, evidence: Evidence) -> bool:
        """Say whether the fault that evidence proves is on chain."""
        ...

    def is_convicted(self, member: MemberIndex) -> bool:
        """Say whether the chain holds a fault of this member."""
        ...

    def wants_certificate(self) -> bool:
        """Say whether a block should certify at once what the last one did to the state (rules A67, A68)."""
        ...

    def patience_s(self) -> float:
        """Return how long what nobody waits for may wait for a block that is made anyway (rule A68)."""
        ...

    def keep_evidence(self, evidence: Evidence) -> None:
        """Keep evidence durably until a block holds it (blocks)."""
        ...

    def waiting_evidence(self) -> tuple[Evidence, ...]:
        """Return the evidence that no block holds yet (blocks)."""
        ...

    def check_admissible(self, transaction: bytes) -> None:
        """Raise RejectionError if the next block could not hold this transaction, or only as a failed one."""
        ...

    def record_claims(self, transaction: bytes) -> tuple[RecordClaim, ...]:
        """Return the records that a transaction references, in its order."""
        ...

    def read_records(self, addresses: Sequence[RecordAddress]) -> dict[RecordAddress, bytes]:
        """Return those of the records that are here (blocks)."""
        ...

    def write_records(self, records: Mapping[RecordAddress, bytes]) -> None:
        """Keep records durably (blocks)."""
        ...

    def erase_unreferenced(self, addresses: Iterable[RecordAddress]) -> None:
        """Forget those of the records that no entry refers to; one that a block adds meanwhile stays (blocks)."""
        ...

    def find_unreferenced(self) -> None:
        """Look through all records for those that a crash left over; the next block erases them (blocks)."""
        ...


def match_records(claims: Iterable[RecordClaim], records: Iterable[bytes]) -> dict[RecordAddress, bytes]:
    """Return the records that hash to their claim.

    Senders keep the order of the claims and may leave some out, so one walk over both finds every match; whatever is
    out of order or belongs to nobody is ignored and pulled again.
    """
    found: dict[RecordAddress, bytes] = {}
    remaining = iter(claims)
    for sealed in records:
        for claim in remaining:
            if record_address(claim.tenant, claim.version_id, sealed) == claim.address:
                found[claim.address] = sealed
                break
    return found
