"""What may change about a tenant: its key, home, quota, access keys, escrow; who registers and who recovers it.

Secrets never stand here. What only some may read is a sealed record (storage/tenant_records.py) that the change names
and that travels beside it: erasable, unlike a block.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from consensus.encoding import Record
from consensus.identifiers import HASH, MEMBERS_MAX, PublicKey
from storage.genesis import ByteCount
from storage.identifiers import SEAT, TENANT, VERSION, RecordAddress, SeatIndex, TenantId, VersionId

COMMITMENT = Meta(min_length=32, max_length=32)


class TenantRecord(Record):
    """A record that belongs to a tenant and to no object: what its address binds, and the address."""

    version_id: Annotated[VersionId, VERSION]
    record_address: Annotated[RecordAddress, HASH]


class RegisterTenant(Record, tag=11):
    """An operator takes on a tenant: a legal person that it knows, under a random handle and the tenant's own key."""

    tenant: Annotated[TenantId, TENANT]
    public_key: Annotated[PublicKey, HASH]
    home: Annotated[SeatIndex, SEAT]
    quota_bytes: ByteCount


class ChangeTenantKey(Record, tag=12):
    """The tenant signs with another key from now on."""

    tenant: Annotated[TenantId, TENANT]
    public_key: Annotated[PublicKey, HASH]


class SetQuota(Record, tag=13):
    """The home operator sets how many bytes of segments its tenant may have."""

    tenant: Annotated[TenantId, TENANT]
    quota_bytes: ByteCount


class MoveTenant(Record, tag=14):
    """Another operator is the tenant's home; no byte moves."""

    tenant: Annotated[TenantId, TENANT]
    home: Annotated[SeatIndex, SEAT]


class SetAccess(Record, tag=15):
    """The tenant's S3 access keys, sealed for those who hold its master key; None: there are none."""

    tenant: Annotated[TenantId, TENANT]
    access: TenantRecord | None


class ShareCommitment(Record):
    """What the share of one seat hashes to (tenant_records.py)."""

    seat: Annotated[SeatIndex, SEAT]
    commitment: Annotated[bytes, COMMITMENT]


class SetEscrow(Record, tag=16):
    """The tenant's keys in escrow: sealed shares in a record, their commitments here; no commitments: no escrow."""

    tenant: Annotated[TenantId, TENANT]
    shares: TenantRecord | None
    commitments: Annotated[tuple[ShareCommitment, ...], Meta(max_length=MEMBERS_MAX)]


class AnnounceRecovery(Record, tag=17):
    """A member announces that a tenant has lost its keys and is to have this one; approvals wait for the delay."""

    tenant: Annotated[TenantId, TENANT]
    public_key: Annotated[PublicKey, HASH]


class ApproveRecovery(Record, tag=18):
    """A member approves an announced key, and hands over its share, sealed to that key."""

    tenant: Annotated[TenantId, TENANT]
    public_key: Annotated[PublicKey, HASH]
    share: TenantRecord


class CancelRecovery(Record, tag=19):
    """The tenant has its keys: what is announced is over."""

    tenant: Annotated[TenantId, TENANT]


OwnChange = ChangeTenantKey | MoveTenant | SetAccess | SetEscrow | CancelRecovery
"""Signed by the tenant's own key."""
SeatsChange = RegisterTenant | SetQuota | AnnounceRecovery | ApproveRecovery
"""Signed by a seat's."""
TenantChange = OwnChange | SeatsChange
