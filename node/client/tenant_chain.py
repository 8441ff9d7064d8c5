"""What the chain knows of a tenant, as its owner, its operator and its gateways ask; over HTTP, from any live node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import msgspec

from consensus.identifiers import Milliseconds, PublicKey
from node.client.http_answers import bytes_of
from storage.identifiers import RecordAddress, SeatIndex, TenantId, VersionId
from storage.tenant_changes import ShareCommitment, TenantRecord

if TYPE_CHECKING:
    from node.client.http_chain import HttpChain


class RecordAnswer(msgspec.Struct):
    """Where a record of a tenant is."""

    version_id: str
    record_address: str


class GrantAnswer(msgspec.Struct):
    """A client that acts for a tenant."""

    public_key: str
    certificate: str
    keys: RecordAnswer | None


class RecoveryAnswer(msgspec.Struct):
    """An announced key."""

    public_key: str
    announced_by: int
    announced_ms: int
    approvals: list[tuple[int, RecordAnswer]]


class EscrowAnswer(msgspec.Struct):
    """Keys in escrow."""

    shares: RecordAnswer
    commitments: list[tuple[int, str]]
    recoveries: list[RecoveryAnswer]


class TenantAnswer(msgspec.Struct):
    """A tenant."""

    public_key: str
    home: int
    quota_bytes: int
    segment_bytes: int
    entry_count: int
    grants: list[GrantAnswer]
    access: RecordAnswer | None
    escrow: EscrowAnswer | None


class GrantedAnswer(msgspec.Struct):
    """A tenant that has granted a key."""

    tenant: str
    keys: RecordAnswer | None
    access: RecordAnswer | None


class GrantsAnswer(msgspec.Struct):
    """The tenants that have granted a key."""

    tenants: list[GrantedAnswer]


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantView:
    """A client that acts for a tenant, and where the keys are that were sealed to it."""

    public_key: PublicKey
    certificate: bytes
    keys: TenantRecord | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryView:
    """A key that a seat has announced, and the shares handed over to it."""

    public_key: PublicKey
    announced_by: SeatIndex
    announced_ms: Milliseconds
    shares: tuple[tuple[SeatIndex, TenantRecord], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EscrowView:
    """A tenant's keys in escrow."""

    shares: TenantRecord
    commitments: tuple[ShareCommitment, ...]
    recoveries: tuple[RecoveryView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantView:
    """What the chain shows of a tenant."""

    public_key: PublicKey
    home: SeatIndex
    quota_bytes: int
    segment_bytes: int
    entry_count: int
    grants: tuple[GrantView, ...]
    access: TenantRecord | None
    escrow: EscrowView | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantedView:
    """A tenant that has granted a key, where its keys and its access keys are."""

    tenant: TenantId
    keys: TenantRecord | None
    access: TenantRecord | None


class TenantChain(Protocol):
    """The chain as owners and gateways ask it; raises PeerUnreachableError when no node answers."""

    async def tenant(self, tenant: TenantId) -> TenantView | None:
        """Return what the chain shows of a tenant, None when there is none."""
        ...

    async def granted(self, public_key: PublicKey) -> tuple[GrantedView, ...]:
        """Return the tenants that have granted a key."""
        ...


class HttpTenantChain:
    """Implements TenantChain over the nodes of an HttpChain."""

    def __init__(self, chain: HttpChain) -> None:
        self._chain = chain

    async def tenant(self, tenant: TenantId) -> TenantView | None:
        """Return what the chain shows of a tenant."""
        answer = await self._chain.question(f"/v1/tenants/{tenant.hex()}", TenantAnswer)
        return None if answer is None else _tenant_of(answer)

    async def granted(self, public_key: PublicKey) -> tuple[GrantedView, ...]:
        """Return the tenants that have granted a key."""
        answer = await self._chain.question(f"/v1/grants/{public_key.hex()}", GrantsAnswer)
        return () if answer is None else tuple(_granted_of(granted) for granted in answer.tenants)


def _tenant_of(answer: TenantAnswer) -> TenantView:
    return TenantView(
        public_key=PublicKey(bytes_of(answer.public_key)),
        home=SeatIndex(answer.home),
        quota_bytes=answer.quota_bytes,
        segment_bytes=answer.segment_bytes,
        entry_count=answer.entry_count,
        grants=tuple(
            GrantView(
                public_key=PublicKey(bytes_of(grant.public_key)),
                certificate=bytes_of(grant.certificate),
                keys=_record_of(grant.keys),
            )
            for grant in answer.grants
        ),
        access=_record_of(answer.access),
        escrow=None if answer.escrow is None else _escrow_of(answer.escrow),
    )


def _granted_of(answer: GrantedAnswer) -> GrantedView:
    return GrantedView(
        tenant=TenantId(bytes_of(answer.tenant)), keys=_record_of(answer.keys), access=_record_of(answer.access)
    )


def _escrow_of(answer: EscrowAnswer) -> EscrowView:
    return EscrowView(
        shares=_placed(answer.shares),
        commitments=tuple(
            ShareCommitment(seat=SeatIndex(seat), commitment=bytes_of(commitment))
            for seat, commitment in answer.commitments
        ),
        recoveries=tuple(
            RecoveryView(
                public_key=PublicKey(bytes_of(recovery.public_key)),
                announced_by=SeatIndex(recovery.announced_by),
                announced_ms=Milliseconds(recovery.announced_ms),
                shares=tuple((SeatIndex(seat), _placed(share)) for seat, share in recovery.approvals),
            )
            for recovery in answer.recoveries
        ),
    )


def _record_of(answer: RecordAnswer | None) -> TenantRecord | None:
    return None if answer is None else _placed(answer)


def _placed(answer: RecordAnswer) -> TenantRecord:
    return TenantRecord(
        version_id=VersionId(bytes_of(answer.version_id)), record_address=RecordAddress(bytes_of(answer.record_address))
    )
