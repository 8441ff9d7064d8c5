"""The application's part of genesis: who sits where, and which tenants exist from the start."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from consensus.encoding import Record, decode, encode
from consensus.genesis import GENESIS_BYTES_MAX, Genesis
from consensus.identifiers import HASH, HEIGHT, TIME, Height, PublicKey
from storage.identifiers import CERTIFICATE_BYTES_MAX, GRANTS_MAX, SEAT, TENANT, SeatIndex, TenantId

Certificate = Annotated[bytes, Meta(min_length=1, max_length=CERTIFICATE_BYTES_MAX)]
Port = Annotated[int, Meta(ge=1, le=65_535)]
Name = Annotated[str, Meta(min_length=1, max_length=128)]
ByteCount = Annotated[int, TIME]
QUOTA_UNLIMITED: Final = 2**53 - 1


class Seat(Record):
    """One operator's place: legal person, site, network identity, and where its node is reached."""

    operator: Name
    site: Name
    network_key: Annotated[PublicKey, HASH]
    certificate: Certificate
    host: Name
    libp2p_port: Port
    shard_port: Port
    api_port: Port


class Grant(Record):
    """A client key that acts for a tenant, and the certificate it shows on the shard channel."""

    public_key: Annotated[PublicKey, HASH]
    certificate: Certificate


class GenesisTenant(Record):
    """A tenant that exists from the start; its own key may grant and revoke."""

    tenant: Annotated[TenantId, TENANT]
    public_key: Annotated[PublicKey, HASH]
    grants: Annotated[tuple[Grant, ...], Meta(max_length=GRANTS_MAX)]
    home: Annotated[SeatIndex, SEAT] = SeatIndex(0)
    """The operator that answers for it and sets its quota."""
    quota_bytes: ByteCount = QUOTA_UNLIMITED


class StorageParameters(Record):
    """Limits that all nodes share."""

    receipt_heights: Annotated[Height, HEIGHT] = Height(1_000)
    """A receipt's expiry height is at most this far above its holder's chain."""
    transaction_heights: Annotated[Height, HEIGHT] = Height(1_000)
    """A transaction's last height is at most this far above the block that carries it."""
    uncommitted_bytes_max: Annotated[int, Meta(ge=0, le=2**50)] = 1 << 30
    """Shard bytes that one holder keeps for a tenant before they are committed."""
    epoch_ms: Annotated[int, Meta(ge=1_000, le=86_400_000)] = 600_000
    """How often every operator proves what it holds, and reports what it has erased."""
    snapshot_heights: Annotated[Height, Meta(ge=1, le=2**31)] = Height(4_096)
    """Snapshots are made after the blocks whose heights are multiples of this, by all alike."""
    proposal_heights: Annotated[Height, HEIGHT] = Height(10_000)
    """A proposed change of the seats is approved within so many heights: a week of heartbeats."""
    recovery_delay_ms: Annotated[int, Meta(ge=0, le=2**40)] = 259_200_000
    """From the announcement of a tenant's recovery to its first approval: three days for the tenant to object."""


class StorageGenesis(Record, tag=1):
    """Seats in member order, tenants, limits."""

    seats: Annotated[tuple[Seat, ...], Meta(min_length=1, max_length=64)]
    tenants: Annotated[tuple[GenesisTenant, ...], Meta(max_length=1_024)]
    parameters: StorageParameters


def storage_genesis(genesis: Genesis) -> StorageGenesis:
    """Read the application's part of a genesis or raise RejectionError."""
    return decode(genesis.application, StorageGenesis, bytes_max=GENESIS_BYTES_MAX)


def encode_storage_genesis(part: StorageGenesis) -> bytes:
    """Return the bytes that Genesis.application holds."""
    return encode(part)
