"""Which sealed records a transaction brings and a state value refers to.

Each with what its address binds, so that any member computes it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from storage.buckets import ChangeRecords, ChangeTags, SetBucket
from storage.identifiers import TenantId
from storage.state import BUCKET_PREFIX, ENTRY_PREFIX, VERSION_PREFIX, BucketState, EntryState, decode_state
from storage.transactions import CommitObjects, entries_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from storage.identifiers import RecordAddress, VersionId
    from storage.transactions import Body

RECORD_PREFIXES: Final = (ENTRY_PREFIX, VERSION_PREFIX, BUCKET_PREFIX)
"""State keys whose values refer to records; behind the prefix stands the tenant."""
_TENANT_AT: Final = slice(1, 17)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordClaim:
    """A record that a transaction references; its address is computed again from these."""

    tenant: TenantId
    version_id: VersionId
    address: RecordAddress


def record_claims(body: Body) -> tuple[RecordClaim, ...]:
    """Return the records that must travel with a transaction, each once, in its order."""
    return tuple(dict.fromkeys(_claims(body)))


def state_claims(state_key: bytes, encoded: bytes | None) -> tuple[RecordClaim, ...]:
    """Return the records that a state value refers to; none, if there is no value."""
    if encoded is None or state_key[:1] not in RECORD_PREFIXES:
        return ()
    tenant = TenantId(state_key[_TENANT_AT])
    if state_key[:1] == BUCKET_PREFIX:
        bucket = decode_state(encoded, BucketState)
        return (RecordClaim(tenant=tenant, version_id=bucket.version_id, address=bucket.record_address),)
    entry = decode_state(encoded, EntryState)
    addresses = (entry.record_address,) if entry.tags_address is None else (entry.record_address, entry.tags_address)
    return tuple(RecordClaim(tenant=tenant, version_id=entry.version_id, address=address) for address in addresses)


def _claims(body: Body) -> Iterator[RecordClaim]:
    match body:
        case CommitObjects():
            for bucket in body.new_buckets:
                yield RecordClaim(tenant=body.tenant, version_id=bucket.version_id, address=bucket.record_address)
            for _, entry in entries_of(body):
                yield RecordClaim(tenant=body.tenant, version_id=entry.version_id, address=entry.record_address)
        case SetBucket():
            yield RecordClaim(tenant=body.tenant, version_id=body.version_id, address=body.record_address)
        case ChangeTags():
            for change in body.changes:
                if change.record_address is not None:
                    yield RecordClaim(tenant=body.tenant, version_id=change.version_id, address=change.record_address)
        case ChangeRecords():
            for changed in body.changes:
                yield RecordClaim(tenant=body.tenant, version_id=changed.version_id, address=changed.new_address)
        case _:
            return
