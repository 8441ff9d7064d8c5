"""A seat burns with its share of 1 GiB of objects: how fast its columns are back, at what traffic, and who notices.

First small objects are read while it rebuilds; half way it is killed, and rebuilds the rest alone. That rate stands
beside what loopback, coding and disk give here, each alone, in the same run. What was transferred is counted by what
the other holders keep of it.
"""

from __future__ import annotations

import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx
import trio

from consensus.errors import GrandestError
from consensus.genesis import genesis_hash
from node.cli.audited_reads import kept_receipts
from node.client import bytes_source, open_client, read_client_home
from node.clock import now_ms
from node.errors import NodeError
from node.keys import load_keys
from node.network.shard_channel import MemberReads, open_shard_client
from node.nurseries import open_plain_nursery
from storage.erasure import reconstruct
from storage.identifiers import LEAF_BYTES, ColumnIndex, SeatIndex, TenantId
from storage.merkle import check_shard
from storage.placement import column_seats
from storage.read_receipts import LEAVES_PER_READ_MAX, decode_read
from storage.segments import SegmentShape
from storage.stores.protocols import ShardName
from storage.stores.units import LevelShardStore
from testnet.bench.figures import MEGA, PERCENT, Better, Figure, percentile
from testnet.cluster import burn_seat, kill_seat, start_seat, votes, wait_for_seats

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from consensus.identifiers import Buffer
    from node.client import Client
    from node.client.chain import SegmentView
    from node.network.shard_channel import ShardClient
    from storage.identifiers import SegmentId
    from testnet.cluster import Cluster

OBJECTS: Final = 4
OBJECT_BYTES: Final = 256 * 1024 * 1024
SMALL_BYTES: Final = 10_000
BUCKET: Final = "bench-rebuild"
BURNT: Final = SeatIndex(4)
SAMPLE_SEGMENTS: Final = 12
"""Of 16 MiB: what each part alone is measured on."""
AT_ONCE: Final = 2
"""As a repair reads (repair_task.REPAIRS_AT_ONCE)."""
FOREGROUND_SECONDS: Final = 5.0
POLL_SECONDS: Final = 0.1
REBUILT_SECONDS_MAX: Final = 300.0
PIECE_LEAVES: Final = LEAVES_PER_READ_MAX
NOBODY: Final = TenantId(bytes(16))
RATE_REACH: Final = 60.0
FOREGROUND_REACH: Final = 3.0
TRAFFIC_REACH: Final = 1.05
AGAIN_REACH: Final = 55.0


async def measure(cluster: Cluster) -> tuple[Figure, ...]:
    """Store, measure the parts, burn, rebuild; the objects are deleted again."""
    async with open_client(read_client_home(cluster.home / "client")) as client:
        names = await _store(client)
        segments = await _segments(client, names)
        without = await _foreground(client, FOREGROUND_SECONDS)
        parts = await _parts(cluster, segments[:SAMPLE_SEGMENTS])
        burn_seat(cluster, BURNT)
        start_seat(cluster, BURNT)
        during = await _rebuild_half(cluster, client, segments)
        kill_seat(cluster, BURNT)
        half = await _rebuild_rest(cluster, segments)
        await client.delete(BUCKET, names)
    await trio.to_thread.run_sync(wait_for_seats, cluster, (BURNT,), votes)
    return rebuild_figures(segments, parts, half, percentile(during, 99) / percentile(without, 99))


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Bytes of others' columns a second that each part alone would let a repair take."""

    loopback: float
    coding: float
    disk: float

    @property
    def allowed(self) -> float:
        """Return what the slowest allows; they work side by side."""
        return min(self.loopback, self.coding, self.disk)


@dataclass(frozen=True, slots=True, kw_only=True)
class Half:
    """What was left to rebuild after the kill."""

    columns: int
    """When the seat answered again."""
    seconds: float
    """From the last look before one more was there."""
    read_bytes: int
    """Asked of others from the kill on."""


async def _store(client: Client) -> list[str]:
    contents = secrets.token_bytes(OBJECT_BYTES)
    names = [secrets.token_hex(8) for _ in range(OBJECTS)]
    for name in names:
        await client.put(BUCKET, name, bytes_source(contents))
    await client.put(BUCKET, "small", bytes_source(contents[:SMALL_BYTES]))
    return names


async def _segments(client: Client, names: Sequence[str]) -> list[SegmentView]:
    found: dict[SegmentId, SegmentView] = {}
    for name in names:
        for reference in (await client.open(BUCKET, name)).entry.references:
            found[reference.segment_id] = await client.segment(reference.segment_id)
    return list(found.values())


async def _foreground(client: Client, seconds: float) -> list[float]:
    """Read a small object again and again; return how long each read took."""
    spans: list[float] = []
    with trio.move_on_after(seconds):
        while True:
            began = time.perf_counter()
            await client.get(BUCKET, "small")
            spans.append(time.perf_counter() - began)
    return spans


