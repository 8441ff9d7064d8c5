"""Heads of blocks whose bodies are pruned, beside the blocks that are whole.

    "b" height (8, BE)     an encoded DecidedBlock       from the pruning height on
    "h" height (8, BE)     an encoded DecidedHead        below it

A block is pruned by one atomic batch that writes its head and deletes its body; a crash leaves every height in exactly
one of the two forms. Nothing of the state depends on bodies: it stands behind a snapshot (storage/snapshots.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from consensus.blocks import BLOCK_BYTES_MAX, DecidedBlock
from consensus.encoding import decode, encode
from consensus.heads import DecidedHead, head_of
from consensus.identifiers import Height
from storage.stores.leveldb import WriteBatch

if TYPE_CHECKING:
    from storage.stores.protocols import RowStore

DECIDED_BYTES_MAX: Final = BLOCK_BYTES_MAX + 1024 * 1024
"""A block, its certificate and its polkas."""
PRUNED_AT_ONCE: Final = 256
"""Blocks of one batch: at most PRUNED_AT_ONCE small ones, and never more than PRUNED_BYTES_MAX behind each other."""
PRUNED_BYTES_MAX: Final = 8 * 1024 * 1024
BODY_ROWS: Final = b"b"
HEAD_ROWS: Final = b"h"


def body_row(height: Height) -> bytes:
    """Return the store key of a whole block."""
    return BODY_ROWS + height.to_bytes(8, "big")


def head_row(height: Height) -> bytes:
    """Return the store key of a pruned block's head."""
    return HEAD_ROWS + height.to_bytes(8, "big")


def read_block(database: RowStore, height: Height) -> DecidedBlock | None:
    """Return a whole block, None where it is pruned or not here."""
    encoded = database.get(body_row(height))
    return None if encoded is None else decode(encoded, DecidedBlock, bytes_max=DECIDED_BYTES_MAX)


def read_head(database: RowStore, height: Height) -> DecidedHead | None:
    """Return the head of a block, whole or pruned; None where the chain has none."""
    encoded = database.get(head_row(height))
    if encoded is not None:
        return decode(encoded, DecidedHead, bytes_max=DECIDED_BYTES_MAX)
    decided = read_block(database, height)
    return None if decided is None else head_of(decided)


def first_body(database: RowStore) -> Height | None:
    """Return the lowest height whose block is whole."""
    rows = database.scan(BODY_ROWS, rows_max=1)
    return Height(int.from_bytes(rows[0][0][1:], "big")) if rows else None


def prune_some(database: RowStore, below: Height) -> int:
    """Turn the lowest whole blocks below a height into heads, in one batch; return how many, 0 when none is left.

    Raises:
        StoreUnavailableError: The disk refused; the same call may be made again.
    """
    batch = WriteBatch()
    pruned, byte_count = 0, 0
    rows = database.scan(BODY_ROWS, rows_max=PRUNED_AT_ONCE)
    for row_key, encoded in rows:
        height = Height(int.from_bytes(row_key[1:], "big"))
        if height >= below or (pruned and byte_count + len(encoded) > PRUNED_BYTES_MAX):
            break
        batch.put(head_row(height), encode(head_of(decode(encoded, DecidedBlock, bytes_max=DECIDED_BYTES_MAX))))
        batch.delete(row_key)
        pruned, byte_count = pruned + 1, byte_count + len(encoded)
    if pruned:
        database.write(batch)
    return pruned
