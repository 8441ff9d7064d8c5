"""The proposed blocks of one height, and the proposals that still wait for records; bounded.

A proposal is complete with its block and all its records. Incomplete is not invalid: the missing records are asked for
again until the height is decided.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from consensus.blocks import Block
    from consensus.events import Validity
    from consensus.identifiers import BlockHash
    from consensus.messages import ProposalMessage
    from node.node_chain import RecordClaim
    from storage.identifiers import RecordAddress

BLOCKS_MAX: Final = 32
"""Two proposals a round over sixteen rounds, at most 4 MiB each; more are not taken until the height ends."""
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

    __slots__ = ("_blocks", "_waiting")

    def __init__(self) -> None:
        self._blocks: dict[BlockHash, KnownBlock] = {}
        self._waiting: dict[BlockHash, WaitingProposal] = {}

    def get(self, block_hash: BlockHash) -> KnownBlock | None:
        """Return a complete block."""
        return self._blocks.get(block_hash)

    def add(self, block_hash: BlockHash, known: KnownBlock) -> None:
        """Keep a complete block."""
        if len(self._blocks) < BLOCKS_MAX:
            self._blocks.setdefault(block_hash, known)

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
        """Return the records of every block of the height."""
        return frozenset(address for known in self._blocks.values() for address in known.addresses)

    def clear(self) -> None:
        """The height is decided."""
        self._blocks.clear()
        self._waiting.clear()
