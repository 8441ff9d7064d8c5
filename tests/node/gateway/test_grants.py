"""A gateway serves whoever has granted it, as the chain says; here of a chain that says what the test wants."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from consensus.genesis import ConsensusParameters, Genesis
from consensus.identifiers import Milliseconds
from consensus.signing import SigningKey
from node.client.granted import Granted
from node.client.tenant_chain import GrantedView
from node.errors import PeerUnreachableError
from node.gateway.access_keys import AccessKey, AccessSecret
from node.gateway.grants import LOOK_SECONDS, GrantFollower
from node.gateway.own_key import OwnKey
from node.gateway.tenant_task import ServedTenants
from storage.errors import ShardMissingError
from storage.identifiers import RecordAddress, TenantId, VersionId
from storage.tenant_changes import TenantRecord
from storage.tenant_records import MasterKeys
from tests.node.gateway.memory_store import MemoryStore

if TYPE_CHECKING:
    from consensus.identifiers import PublicKey
    from node.client.tenant_chain import TenantView

ONE, TWO = TenantId(b"1" * 16), TenantId(b"2" * 16)


def record(number: int) -> TenantRecord:
    return TenantRecord(version_id=VersionId(bytes([number]) * 16), record_address=RecordAddress(bytes([number]) * 32))


def view(tenant: TenantId, keys: int | None = 1, access: int = 1) -> GrantedView:
    return GrantedView(tenant=tenant, keys=None if keys is None else record(keys), access=record(access))


@dataclass
class Served:
    """Implements Serving."""

    renewed: int = 0
    ended: bool = False

    def renew(self, granted: Granted) -> None:
        assert granted.master_keys.secrets, "opened"
        self.renewed += 1

    def end(self) -> None:
        self.ended = True


@dataclass
class World:
    """Implements TenantChain, and opens and serves."""

    views: tuple[GrantedView, ...] = ()
    unreachable: bool = False
    closed: set[TenantId] = field(default_factory=set[TenantId])
    served: dict[TenantId, list[Served]] = field(default_factory=dict[TenantId, list[Served]])

    async def tenant(self, tenant: TenantId) -> TenantView | None:
        raise AssertionError("nobody asks")

    async def granted(self, public_key: PublicKey) -> tuple[GrantedView, ...]:
        await trio.lowlevel.checkpoint()
        if self.unreachable:
            raise PeerUnreachableError("no node answers")
        return self.views

    async def open(self, asked: GrantedView) -> Granted | None:
        await trio.lowlevel.checkpoint()
        if asked.tenant in self.closed:
            raise ShardMissingError("no live holder has the record")
        return Granted(MasterKeys(tenant=asked.tenant, secrets=(bytes(32),)), ())

    async def serve(self, granted: Granted) -> Served:
        await trio.lowlevel.checkpoint()
        served = Served()
        self.served.setdefault(granted.master_keys.tenant, []).append(served)
        return served

    async def look(self, **changed: object) -> None:
        """Let the gateway look once more, at a changed world."""
        for name, to in changed.items():
            setattr(self, name, to)
        with trio.move_on_after(2 * LOOK_SECONDS):  # of a clock that jumps
            await trio.sleep_forever()


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=0)


async def test_tenants_come_change_and_go_as_the_chain_says(tmp_path: Path, autojump_clock: object) -> None:
    world = World(views=(view(ONE), view(TWO, keys=None)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower(world, tmp_path).run)
        await world.look()
        assert world.served.keys() == {ONE}, "who sealed no keys is not served"
        await world.look(views=(view(ONE), view(TWO)))
        assert {tenant: len(served) for tenant, served in world.served.items()} == {ONE: 1, TWO: 1}
        await world.look(views=(view(ONE, access=2), view(TWO)))
        await world.look(views=(view(ONE, keys=3, access=2), view(TWO)))
        assert (world.served[ONE][0].renewed, world.served[TWO][0].renewed) == (2, 0)
        await world.look(views=(view(TWO),))
        assert (world.served[ONE][0].ended, world.served[TWO][0].ended) == (True, False)
        await world.look(views=(view(ONE, keys=4), view(TWO)))
        assert [served.ended for served in world.served[ONE]] == [True, False]
        nursery.cancel_scope.cancel()


async def test_what_cannot_be_opened_yet_is_tried_again(tmp_path: Path, autojump_clock: object) -> None:
    world = World(views=(view(ONE), view(TWO)), closed={ONE})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower(world, tmp_path).run)
        await world.look()
        assert world.served.keys() == {TWO}
        await world.look(unreachable=True)
        await world.look(closed=set[TenantId]())
        assert world.served.keys() == {TWO}, "no node, no news"
        assert not world.served[TWO][0].ended
        await world.look(unreachable=False)
        assert world.served.keys() == {ONE, TWO}
        nursery.cancel_scope.cancel()


def follower(world: World, folder: Path) -> GrantFollower:
    genesis = Genesis(
        chain_id="test", time_ms=Milliseconds(0), members=(), parameters=ConsensusParameters(), application=b""
    )
    own = OwnKey(folder=folder, signing_key=SigningKey(bytes(32)), genesis=genesis, nodes=())
    return GrantFollower(own, world, world.open, world.serve)


def test_no_tenant_takes_the_name_of_another_ones_access_key() -> None:
    served, one, two = ServedTenants(), MemoryStore(), MemoryStore()

    def access_key(name: str, tenant: TenantId) -> AccessKey:
        return AccessKey(access_key=name, secret=AccessSecret(tenant), tenant=tenant)

    served.put(ONE, one, [access_key("A", ONE), access_key("B", ONE)])
    served.put(TWO, two, [access_key("A", TWO), access_key("C", TWO)])
    found = {name: served.access_key(name) for name in "ABC"}
    assert {name: one and one.tenant for name, one in found.items()} == {"A": ONE, "B": ONE, "C": TWO}
    served.put(ONE, one, [access_key("B", ONE)])
    served.remove(TWO)
    assert [name for name in "ABC" if served.access_key(name)] == ["B"]
