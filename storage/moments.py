"""What of a block's header the rules of the ledger may ask beside its height: when it was made, and after what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from consensus.identifiers import CertificateHash, Height, Milliseconds

if TYPE_CHECKING:
    from consensus.blocks import Block


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One block's place in height, time and chance.

    Attributes:
        height: Of the block.
        time_ms: The ledger's only clock: what the proposer wrote and a quorum found near its own clocks (rule A52).
        certificate: Hash of the parent's certificate as the block embeds it. Nobody knows it before a quorum has signed
            the parent; the proposer chooses among the certificates that its precommits allow, and no more.
        index: Of the transaction that runs, among those of the block.
    """

    height: Height
    time_ms: Milliseconds
    certificate: CertificateHash
    index: int = 0


def moment_of(block: Block) -> Moment:
    """Return the moment of a block."""
    header = block.header
    return Moment(height=header.height, time_ms=header.time_ms, certificate=header.parent_commit_hash)
