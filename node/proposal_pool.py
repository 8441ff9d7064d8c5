"""The proposed blocks of one height, and the proposals that still wait for records; bounded.

A proposal is complete with its block and all its records. Incomplete is not invalid: the missing records are asked for
again until the height is decided.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from consensus.driver import PROPOSALS_PER_ROUND
from consensus.vote_keeper import POLKAS_KEPT, ROUNDS_KEPT

if TYPE_CHECKING:
    from consensus.blocks import Block
    from consensus.events import Validity
    from consensus.identifiers import BlockHash
    from consensus.messages import ProposalMessage
    from storage.identifiers import RecordAddress
    from storage.record_claims import RecordClaim

BLOCKS_MAX: Final = PROPOSALS_PER_ROUND * (2 * ROUNDS_KEPT + 1) + POLKAS_KEPT
"""Proposals of the rounds that the core keeps, and blocks that had a polka: keep_only() holds it below."""
WAITING_MAX: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownBlock:
    """A complete block that was checked."""

    block: Block
    validity: Validity
    addresses: tuple[RecordAddress, ...]
    """The records that travel beside it, all of them on disk here."""


@dataclass(slots=True, kw_only=True)
class WaitingProposal:
    """A proposal without some of its records."""

    message: ProposalMessage
    missing: dict[RecordAddress, RecordClaim]
    found: dict[RecordAddress, bytes]


class ProposalPool:
    """Blocks by hash, and what waits."""

    __slots__ = ("_addresses", "_blocks", "_waiting")

    def __init__(self) -> None:
        self._blocks: dict[BlockHash, KnownBlock] = {}
        self._addresses: set[RecordAddress] = set()
        self._waiting: dict[BlockHash, WaitingProposal] = {}

    def get(self, block_hash: BlockHash) -> KnownBlock | None:
        """Return a complete block."""
        return self._blocks.get(block_hash)

    def add(self, block_hash: BlockHash, known: KnownBlock) -> None:
        """Keep a complete block."""
        assert len(self._blocks) < BLOCKS_MAX, "more blocks than proposals"
        self._blocks.setdefault(block_hash, known)
        self._addresses.update(known.addresses)

    def keep_only(self, block_hashes: frozenset[BlockHash]) -> None:
        """Forget the blocks that the height does not need any more."""
        for block_hash in [known for known in self._blocks if known not in block_hashes]:
            del self._blocks[block_hash]

    def wait(self, block_hash: BlockHash, waiting: WaitingProposal) -> None:
        """Remember what is missing; the oldest gives way when too many wait."""
        self._waiting.pop(block_hash, None)
        if len(self._waiting) == WAITING_MAX:
            del self._waiting[next(iter(self._waiting))]
        self._waiting[block_hash] = waiting

    def waiting(self, block_hash: BlockHash) -> WaitingProposal | None:
        """Return what waits for this block's records."""
        return self._waiting.get(block_hash)

    def all_waiting(self) -> tuple[tuple[BlockHash, WaitingProposal], ...]:
        """Return everything that waits."""
        return tuple(self._waiting.items())

    def complete(self, block_hash: BlockHash) -> None:
        """Nothing is missing any more."""
        self._waiting.pop(block_hash, None)

    def addresses(self) -> frozenset[RecordAddress]:
        """Return the records of every block that the height has seen."""
        return frozenset(self._addresses)

    def clear(self) -> None:
        """The height is decided."""
        self._blocks.clear()
        self._addresses.clear()
        self._waiting.clear()
