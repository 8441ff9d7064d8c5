"""An owner's work on a real ledger in memory: what a gateway then opens, and what a revoked one no longer does."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import pytest
import trio

from consensus.identifiers import PublicKey
from consensus.signing import SigningKey
from node.client.client import Client
from node.client.granted import Granted, open_grant
from node.client.ownership import Owner, Seats
from node.client.records import SealedRecords
from node.client.sources import bytes_source
from node.client.tenant_chain import EscrowView, GrantedView, GrantView, RecoveryView, TenantView
from node.escrow import hand_over, read_shares, recover_keys
from node.keystore import OwnerSecrets
from storage.errors import UnsealError
from storage.identifiers import SeatIndex, TenantId
from storage.state import (
    AccessState,
    EscrowState,
    GrantState,
    TenantState,
    access_key,
    decode_state,
    escrow_key,
    grant_key,
    read_state,
    tenant_key,
)
from storage.tenant_records import AccessKeyRecord, AccessVerb, MasterKeys
from tests.node.client.nine import Nine

GATEWAY, OTHER = SigningKey(b"g" * 32), SigningKey(b"o" * 32)
NETWORK = {SeatIndex(seat): SigningKey(bytes([seat + 1]) * 32) for seat in range(9)}
SEATS = Seats({seat: network.public for seat, network in NETWORK.items()}, 6)
ACCESS = AccessKeyRecord(access_key="GR1", secret_key="x" * 40, buckets=None, verbs=(AccessVerb.READ,), expires_ms=None)


@dataclass(slots=True)
class MemoryTenants:
    """Implements TenantChain over the state of a chain in memory."""

    nine: Nine

    async def tenant(self, tenant: TenantId) -> TenantView | None:
        await trio.lowlevel.checkpoint()
        state = self.nine.chain.state
        found = read_state(state, tenant_key(tenant), TenantState)
        if found is None:
            return None
        access = read_state(state, access_key(tenant), AccessState)
        escrow = read_state(state, escrow_key(tenant), EscrowState)
        grants = [row for row in state.values if row.startswith(b"g" + tenant)]
        return TenantView(
            public_key=found.public_key,
            home=found.home,
            quota_bytes=found.quota_bytes,
            segment_bytes=found.segment_bytes,
            entry_count=found.entry_count,
            grants=tuple(_grant(row, state.values[row]) for row in sorted(grants)),
            access=None if access is None else access.access,
            escrow=None if escrow is None else _escrow(escrow),
        )

    async def granted(self, public_key: PublicKey) -> tuple[GrantedView, ...]:
        tenant = self.nine.home.tenant
        grant = read_state(self.nine.chain.state, grant_key(tenant, public_key), GrantState)
        view = await self.tenant(tenant)
        assert view is not None
        return () if grant is None else (GrantedView(tenant=tenant, keys=grant.keys, access=view.access),)


def _grant(row: bytes, encoded: bytes) -> GrantView:
    state = decode_state(encoded, GrantState)
    return GrantView(public_key=PublicKey(row[17:]), certificate=state.certificate, keys=state.keys)


def _escrow(state: EscrowState) -> EscrowView:
    return EscrowView(
        shares=state.shares,
        commitments=state.commitments,
        recoveries=tuple(
            RecoveryView(
                public_key=recovery.public_key,
                announced_by=recovery.announced_by,
                announced_ms=recovery.announced_ms,
                shares=tuple((approval.seat, approval.share) for approval in recovery.approvals),
            )
            for recovery in state.recoveries
        ),
    )


@dataclass(slots=True)
class Place:
    """A chain, its tenant's owner, and a client through which records are read."""

    nine: Nine
    client: Client
    records: SealedRecords
    owner: Owner
    saved: list[OwnerSecrets] = field(default_factory=list[OwnerSecrets])

    async def opened_by(self, key: SigningKey) -> Granted | None:
        (granted,) = await MemoryTenants(self.nine).granted(key.public)
        return await open_grant(granted, key, self.records)


@asynccontextmanager
async def place(tmp_path: Path) -> AsyncGenerator[Place, None]:
    nine = Nine(tmp_path)
    owner_secrets = OwnerSecrets(
        signing_seed=nine.owner_key.seed(),
        client_seed=nine.home.signing_key.seed(),
        master_keys=MasterKeys(tenant=nine.home.tenant, secrets=tuple(key.reveal() for key in nine.home.master_keys)),
        access_keys=(),
    )
    saved: list[OwnerSecrets] = []
    owner = Owner(owner_secrets, saved.append, nine.chain, MemoryTenants(nine), nine.genesis_hash)
    async with nine.client() as client, trio.open_nursery() as nursery:
        records = SealedRecords(client.pool, nine.home.tenant)
        nursery.start_soon(records.run)
        yield Place(nine, client, records, owner, saved)
        nursery.cancel_scope.cancel()


