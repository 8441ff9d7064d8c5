"""Questions of tenants' owners and of gateways: what the chain knows of a tenant, and who has granted a key.

GET  /v1/tenants/TENANT          key, home, quota, usage, grants, where access keys and escrow are
GET  /v1/grants/PUBLIC_KEY       the tenants that have granted this key
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio

from consensus.identifiers import PublicKey
from node.api.answers import json_answer
from node.api.questions import HANDLE_BYTES, HASH_BYTES, MissingError, read_hex
from storage.identifiers import TenantId
from storage.state import (
    AccessState,
    EscrowState,
    GrantState,
    TenantState,
    access_key,
    escrow_key,
    grant_key,
    read_state,
    tenant_key,
)

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from storage.stores.blocks import ChainStore
    from storage.tenant_changes import TenantRecord


class RecordAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Where a record of a tenant is."""

    version_id: str
    record_address: str


class GrantAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A client that acts for a tenant."""

    public_key: str
    certificate: str
    keys: RecordAnswer | None


class RecoveryAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A key that a seat has announced for a tenant."""

    public_key: str
    announced_by: int
    announced_ms: int
    approvals: list[tuple[int, RecordAnswer]]


class EscrowAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's keys in escrow."""

    shares: RecordAnswer
    commitments: list[tuple[int, str]]
    recoveries: list[RecoveryAnswer]


class TenantAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/tenants/TENANT."""

    tenant: str
    public_key: str
    home: int
    quota_bytes: int
    bucket_count: int
    entry_count: int
    entry_bytes: int
    segment_count: int
    segment_bytes: int
    grants: list[GrantAnswer]
    access: RecordAnswer | None
    escrow: EscrowAnswer | None


class GrantedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One of GET /v1/grants/PUBLIC_KEY."""

    tenant: str
    keys: RecordAnswer | None
    access: RecordAnswer | None


class GrantsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/grants/PUBLIC_KEY."""

    tenants: list[GrantedAnswer]


class TenantViews:
    """Answers from one chain store; disk work runs in threads."""

    def __init__(self, store: ChainStore) -> None:
        self._store = store

    async def tenant(self, request: Request) -> Response:
        """Tell what the chain knows of a tenant."""
        tenant = TenantId(read_hex(request.path_params["tenant"], HANDLE_BYTES, "tenant"))
        return json_answer(await trio.to_thread.run_sync(self._tenant, tenant))

    async def grants(self, request: Request) -> Response:
        """Name the tenants that have granted a key."""
        public_key = PublicKey(read_hex(request.path_params["public_key"], HASH_BYTES, "public key"))
        return json_answer(await trio.to_thread.run_sync(self._granted, public_key))

    def _tenant(self, tenant: TenantId) -> TenantAnswer:
        state = read_state(self._store, tenant_key(tenant), TenantState)
        if state is None:
            raise MissingError(f"no tenant {tenant.hex()}")
        return TenantAnswer(
            tenant=tenant.hex(),
            public_key=state.public_key.hex(),
            home=state.home,
            quota_bytes=state.quota_bytes,
            bucket_count=state.bucket_count,
            entry_count=state.entry_count,
            entry_bytes=state.entry_bytes,
            segment_count=state.segment_count,
            segment_bytes=state.segment_bytes,
            grants=[
                GrantAnswer(public_key=public_key.hex(), certificate=grant.certificate.hex(), keys=_record(grant.keys))
                for public_key, grant in self._store.grants(tenant)
            ],
            access=self._access(tenant),
            escrow=_escrow(read_state(self._store, escrow_key(tenant), EscrowState)),
        )

    def _granted(self, public_key: PublicKey) -> GrantsAnswer:
        found: list[GrantedAnswer] = []
        for tenant, _ in self._store.tenants():
            grant = read_state(self._store, grant_key(tenant, public_key), GrantState)
            if grant is not None:
                answer = GrantedAnswer(tenant=tenant.hex(), keys=_record(grant.keys), access=self._access(tenant))
                found.append(answer)
        return GrantsAnswer(tenants=found)

    def _access(self, tenant: TenantId) -> RecordAnswer | None:
        state = read_state(self._store, access_key(tenant), AccessState)
        return None if state is None else _record(state.access)


def _record(record: TenantRecord | None) -> RecordAnswer | None:
    return None if record is None else _placed(record)


def _placed(record: TenantRecord) -> RecordAnswer:
    return RecordAnswer(version_id=record.version_id.hex(), record_address=record.record_address.hex())


def _escrow(state: EscrowState | None) -> EscrowAnswer | None:
    if state is None:
        return None
    return EscrowAnswer(
        shares=_placed(state.shares),
        commitments=[(one.seat, one.commitment.hex()) for one in state.commitments],
        recoveries=[
            RecoveryAnswer(
                public_key=recovery.public_key.hex(),
                announced_by=recovery.announced_by,
                announced_ms=recovery.announced_ms,
                approvals=[(approval.seat, _placed(approval.share)) for approval in recovery.approvals],
            )
            for recovery in state.recoveries
        ],
    )
