"""The row that belongs to a whole shard: the hashes of its leaves, then a checksum of each of its units.

    leaf hashes, 32 bytes each || checksums (storage/checksums.py), 8 bytes each

The hashes are checked against the shard's root when the row is read, and prove leaves to others. The checksums are what
a unit is checked by whenever it is served whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from storage.checksums import CHECKSUM_BYTES
from storage.identifiers import UNIT_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.segments import SegmentShape

HASH_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class LeafRow:
    """What is known of a shard's contents."""

    leaves: tuple[bytes, ...]
    checksums: tuple[bytes, ...]
    """Of each unit, top to bottom."""


def unit_count(shape: SegmentShape) -> int:
    """Return the number of units of one shard."""
    return -(-shape.shard_bytes // UNIT_BYTES)


def encode_leaf_row(leaves: Sequence[bytes], checksums: Sequence[bytes]) -> bytes:
    """Return the row of a whole shard."""
    return b"".join((*leaves, *checksums))


def decode_leaf_row(row: bytes, shape: SegmentShape) -> LeafRow | None:
    """Return what a row says; None when it is not as long as the shard's must be. Nothing else is checked here."""
    leaf_bytes = shape.leaves * HASH_BYTES
    if len(row) != leaf_bytes + unit_count(shape) * CHECKSUM_BYTES:
        return None
    return LeafRow(
        leaves=tuple(row[start : start + HASH_BYTES] for start in range(0, leaf_bytes, HASH_BYTES)),
        checksums=tuple(row[start : start + CHECKSUM_BYTES] for start in range(leaf_bytes, len(row), CHECKSUM_BYTES)),
    )
