"""Which records the entries refer to, beside the state and derived from it alone.

    "a" record address (32)    whose entries refer to the record, and how many         RecordReferences

Rows change in the batch of the block that changes the entries, so they are as true as the state is. A record is erased
when it has no row, and never otherwise (rule S34); whoever may read its tenant's shards may read it (rule S20).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta

from consensus.encoding import Record, decode, encode
from storage.identifiers import TENANT, RecordAddress, TenantId
from storage.state import ENTRY_PREFIX, EntryState, decode_state

if TYPE_CHECKING:
    from collections.abc import Mapping

    from storage.stores.leveldb import WriteBatch
    from storage.stores.protocols import RowStore
    from storage.stores.state import EarlierState

_ROW: Final = b"a"
_ROW_BYTES_MAX: Final = 64
_TENANT_AT: Final = slice(1, 17)
"""Of an entry's state key."""


class RecordReferences(Record):
    """The entries that refer to one record: all of one tenant, which its address binds (rule S31)."""

    tenant: Annotated[TenantId, TENANT]
    entries: Annotated[int, Meta(ge=1, le=2**53 - 1)]


def read_references(database: RowStore, address: RecordAddress) -> RecordReferences | None:
    """Return what refers to a record, None when nothing does."""
    encoded = database.get(_ROW + address)
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
        if not state_key.startswith(ENTRY_PREFIX):
            continue
        for encoded, sign in ((earlier.value(state_key), -1), (value, 1)):
            if encoded is not None:
                address = decode_state(encoded, EntryState).record_address
                added[address] += sign
                tenants[address] = TenantId(state_key[_TENANT_AT])
    for address, count in added.items():
        if count:
            _stage(batch, database, address, tenants[address], count)


def _stage(batch: WriteBatch, database: RowStore, address: RecordAddress, tenant: TenantId, count: int) -> None:
    known = read_references(database, address)
    entries = count if known is None else known.entries + count
    assert entries >= 0, "an entry gave up a reference that was not counted"
    if entries:
        batch.put(_ROW + address, encode(RecordReferences(tenant=tenant, entries=entries)))
    else:
        batch.delete(_ROW + address)