async def _parts(cluster: Cluster, segments: Sequence[SegmentView]) -> Parts:
    began = time.perf_counter()
    columns = await _read_columns(cluster, segments)
    read_s = time.perf_counter() - began
    read_bytes = sum(len(memoryview(shard)) for found in columns for shard in found.values())
    coding_s, shards = await trio.to_thread.run_sync(_time_coding, segments, columns)
    disk_s = await trio.to_thread.run_sync(_time_disk, cluster.home / "bench-rebuild", segments, shards)
    return Parts(loopback=read_bytes / read_s, coding=read_bytes / coding_s, disk=read_bytes / disk_s)


async def _read_columns(cluster: Cluster, segments: Sequence[SegmentView]) -> list[dict[ColumnIndex, Buffer]]:
    """Fetch k columns of each segment from their holders, unchecked, as many segments at once as a repair reads."""
    found: list[dict[ColumnIndex, Buffer]] = [{} for _ in segments]
    limit = trio.CapacityLimiter(AT_ONCE)

    async with open_plain_nursery() as nursery:
        links = {seat: await _dial(cluster, seat, nursery) for seat in cluster.all_seats() if seat != BURNT}

        async def fetch(place: int, column: ColumnIndex, link: ShardClient) -> None:
            segment = segments[place]
            shape = SegmentShape(segment.segment_bytes, segment.k, len(segment.roots))
            pieces = [
                await link.read_piece(segment.segment_id, column, first, min(PIECE_LEAVES, shape.leaves - first))
                for first in range(0, shape.leaves, PIECE_LEAVES)
            ]
            found[place][column] = b"".join(pieces)

        async def read(place: int) -> None:
            async with limit, trio.open_nursery() as columns:
                for column, seat in _sources(cluster, segments[place]):
                    columns.start_soon(fetch, place, column, links[seat])

        async with trio.open_nursery() as reading:
            for place in range(len(segments)):
                reading.start_soon(read, place)
        for link in links.values():
            await link.aclose()
        nursery.cancel_scope.cancel()
    return found


def _sources(cluster: Cluster, segment: SegmentView) -> list[tuple[ColumnIndex, SeatIndex]]:
    """Return k columns that the burnt seat's may be decoded from, and who holds them."""
    holders = column_seats(segment.segment_id, cluster.all_seats())
    others = [(ColumnIndex(column), seat) for column, seat in enumerate(holders) if seat != BURNT]
    return others[: segment.k]


def _own_column(cluster: Cluster, segment: SegmentView) -> ColumnIndex:
    return ColumnIndex(column_seats(segment.segment_id, cluster.all_seats()).index(BURNT))


async def _dial(cluster: Cluster, seat: SeatIndex, nursery: trio.Nursery) -> ShardClient:
    """Open a link with the burnt seat's own key, which the safe has kept; raises as open_shard_client()."""
    record, own = cluster.seats[seat], load_keys(cluster.seat_home(BURNT) / "keys").network
    reads = MemberReads(genesis_hash(cluster.genesis), now_ms)
    return await open_shard_client(nursery, record.host, record.shard_port, own, record.certificate, reads=reads)


def _time_coding(
    segments: Sequence[SegmentView], columns: Sequence[Mapping[ColumnIndex, Buffer]]
) -> tuple[float, list[tuple[ColumnIndex, Buffer]]]:
    """Check k columns of each segment, decode another, check it: as a repair does."""
    shards: list[tuple[ColumnIndex, Buffer]] = []
    began = time.perf_counter()
    for segment, found in zip(segments, columns, strict=True):
        for column, shard in found.items():
            check_shard(segment.roots[column], shard)
        target = next(ColumnIndex(c) for c in range(len(segment.roots)) if c not in found)
        (restored,) = reconstruct(found, (target,), segment.k, len(segment.roots)).values()
        check_shard(segment.roots[target], restored)
        shards.append((target, restored))
    return time.perf_counter() - began, shards


def _time_disk(folder: Path, segments: Sequence[SegmentView], shards: Sequence[tuple[ColumnIndex, Buffer]]) -> float:
    """Store columns in a fresh store beside the nodes'."""
    store = LevelShardStore(folder)
    try:
        began = time.perf_counter()
        for segment, (target, shard) in zip(segments, shards, strict=True):
            shape = SegmentShape(segment.segment_bytes, segment.k, len(segment.roots))
            store.restore(ShardName(segment.segment_id, target), NOBODY, shape, segment.roots[target], shard)
        return time.perf_counter() - began
    finally:
        store.close()
        shutil.rmtree(folder)