async def test_a_granted_gateway_opens_the_keys_that_were_sealed_to_it(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.owner.grant(GATEWAY.public, b"certificate")
        await here.owner.add_access_key(ACCESS)
        found = await here.opened_by(GATEWAY)
        assert found == Granted(here.owner.secrets.master_keys, (ACCESS,))
        (granted,) = await MemoryTenants(here.nine).granted(GATEWAY.public)
        with pytest.raises(UnsealError, match="another key"):
            await open_grant(granted, OTHER, here.records)
        assert await here.owner.remove_access_key("GR1")
        assert not await here.owner.remove_access_key("GR1")
        assert await here.opened_by(GATEWAY) == Granted(here.owner.secrets.master_keys, ())


async def test_a_revocation_starts_a_master_key_that_the_revoked_never_sees(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.owner.grant(GATEWAY.public, b"certificate")
        await here.owner.grant(OTHER.public, b"certificate")
        await here.owner.add_access_key(ACCESS)
        await here.owner.escrow(SEATS)
        before = here.owner.secrets.master_keys
        await here.owner.revoke(OTHER.public, SEATS)
        after = here.owner.secrets.master_keys
        assert after.secrets[:-1] == before.secrets
        assert here.saved[-1].master_keys == after
        assert await here.opened_by(GATEWAY) == Granted(after, (ACCESS,))
        assert await MemoryTenants(here.nine).granted(OTHER.public) == ()
        transactions = b"".join(here.nine.chain.records.values())
        assert after.secrets[-1] not in transactions
        await here.owner.revoke(OTHER.public, SEATS)
        assert here.owner.secrets.master_keys == after, "again is the same as once"


async def test_what_was_stored_before_a_revocation_is_sealed_again_and_still_read(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.client.put("photos", "cat", bytes_source(b"meow"))
        await here.owner.grant(GATEWAY.public, b"certificate")
        await here.owner.revoke(GATEWAY.public, SEATS)
    here.nine.home = replace(here.nine.home, master_keys=here.owner.secrets.master_keys.keys())
    async with here.nine.client() as client:
        report = await client.rewrap()
        assert (report.records, report.buckets) == (1, 1)
        assert await client.get("photos", "cat") == b"meow"


async def test_lost_keys_come_back_from_shares_that_the_chain_has_seen(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.owner.escrow(SEATS)
        view = await MemoryTenants(here.nine).tenant(here.owner.tenant)
        assert view is not None
        assert view.escrow is not None
        shares = read_shares(await here.records.sealed(view.escrow.shares))
        finder = SigningKey(b"f" * 32)
        handed = {seat: hand_over(shares, seat, NETWORK[seat], finder.public) for seat in list(NETWORK)[3:]}
        found = recover_keys(shares, handed, view.escrow.commitments, finder, 6)
        assert found == here.owner.secrets.master_keys
        await here.owner.leave_escrow()
        left = await MemoryTenants(here.nine).tenant(here.owner.tenant)
        assert left is not None
        assert left.escrow is None


async def test_a_move_changes_the_home_alone(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.client.put("photos", "cat", bytes_source(b"meow"))
        before = here.nine.chain.live_segments()
        await here.owner.move(SeatIndex(4))
        view = await MemoryTenants(here.nine).tenant(here.owner.tenant)
        assert view is not None
        assert (view.home, here.nine.chain.live_segments()) == (4, before)
        assert await here.client.get("photos", "cat") == b"meow"


async def test_so_many_access_keys_and_no_more(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        many = tuple(msgspec.structs.replace(ACCESS, access_key=f"GR{number}") for number in range(64))
        here.owner.secrets = msgspec.structs.replace(here.owner.secrets, access_keys=many)
        with pytest.raises(Exception, match="64 access keys"):
            await here.owner.add_access_key(ACCESS)
        await here.owner.grant(GATEWAY.public, b"certificate")
        await here.owner.remove_access_key("GR0")
        found = await here.opened_by(GATEWAY)
        assert found is not None
        assert len(found.access_keys) == 63
