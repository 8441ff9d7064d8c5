"""Buckets, versions, changes and tenants: what a node answers over HTTP is what a client reads."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from consensus.errors import RejectionError
from consensus.identifiers import Height, Milliseconds
from node.client.chain import ListingPlace, VersionPlace
from node.client.errors import ChangesForgottenError
from node.client.http_chain import HttpChain
from node.client.tenant_chain import HttpTenantChain
from storage.buckets import (
    NULL_VERSION,
    DefaultRetention,
    EntryDetails,
    EntryKind,
    ObjectLock,
    Retention,
    RetentionMode,
    SetBucket,
    Versioning,
    VersionLock,
)
from storage.identifiers import BucketTag, RecordAddress, SeatIndex, TenantId, VersionId
from storage.tenant_changes import AnnounceRecovery, SetAccess, SetEscrow, ShareCommitment, TenantRecord
from storage.transactions import GrantClient
from tests.node.api.site import Site, open_site
from tests.storage.ledger_world import BUCKET, TENANT, entry, name_tag, signing_key

LOCK = ObjectLock(default=DefaultRetention(mode=RetentionMode.GOVERNANCE, days=1))
RETENTION = Retention(mode=RetentionMode.COMPLIANCE, until_ms=Milliseconds(2**50))
OWN_LOCK = EntryDetails(kind=EntryKind.OBJECT, lock=VersionLock(retention=RETENTION, legal_hold=True))
MARKER = EntryDetails(kind=EntryKind.MARKER, lock=None)


def bucket(tag: BucketTag = BUCKET, lock: ObjectLock | None = None) -> SetBucket:
    return SetBucket(
        tenant=TENANT,
        bucket_tag=tag,
        version_id=VersionId(b"v" * 16),
        record_address=RecordAddress(b"r" * 32),
        versioning=Versioning.ENABLED,
        lock=lock,
        condition=None,
    )


@asynccontextmanager
async def chain(folder: Path) -> AsyncGenerator[tuple[Site, HttpChain], None]:
    async with open_site(folder) as site:
        yield site, HttpChain(("http://node",), TENANT, site.http)


async def test_buckets_come_as_they_stand(tmp_path: Path) -> None:
    other = BucketTag(b"A" * 16)
    async with chain(tmp_path) as (site, asked):
        site.append(site.world.transaction(bucket(lock=LOCK)), site.world.transaction(bucket(other)))
        found, none = await asked.find_buckets((BUCKET, BucketTag(bytes(16))))
        assert none is None
        assert found is not None
        assert (found.versioning, found.lock, found.entry_count, found.height) == (Versioning.ENABLED, LOCK, 0, 1)
        assert (found.version_id, found.record_address) == (bucket().version_id, bucket().record_address)
        listed = await asked.buckets(None, 10)
        assert [view.bucket_tag for view in listed] == [other, BUCKET]
        assert listed[0].lock is None
        assert [view.bucket_tag for view in await asked.buckets(other, 10)] == [BUCKET]
        assert len(await asked.buckets(None, 1)) == 1


async def test_versions_come_with_what_retains_them(tmp_path: Path) -> None:
    async with chain(tmp_path) as (site, asked):
        world = site.world
        first, second = entry("a", version="1", details=OWN_LOCK), entry("a", version="2")
        marker = entry("a", version="3", details=MARKER)
        site.append(world.transaction(bucket(lock=ObjectLock(default=None))))
        for one in (first, second, marker):
            site.append(world.transaction(world.commit((), one)))
        tag = name_tag("a")
        places = [VersionPlace(BUCKET, tag, one.version_id) for one in (first, second, marker)]
        found = await asked.find_versions((*places, VersionPlace(BUCKET, tag, NULL_VERSION)))
        assert [None if view is None else view.version_id for view in found] == [
            first.version_id,
            second.version_id,
            marker.version_id,
            None,
        ]
        (current,) = await asked.find_entries((ListingPlace(BUCKET, tag),))
        assert current == found[2]
        assert current is not None
        assert (current.kind, current.older, current.is_null) == (EntryKind.MARKER, second.version_id, False)
        assert found[0] is not None
        assert found[0].lock == OWN_LOCK.lock
        listed = await asked.versions(BUCKET, None, 10)
        assert {view.version_id for view in listed} == {first.version_id, second.version_id}
        behind = VersionPlace(BUCKET, tag, listed[0].version_name)
        assert await asked.versions(None, behind, 10) == listed[1:]
        assert len(await asked.versions(None, None, 1)) == 1


async def test_changes_name_each_object_once(tmp_path: Path) -> None:
    async with chain(tmp_path) as (site, asked):
        world = site.world
        site.append(world.transaction(world.commit((), entry("a"), entry("b"))))
        site.append(world.transaction(world.commit((), entry("a", version="2"))))
        site.append()
        changes = await asked.changes(Height(0))
        assert (changes.height, len(changes.objects)) == (3, 2)
        later = await asked.changes(Height(1))
        assert later.objects == (ListingPlace(BUCKET, name_tag("a")),)
        assert await asked.changes(Height(3)) == type(later)(Height(3), ())


async def test_what_is_malformed_is_refused_by_reason(tmp_path: Path) -> None:
    async with chain(tmp_path) as (site, asked):
        handle = TENANT.hex()
        for path in (
            "/v1/buckets",
            "/v1/buckets?tenant=zz",
            f"/v1/buckets?tenant={handle}&after=1",
            f"/v1/versions?tenant={handle}&after={handle}.{handle}",
            f"/v1/versions?tenant={handle}&limit=-1",
            f"/v1/changes?tenant={handle}&above=x",
            "/v1/grants/11",
        ):
            await site.error(path, 400, "malformed")
        await site.error(f"/v1/tenants/{bytes(16).hex()}", 404, "not_found")
        with pytest.raises(RejectionError, match="malformed"):
            await asked.find_versions((VersionPlace(BUCKET, name_tag("a"), VersionId(b"short")),))


async def test_pruned_blocks_are_said_to_be_pruned(tmp_path: Path) -> None:
    async with chain(tmp_path) as (site, asked):
        for number in range(4):
            site.append(site.world.transaction(site.world.commit((), entry("a", version=str(number)))))
        while site.store.prune_some(Height(3)):
            pass
        with pytest.raises(ChangesForgottenError, match="pruned blocks above 0"):
            await asked.changes(Height(0))
        assert len((await asked.changes(Height(2))).objects) == 1


async def test_tenants_and_grants_come_as_they_stand(tmp_path: Path) -> None:
    async with chain(tmp_path) as (site, asked):
        world, tenants = site.world, HttpTenantChain(asked)
        record = TenantRecord(version_id=VersionId(b"k" * 16), record_address=RecordAddress(b"k" * 32))
        gateway = signing_key("gateway").public
        commitments = tuple(ShareCommitment(seat=SeatIndex(i), commitment=bytes([i]) * 32) for i in range(4))
        bodies = (
            GrantClient(tenant=TENANT, public_key=gateway, certificate=b"c", keys=record),
            SetAccess(tenant=TENANT, access=record),
            SetEscrow(tenant=TENANT, shares=record, commitments=commitments),
        )
        site.append(*(world.transaction(body, sender="tenant") for body in bodies))
        announced = AnnounceRecovery(tenant=TENANT, public_key=gateway)
        site.append(world.transaction(announced, sender="seat 1"))
        view = await tenants.tenant(TENANT)
        assert view is not None
        assert (view.public_key, view.home, view.access) == (signing_key("tenant").public, 0, record)
        assert {(grant.public_key, grant.keys) for grant in view.grants} == {
            (gateway, record),
            (signing_key("client").public, None),
        }
        assert view.escrow is not None
        assert (view.escrow.shares, view.escrow.commitments) == (record, commitments)
        (recovery,) = view.escrow.recoveries
        assert (recovery.public_key, recovery.announced_by, recovery.shares) == (gateway, 1, ())
        (granted,) = await tenants.granted(gateway)
        assert (granted.tenant, granted.keys, granted.access) == (TENANT, record, record)
        assert await tenants.granted(signing_key("stranger").public) == ()
        assert await tenants.tenant(TenantId(bytes(16))) is None