class Watch:
    """How many of its columns the burnt seat has again, asked as long as it takes."""

    def __init__(self, cluster: Cluster, segments: Sequence[SegmentView], nursery: trio.Nursery) -> None:
        self._cluster = cluster
        self._segments = segments
        self._nursery = nursery
        self._link: ShardClient | None = None

    async def count(self) -> int | None:
        """Return it, None while the seat does not answer."""
        try:
            if self._link is None:
                self._link = await _dial(self._cluster, BURNT, self._nursery)
            held = await self._link.ask_held([segment.segment_id for segment in self._segments])
        except GrandestError:
            self._link = None
            return None
        return sum(_own_column(self._cluster, s) in columns for s, columns in zip(self._segments, held, strict=True))

    async def until(self, wanted: int) -> list[tuple[float, int]]:
        """Wait for so many; return when how many were there, from the first answer on."""
        seen: list[tuple[float, int]] = []
        with trio.move_on_after(REBUILT_SECONDS_MAX):
            while not seen or seen[-1][1] < wanted:
                count = await self.count()
                if count is not None:
                    seen.append((trio.current_time(), count))
                await trio.sleep(POLL_SECONDS)
            return seen
        raise NodeError(f"{seen[-1][1] if seen else 0} of {wanted} columns are back after {REBUILT_SECONDS_MAX:.0f} s")


async def _rebuild_half(cluster: Cluster, client: Client, segments: Sequence[SegmentView]) -> list[float]:
    """Wait until half is back; return how long the small reads took meanwhile, from the first column on."""
    spans: list[float] = []
    async with open_plain_nursery() as nursery:
        watch = Watch(cluster, segments, nursery)
        await watch.until(1)

        async def read() -> None:
            while True:
                spans.extend(await _foreground(client, FOREGROUND_SECONDS / 10))

        nursery.start_soon(read)
        await watch.until(len(segments) // 2)
        nursery.cancel_scope.cancel()
    return spans


async def _rebuild_rest(cluster: Cluster, segments: Sequence[SegmentView]) -> Half:
    killed_ms = now_ms()
    start_seat(cluster, BURNT)
    async with open_plain_nursery() as nursery:
        seen = await Watch(cluster, segments, nursery).until(len(segments))
        nursery.cancel_scope.cancel()
    (_, before), (ended, _) = seen[0], seen[-1]
    began = max(moment for moment, count in seen if count == before)
    leaves = await trio.to_thread.run_sync(leaves_asked, cluster, segments, killed_ms)
    return Half(
        columns=len(segments) - before,
        seconds=ended - began,
        read_bytes=leaves * LEAF_BYTES,
    )


def leaves_asked(cluster: Cluster, segments: Sequence[SegmentView], since_ms: int) -> int:
    """Return how many leaves of these segments the burnt seat has signed for at all others since a moment."""
    wanted = {segment.segment_id for segment in segments}
    own, leaves = load_keys(cluster.seat_home(BURNT) / "keys").network.public, 0
    for seat in cluster.all_seats():
        if seat == BURNT:
            continue
        with httpx.Client(base_url=cluster.api_address(seat), timeout=30, trust_env=False) as http:
            for receipt in map(decode_read, kept_receipts(http)):
                if receipt.reader == own and receipt.time_ms >= since_ms:
                    leaves += sum(part.leaf_count for part in receipt.ranges if part.segment_id in wanted)
    return leaves


def rebuild_figures(segments: Sequence[SegmentView], parts: Parts, half: Half, slower: float) -> tuple[Figure, ...]:
    """Return what the second half came to."""
    shapes = [SegmentShape(segment.segment_bytes, segment.k, len(segment.roots)) for segment in segments]
    all_bytes = sum(shape.k * shape.shard_bytes for shape in shapes)
    left_bytes = all_bytes * half.columns / len(segments)
    rate = left_bytes / half.seconds
    named = "columns of 1 GiB rebuilt"

    def figure(name: str, amount: float, unit: str, better: Better, reach: float) -> Figure:
        return Figure(name=f"{named}: {name}", amount=amount, unit=unit, better=better, reach=reach)

    return (
        figure("of what the slowest part allows", PERCENT * rate / parts.allowed, "%", Better.HIGHER, RATE_REACH),
        figure("read from others", rate / MEGA, "MB/s", Better.HIGHER, 0.0),
        figure("loopback alone", parts.loopback / MEGA, "MB/s", Better.HIGHER, 0.0),
        figure("coding and hashing alone", parts.coding / MEGA, "MB/s", Better.HIGHER, 0.0),
        figure("disk alone, times k", parts.disk / MEGA, "MB/s", Better.HIGHER, 0.0),
        figure("small reads' p99 meanwhile, of without", slower, "x", Better.LOWER, FOREGROUND_REACH),
        figure("traffic, of k columns for one", half.read_bytes / left_bytes, "x", Better.LOWER, TRAFFIC_REACH),
        figure("again after a kill at half", PERCENT * half.read_bytes / all_bytes, "%", Better.LOWER, AGAIN_REACH),
    )
