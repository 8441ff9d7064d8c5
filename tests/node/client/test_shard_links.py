"""The client over nine real holders on real shard channels, in one process; only agreement is left out."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import trio

from consensus.identifiers import Height, PublicKey
from consensus.signing import SigningKey
from node.client.client import Client, client_over
from node.client.shard_links import dialler
from node.client.sources import bytes_source
from node.holder import Holder, HolderIdentity
from node.network.certificates import make_certificate
from node.network.shard_channel import ShardServer
from storage.genesis import Seat, storage_genesis
from storage.identifiers import RecordAddress, SeatIndex, SegmentId, TenantId
from storage.state import SegmentState, freed_key, read_state, segment_key
from storage.stores.protocols import ShardName
from storage.stores.units import LevelShardStore
from tests.node.client.nine import SEATS, Nine


@dataclass
class ChainOf:
    """Implements HolderChain and RecordReader."""

    nine: Nine

    def height(self) -> Height:
        return self.nine.chain.height

    def is_member(self, peer: PublicKey) -> bool:
        return False

    def is_granted(self, peer: PublicKey, tenant: TenantId) -> bool:
        return (peer, tenant) == (self.nine.home.signing_key.public, self.nine.home.tenant)

    def segment(self, segment_id: SegmentId) -> SegmentState | None:
        return read_state(self.nine.chain.state, segment_key(segment_id), SegmentState)

    def is_freed(self, segment_id: SegmentId) -> bool:
        return self.nine.chain.state.value(freed_key(segment_id)) is not None

    def record_tenant(self, address: RecordAddress) -> TenantId | None:
        return self.nine.home.tenant if address in self.nine.chain.records else None

    def read(self, addresses: Sequence[RecordAddress]) -> Mapping[RecordAddress, bytes]:
        return {name: self.nine.chain.records[name] for name in addresses if name in self.nine.chain.records}


class ChannelNine:
    """Nine servers; a seat can be killed and started again on its port and store."""

    def __init__(self, nine: Nine, folder: Path, nursery: trio.Nursery) -> None:
        self.nine = nine
        self.folder = folder
        self.nursery = nursery
        self.keys = [SigningKey(bytes([seat]) * 32) for seat in range(SEATS)]
        self.ports = [0] * SEATS
        self.scopes = [trio.CancelScope() for _ in range(SEATS)]
        self.damaged: list[ShardName] = []

    async def start(self, seat: SeatIndex) -> None:
        chain = ChainOf(self.nine)
        identity = HolderIdentity(
            seat=seat,
            seats=tuple(SeatIndex(index) for index in range(SEATS)),
            signing_key=self.nine.holders[seat].signing_key,
            genesis_hash=self.nine.genesis_hash,
            network_key=self.keys[seat].public,
        )
        store = LevelShardStore(self.folder / f"{seat}")
        holder = Holder(identity=identity, shards=store, records=chain, chain=chain, on_corrupt=self.damaged.append)
        server = ShardServer(self.keys[seat], holder)
        server.accept_only([make_certificate(self.nine.home.signing_key)])
        self.ports[seat] = await server.listen("127.0.0.1", self.ports[seat])
        self.scopes[seat] = trio.CancelScope()
        self.nursery.start_soon(self._serve, server, store, self.scopes[seat])

    async def _serve(self, server: ShardServer, store: LevelShardStore, scope: trio.CancelScope) -> None:
        try:
            with scope:
                await server.serve()
        finally:
            store.close()

    def kill(self, seat: int) -> None:
        self.scopes[seat].cancel()

    def seats(self) -> tuple[Seat, ...]:
        return tuple(
            msgspec.structs.replace(seat, certificate=make_certificate(self.keys[index]), shard_port=self.ports[index])
            for index, seat in enumerate(storage_genesis(self.nine.genesis).seats)
        )


@asynccontextmanager
async def channels(tmp_path: Path) -> AsyncGenerator[tuple[ChannelNine, Client], None]:
    nine = Nine(tmp_path)
    async with trio.open_nursery() as nursery:
        running = ChannelNine(nine, tmp_path / "stores", nursery)
        for seat in range(SEATS):
            await running.start(SeatIndex(seat))
        connect = dialler(running.seats(), nine.home.signing_key, nursery)
        async with client_over(nine.home, nine.chain, connect) as client:
            yield running, client
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("byte_count", [0, 10_000, 5_000_000, 40_000_000])
async def test_what_is_put_comes_back_over_real_channels(tmp_path: Path, byte_count: int) -> None:
    plain = random.Random(1).randbytes(byte_count)
    async with channels(tmp_path) as (_, client):
        acknowledged = await client.put("bucket", "name", bytes_source(plain))
        assert acknowledged.receipts == 9
        assert await client.get("bucket", "name") == plain
        status = await client.stat(await client.open("bucket", "name"))
        assert status.columns_live == 9


async def test_three_holders_die_and_come_back(tmp_path: Path) -> None:
    plain = random.Random(2).randbytes(3_000_000)
    async with channels(tmp_path) as (running, client):
        await client.put("bucket", "before", bytes_source(plain))
        for seat in (2, 5, 8):
            running.kill(seat)
        with trio.fail_after(5):
            acknowledged = await client.put("bucket", "after", bytes_source(plain))
        assert acknowledged.receipts == 6
        assert await client.get("bucket", "before") == plain
        assert await client.get("bucket", "after") == plain
        for seat in (2, 5, 8):
            await running.start(SeatIndex(seat))
        assert await client.wait_sealed(acknowledged.segment_ids)
        status = await client.stat(await client.open("bucket", "after"))
        assert (status.state, status.k, status.columns_live) == ("sealed", 4, 9)
