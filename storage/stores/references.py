"""Which records entries and buckets refer to, beside the state and derived from it alone.

    "a" record address (32)    whose state refers to the record, and how often         RecordReferences

Rows change in the batch of the block that changes the entries, so they are as true as the state is. A record is erased
when it has no row, and never otherwise (rule S34); whoever may read its tenant's shards may read it (rule S20).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta

from consensus.encoding import Record, decode, encode
from storage.identifiers import TENANT, RecordAddress, TenantId
from storage.record_claims import state_claims

if TYPE_CHECKING:
    from collections.abc import Mapping

    from storage.stores.leveldb import WriteBatch
    from storage.stores.protocols import RowStore
    from storage.stores.state import EarlierState

REFERENCE_ROWS: Final = b"a"
_ROW_BYTES_MAX: Final = 64


class RecordReferences(Record):
    """The entries that refer to one record: all of one tenant, which its address binds (rule S31)."""

    tenant: Annotated[TenantId, TENANT]
    entries: Annotated[int, Meta(ge=1, le=2**53 - 1)]


def read_references(database: RowStore, address: RecordAddress) -> RecordReferences | None:
    """Return what refers to a record, None when nothing does."""
    encoded = database.get(REFERENCE_ROWS + address)
    return None if encoded is None else decode(encoded, RecordReferences, bytes_max=_ROW_BYTES_MAX)


def stage_references(
    batch: WriteBatch, database: RowStore, changed: Mapping[bytes, bytes | None], earlier: EarlierState
) -> None:
    """Add to a write batch what changed state values mean for the references.

    Args:
        batch: That of the block.
        database: Where the rows lie, as they were before the block.
        changed: State keys and their new values, None where deleted.
        earlier: The state that they change.
    """
    added = Counter[RecordAddress]()
    tenants = dict[RecordAddress, TenantId]()
    for state_key, value in changed.items():
        for encoded, sign in ((earlier.value(state_key), -1), (value, 1)):
            for claim in state_claims(state_key, encoded):
                added[claim.address] += sign
                tenants[claim.address] = claim.tenant
    for address, count in added.items():
        if count:
            _stage(batch, database, address, tenants[address], count)


def _stage(batch: WriteBatch, database: RowStore, address: RecordAddress, tenant: TenantId, count: int) -> None:
    known = read_references(database, address)
    entries = count if known is None else known.entries + count
    assert entries >= 0, "an entry gave up a reference that was not counted"
    if entries:
        batch.put(REFERENCE_ROWS + address, encode(RecordReferences(tenant=tenant, entries=entries)))
    else:
        batch.delete(REFERENCE_ROWS + address)
