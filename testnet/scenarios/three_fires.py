"""Three fires: nine nodes store real files, three sites burn while a writer keeps going, nothing is lost.

The stages, in order, each of which raises NodeError with what failed and where to look:

1. store a tree of files and one large file through the native client;
2. a writer goes on; three seats burn; its next object is acknowledged within ACKNOWLEDGE_SECONDS_MAX;
3. every acknowledged object is read back from the six survivors and compared byte by byte;
4. the three come back with empty disks and rebuild, until every segment has nine columns, verified from outside;
5. an auditor exports the chain and replays it from genesis.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from node.cli.output import Measure, Progress, note
from node.client import FileSource, bytes_source
from node.errors import NodeError
from node.nurseries import open_plain_nursery
from storage.identifiers import SeatIndex
from storage.segments import SegmentShape
from testnet.cluster import burn_seat, cluster_states, start_seat, votes

if TYPE_CHECKING:
    from collections.abc import Generator

    from node.client import Client
    from node.client.download import OpenObject
    from node.client.results import SegmentStatus
    from storage.identifiers import SegmentId
    from testnet.cluster import Cluster
    from testnet.scenarios.inputs import Input

BURNT_SEATS: Final = (SeatIndex(2), SeatIndex(5), SeatIndex(8))
FILES_BUCKET: Final = "files"
WRITER_BUCKET: Final = "writer"
WRITERS_AT_ONCE: Final = 64
READERS_AT_ONCE: Final = 16
WRITER_BYTES: Final = (10_000, 300_000, 3_000_000)
"""The writer's objects in turn: packed, packed, with segments of their own."""
ACKNOWLEDGE_SECONDS_MAX: Final = 5.0
REJOIN_SECONDS_MAX: Final = 60.0
REBUILD_SECONDS_MAX: Final = 90.0
REBUILD_POLL_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How large the story is."""

    files: tuple[Input, ...]
    objects_before: int = 6
    objects_after: int = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One finished stage: how long it took, and what it moved."""

    name: str
    seconds: float
    objects: int = 0
    byte_count: int = 0


@dataclass(slots=True)
class Report:
    """What happened."""

    stages: list[Stage] = field(default_factory=list["Stage"])
    written: dict[int, int] = field(default_factory=dict[int, int])
    """The writer's acknowledged objects: number and bytes."""
    acknowledge_seconds: float = 0.0
    """From the fire to the acknowledgement of the next object."""
    logical_bytes: int = 0
    stored_bytes: int = 0
    columns_by_seat: Counter[SeatIndex] = field(default_factory=Counter["SeatIndex"])
    bytes_by_seat: Counter[SeatIndex] = field(default_factory=Counter["SeatIndex"])
    k_counts: Counter[int] = field(default_factory=Counter[int])

    @contextmanager
    def stage(self, name: str, objects: int = 0, byte_count: int = 0) -> Generator[None]:
        """Time a stage and say that it begins."""
        note(f"- {name}")
        began = time.monotonic()
        yield
        self.stages.append(Stage(name=name, seconds=time.monotonic() - began, objects=objects, byte_count=byte_count))


async def three_fires(cluster: Cluster, client: Client, plan: Plan) -> Report:
    """Live through the story on a running cluster; the audit is the caller's."""
    report = Report(logical_bytes=sum(file.file_bytes for file in plan.files))
    await _store_files(client, plan.files, report)
    await _write_through_fire(cluster, client, plan, report)
    await _read_back(client, plan.files, report, "read everything back from the six survivors")
    await _rebuild(cluster, client, report)
    return report


async def _store_files(client: Client, files: Sequence[Input], report: Report) -> None:
    """Store the files, large ones alone so that their rate can be told."""
    largest = max(files, key=lambda file: file.file_bytes)
    rest = [file for file in files if file is not largest]
    rest_bytes = sum(file.file_bytes for file in rest)
    with report.stage("store a tree of real files", len(rest), rest_bytes):
        await _put_all(client, rest, rest_bytes)
    with report.stage("store one large file", 1, largest.file_bytes):
        await _put_all(client, [largest], largest.file_bytes)


async def _put_all(client: Client, files: Sequence[Input], total_bytes: int) -> None:
    limiter = trio.CapacityLimiter(WRITERS_AT_ONCE)
    with Progress("stored", total_bytes, Measure.BYTES) as progress:

        async def put(file: Input) -> None:
            async with limiter:
                with FileSource(file.path.open("rb")) as source:
                    await client.put(FILES_BUCKET, file.name, source)
                progress.advance(file.file_bytes)

        async with open_plain_nursery() as nursery:
            for file in files:
                nursery.start_soon(put, file)


async def _write_through_fire(cluster: Cluster, client: Client, plan: Plan, report: Report) -> None:
    written = report.written
    with report.stage(f"a writer goes on while seats {', '.join(map(str, BURNT_SEATS))} burn"):
        before = trio.Event()
        fire = trio.Event()
        fire_time = 0.0

        async def write() -> None:
            nonlocal fire_time
            number = 0
            after_fire = 0
            while after_fire < plan.objects_after:
                contents = writer_contents(number)
                was_burning = fire.is_set()
                await client.put(WRITER_BUCKET, writer_name(number), bytes_source(contents))
                written[number] = len(contents)
                number += 1
                if number == plan.objects_before:
                    before.set()
                if was_burning:
                    after_fire += 1
                    if after_fire == 1:
                        report.acknowledge_seconds = time.monotonic() - fire_time

        async with open_plain_nursery() as nursery:
            nursery.start_soon(write)
            await before.wait()
            async with open_plain_nursery() as fires:
                fire_time = time.monotonic()
                fire.set()
                for seat in BURNT_SEATS:
                    fires.start_soon(trio.to_thread.run_sync, burn_seat, cluster, seat)
    report.logical_bytes += sum(written.values())
    note(f"  {len(written)} objects; the next one was acknowledged {report.acknowledge_seconds:.2f} s after the fire")
    if report.acknowledge_seconds > ACKNOWLEDGE_SECONDS_MAX:
        raise NodeError(
            f"the writer waited {report.acknowledge_seconds:.1f} s for its next object, "
            f"{ACKNOWLEDGE_SECONDS_MAX:.0f} s allowed; see {cluster.home}/seat-*/log"
        )


