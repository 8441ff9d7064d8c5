"""Rows that say where each transaction stands in the chain, and what became of it.

"i" transaction id     height, index and outcome of a transaction, of when it ran       TransactionPlace
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from consensus.encoding import encode
from storage.outcomes import TransactionPlace, decode_place

if TYPE_CHECKING:
    from consensus.identifiers import TransactionId
    from storage.ledger import StateChange
    from storage.stores.leveldb import WriteBatch
    from storage.stores.protocols import RowStore


def read_place(database: RowStore, name: TransactionId) -> TransactionPlace | None:
    """Return where a transaction stands and what became of it, None when the chain does not carry it."""
    encoded = database.get(b"i" + name)
    return None if encoded is None else decode_place(encoded)


def stage_places(batch: WriteBatch, database: RowStore, change: StateChange) -> None:
    """Add where the transactions stand; one that has run keeps its place when a proposer includes it again."""
    for index, outcome in enumerate(change.outcomes):
        earlier = read_place(database, outcome.transaction)
        if earlier is None or not earlier.outcome.has_run:
            place = TransactionPlace(height=change.height, index=index, outcome=outcome)
            batch.put(b"i" + outcome.transaction, encode(place))
