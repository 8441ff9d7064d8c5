"""Rows with which a node shows to others who the members became, and when (member_proofs.py).

"c" height (8, BE)     the first height of a change, and its proof        StateProof
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from consensus.encoding import encode

if TYPE_CHECKING:
    from storage.proofs import StateProof
    from storage.stores.leveldb import WriteBatch
    from storage.stores.protocols import RowStore

CHANGE_ROWS: Final = b"c"


def stage_member_change(batch: WriteBatch, proof: StateProof | None) -> None:
    """Write the proof of a change with the block that carries it out."""
    if proof is not None:
        effective = proof.certified.header.height + 1
        batch.put(CHANGE_ROWS + effective.to_bytes(8, "big"), encode(proof))


def read_member_changes(database: RowStore) -> tuple[bytes, ...]:
    """Return the encoded proofs of all changes, oldest first."""
    return tuple(encoded for _, encoded in database.iterate(CHANGE_ROWS))
