"""Which sealed records a transaction brings and a state value refers to.

Each with what its address binds, so that any member computes it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, assert_never

from storage.buckets import ChangeRecords, ChangeTags, SetBucket
from storage.identifiers import TenantId
from storage.state import (
    ACCESS_PREFIX,
    BUCKET_PREFIX,
    ENTRY_PREFIX,
    ESCROW_PREFIX,
    GRANT_PREFIX,
    VERSION_PREFIX,
    AccessState,
    BucketState,
    EntryState,
    EscrowState,
    GrantState,
    decode_state,
)
from storage.tenant_changes import ApproveRecovery, SetAccess, SetEscrow
from storage.transactions import CommitObjects, GrantClient, entries_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from storage.identifiers import RecordAddress, VersionId
    from storage.tenant_changes import TenantRecord
    from storage.transactions import Body

RECORD_PREFIXES: Final = (ENTRY_PREFIX, VERSION_PREFIX, BUCKET_PREFIX, GRANT_PREFIX, ACCESS_PREFIX, ESCROW_PREFIX)
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
    return tuple(
        RecordClaim(tenant=tenant, version_id=version_id, address=address)
        for version_id, address in _stated(state_key[:1], encoded)
    )


def _stated(prefix: bytes, encoded: bytes) -> list[tuple[VersionId, RecordAddress]]:
    if prefix == BUCKET_PREFIX:
        bucket = decode_state(encoded, BucketState)
        return [(bucket.version_id, bucket.record_address)]
    if prefix in {ENTRY_PREFIX, VERSION_PREFIX}:
        entry = decode_state(encoded, EntryState)
        tags = [] if entry.tags_address is None else [(entry.version_id, entry.tags_address)]
        return [(entry.version_id, entry.record_address), *tags]
    return [(record.version_id, record.record_address) for record in _tenant_records(prefix, encoded)]


def _tenant_records(prefix: bytes, encoded: bytes) -> list[TenantRecord]:
    if prefix == ACCESS_PREFIX:
        return [decode_state(encoded, AccessState).access]
    if prefix == ESCROW_PREFIX:
        escrow = decode_state(encoded, EscrowState)
        approvals = [approval.share for recovery in escrow.recoveries for approval in recovery.approvals]
        return [escrow.shares, *approvals]
    keys = decode_state(encoded, GrantState).keys
    return [] if keys is None else [keys]


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
        case GrantClient() | SetAccess() | SetEscrow() | ApproveRecovery():
            record = _tenant_record(body)
            if record is not None:
                yield RecordClaim(tenant=body.tenant, version_id=record.version_id, address=record.record_address)
        case _:
            return


def _tenant_record(body: GrantClient | SetAccess | SetEscrow | ApproveRecovery) -> TenantRecord | None:
    match body:
        case GrantClient():
            return body.keys
        case SetAccess():
            return body.access
        case SetEscrow():
            return body.shares
        case ApproveRecovery():
            return body.share
        case _:
            assert_never(body)