def writer_name(number: int) -> str:
    """Return the name of the writer's object."""
    return f"object-{number:04d}"


def writer_contents(number: int) -> bytes:
    """Return the bytes of the writer's object, the same whenever they are asked for."""
    byte_count = WRITER_BYTES[number % len(WRITER_BYTES)]
    return hashlib.shake_256(number.to_bytes(8, "big")).digest(byte_count)


async def _read_back(client: Client, files: Sequence[Input], report: Report, name: str) -> None:
    by_path = {f"{FILES_BUCKET}/{file.name}": file.path for file in files}
    by_number = {f"{WRITER_BUCKET}/{writer_name(number)}": number for number in report.written}
    missing = {*by_path, *by_number}
    limiter = trio.CapacityLimiter(READERS_AT_ONCE)
    with report.stage(name, len(missing), report.logical_bytes), Progress("compared", len(missing)) as progress:

        async def compare(path: str, opened: OpenObject) -> None:
            async with limiter:
                if path in by_path:
                    await _compare_file(client, opened, by_path[path])
                else:
                    await _compare_bytes(client, opened, path, writer_contents(by_number[path]))
            missing.discard(path)
            progress.advance(1)

        async with open_plain_nursery() as nursery:
            async for listed in client.listing():
                nursery.start_soon(compare, listed.path, listed.opened)
    if missing:
        raise NodeError(f"{len(missing)} acknowledged objects are not listed any more, first {min(missing)}")


async def _compare_file(client: Client, opened: OpenObject, path: Path) -> None:
    with path.open("rb") as file:

        async def compare(piece: memoryview) -> None:
            if await trio.to_thread.run_sync(file.read, len(piece)) != piece.tobytes():
                raise NodeError(f"{path} came back with other bytes")

        await client.read(opened, compare)
        if file.read(1):
            raise NodeError(f"{path} came back too short")


async def _compare_bytes(client: Client, opened: OpenObject, name: str, expected: bytes) -> None:
    found = bytearray()

    async def keep(piece: memoryview) -> None:
        found.extend(piece)

    await client.read(opened, keep)
    if bytes(found) != expected:
        raise NodeError(f"{name} came back with other bytes")


async def _rebuild(cluster: Cluster, client: Client, report: Report) -> None:
    with report.stage("the three come back with empty disks and rebuild to nine columns"):
        for seat in BURNT_SEATS:
            start_seat(cluster, seat)
        objects = await _one_object_per_segment(client)
        statuses = await _wait_for_nine_columns(cluster, client, objects)
        await _write_until_all_vote(cluster, client)
    for status in statuses.values():
        segment = status.segment
        shard_bytes = SegmentShape(segment.segment_bytes, segment.k, len(segment.roots)).shard_bytes
        report.k_counts[segment.k] += 1
        for column in status.columns:
            report.columns_by_seat[column.seat] += 1
            report.bytes_by_seat[column.seat] += shard_bytes
    report.stored_bytes = sum(report.bytes_by_seat.values())


async def _write_until_all_vote(cluster: Cluster, client: Client) -> None:
    """Go on writing: who rejoins signs two heights later, and a chain with nothing to say makes one a minute."""
    deadline = trio.current_time() + REJOIN_SECONDS_MAX
    while not all(votes(state) for state in await trio.to_thread.run_sync(cluster_states, cluster)):
        if trio.current_time() > deadline:
            raise NodeError(f"not all seats vote after {REJOIN_SECONDS_MAX:.0f} s; see {cluster.home}/seat-*/log")
        await client.put(WRITER_BUCKET, "rejoining", bytes_source(b"written while the three rejoin"))


async def _one_object_per_segment(client: Client) -> list[OpenObject]:
    """Return as few objects as cover every segment that any object has."""
    seen: set[SegmentId] = set()
    chosen: list[OpenObject] = []
    async for listed in client.listing():
        segments = {reference.segment_id for reference in listed.opened.entry.references}
        if not segments <= seen:
            seen |= segments
            chosen.append(listed.opened)
    return chosen


async def _wait_for_nine_columns(
    cluster: Cluster, client: Client, objects: Sequence[OpenObject]
) -> dict[SegmentId, SegmentStatus]:
    """Ask the holders until every column of every segment is verified as stored."""
    waiting = list(objects)
    whole: dict[SegmentId, SegmentStatus] = {}
    deadline = trio.current_time() + REBUILD_SECONDS_MAX
    with Progress("objects with nine columns", len(objects)) as progress:
        while waiting:
            still: list[OpenObject] = []
            for opened in waiting:
                status = await client.stat(opened)
                if status.columns_live == status.columns:
                    whole.update({one.segment.segment_id: one for one in status.segments})
                    progress.advance(1)
                else:
                    still.append(opened)
            waiting = still
            if waiting and trio.current_time() > deadline:
                states = cluster_states(cluster)
                down = [state.seat for state in states if state.status is None]
                raise NodeError(
                    f"{len(waiting)} objects lack columns after {REBUILD_SECONDS_MAX:.0f} s (silent seats: {down}); "
                    f"see {cluster.home}/seat-*/log"
                )
            if waiting:
                await trio.sleep(REBUILD_POLL_SECONDS)
    return whole
