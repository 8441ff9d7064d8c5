"""Where the chain stands: rows that every writer of a chain's database shares.

"g"     the encoded genesis
"m"     the tip: height, block hash, state root          TipRow
"p"     a snapshot is being installed: nothing here counts until it is gone
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from consensus.encoding import Record, encode
from consensus.identifiers import HASH, HEIGHT, BlockHash, Height, StateRoot

if TYPE_CHECKING:
    from storage.stores.leveldb import WriteBatch

GENESIS_ROW: Final = b"g"
TIP_ROW: Final = b"m"
INSTALLING_ROW: Final = b"p"
TIP_BYTES_MAX: Final = 1_024


class TipRow(Record):
    """Height and hash of the last block, and the state root after it."""

    height: Annotated[Height, HEIGHT]
    block_hash: Annotated[BlockHash, HASH]
    state_root: Annotated[StateRoot, HASH]


def stage_tip(batch: WriteBatch, height: Height, block_hash: BlockHash, state_root: StateRoot) -> None:
    """Add the tip to a write batch."""
    batch.put(TIP_ROW, encode(TipRow(height=height, block_hash=block_hash, state_root=state_root)))
