"""Nine real nodes on disks of their own: liars are convicted and nobody else, erasure erases, a scrub is had."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import msgspec
import pytest
import trio

from node.api.audits import AuditsAnswer, OperatorAnswer
from node.cli import ExitCode
from node.cli.output import note
from node.client.shard_links import dialler
from node.keys import load_keys
from node.nurseries import open_plain_nursery
from storage.audits import FailureKind
from storage.genesis import StorageParameters
from storage.identifiers import LEAF_BYTES, SeatIndex
from storage.placement import seat_column
from storage.segments import SegmentShape
from testnet.cli import main
from testnet.cluster import Cluster, open_cluster, start_seat, stop_all, votes, wait_for_seats
from testnet.genesis import make_testnet
from testnet.processes import start_process
from tests.integration.rough import BUCKET, check_all, client_of, put, reads_of, segments_of, stop_seat
from tests.small_disks import imaged_disk, stored_bytes

if TYPE_CHECKING:
    from node.client import Client

EPOCH_MS = 30_000
IMAGE_MEBIBYTES = 512
LIES = {SeatIndex(3): "tenth", SeatIndex(7): "nothing"}
"""At first; then both store nothing."""
OBJECTS = 40
ERASED_BYTES = 2_000_000
ERASED_SECONDS_MAX = 60.0
CONVICTED_SECONDS_MAX = 6 * EPOCH_MS / 1_000
WINDOW_BYTES = 24
WINDOW_EVERY_BYTES = 4_096


@dataclass(frozen=True)
class Site:
    """A testnet whose seats' homes lie on images."""

    cluster: Cluster
    images: dict[SeatIndex, Path]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Nine voting nodes, two of them liars."""
    folder = tmp_path_factory.mktemp("duties")
    make_testnet(folder / "testnet", parameters=StorageParameters(epoch_ms=EPOCH_MS))
    cluster = open_cluster(folder / "testnet")
    images = {seat: folder / f"image-{seat}" for seat in cluster.all_seats()}
    with ExitStack() as disks:
        for seat, image in images.items():
            disks.enter_context(imaged_disk(cluster.seat_home(seat), image, IMAGE_MEBIBYTES))
        try:
            for seat in cluster.all_seats():
                start_honest_or_lying(cluster, seat)
            wait_for_seats(cluster, cluster.all_seats(), votes)
            yield Site(cluster, images)
        finally:
            stop_all(cluster)


def start_honest_or_lying(cluster: Cluster, seat: SeatIndex) -> None:
    if seat in LIES:
        start_as(cluster, seat, LIES[seat])
    else:
        start_seat(cluster, seat)


def start_as(cluster: Cluster, seat: SeatIndex, lie: str) -> None:
    home = cluster.seat_home(seat)
    script = str(Path(__file__).with_name("lying_node.py"))
    start_process((sys.executable, "-P", script, str(home), lie), home / "pid", cluster.log_file(seat))


def operators(cluster: Cluster, seat: int = 0) -> list[OperatorAnswer]:
    with httpx.Client(base_url=cluster.api_address(SeatIndex(seat)), timeout=30, trust_env=False) as http:
        return msgspec.json.decode(http.get("/v1/audits").raise_for_status().content, type=AuditsAnswer).operators


def are_convicted(cluster: Cluster) -> bool:
    found = operators(cluster)
    return all(found[seat].failed for seat in LIES)


async def make_blocks(client: Client) -> None:
    """Write a little now and then: an idle chain's heartbeats are slower than this test's epochs."""
    number = 0
    while True:
        await put(client, f"heartbeat-{number}", 1_000)
        number += 1
        with trio.move_on_after(2.0):  # a client knows no other clock
            await trio.sleep_forever()


async def test_liars_are_convicted_and_nobody_else_and_every_object_reads_back(site: Site) -> None:
    written = {f"kept-{number}": 100_000 for number in range(OBJECTS)}
    async with client_of(site.cluster) as client, trio.open_nursery() as nursery:
        for name, byte_count in written.items():
            assert await put(client, name, byte_count) >= 8
        began = time.monotonic()
        nursery.start_soon(make_blocks, client)
        with trio.fail_after(CONVICTED_SECONDS_MAX):
            while not await trio.to_thread.run_sync(are_convicted, site.cluster):
                with trio.move_on_after(1.0):  # nothing tells a client of a verdict
                    await trio.sleep_forever()
        note(f"\nboth liars convicted after {time.monotonic() - began:.0f} s, epochs of {EPOCH_MS / 1_000:.0f} s")
        await check_all(client, written)
        nursery.cancel_scope.cancel()
    found = operators(site.cluster)
    for seat in LIES:
        failure = found[seat].last_failure
        assert failure is not None
        assert failure.reason == FailureKind.MISSING
        assert len(failure.signers) >= 3
        assert failure.remedy
        assert found[seat].score < 1_000
    lost = {FailureKind.MISSING, FailureKind.DAMAGED, FailureKind.WRONG_BYTES}
    for operator in found:
        if operator.seat not in LIES and operator.last_failure is not None:
            assert operator.last_failure.reason not in lost, "an honest seat may be late on a busy machine, no more"


async def test_two_that_sign_and_store_nothing_cost_no_object_and_are_convicted(site: Site) -> None:
    """The one that dropped a tenth stores nothing any more: of what it signs for from now on, all is missing."""
    await trio.to_thread.run_sync(stop_seat, site.cluster, SeatIndex(3))
    await trio.to_thread.run_sync(start_as, site.cluster, SeatIndex(3), "nothing")
    await trio.to_thread.run_sync(wait_for_seats, site.cluster, site.cluster.all_seats(), votes)
    written = {f"twice-{number}": 100_000 for number in range(OBJECTS)}
    async with client_of(site.cluster) as client, trio.open_nursery() as nursery:
        for name, byte_count in written.items():
            assert await put(client, name, byte_count) >= 8
        before = {seat: operators(site.cluster)[seat].failed for seat in LIES}
        nursery.start_soon(make_blocks, client)
        with trio.fail_after(CONVICTED_SECONDS_MAX):
            while not await trio.to_thread.run_sync(have_failed_since, site.cluster, before):
                with trio.move_on_after(1.0):  # nothing tells a client of a verdict
                    await trio.sleep_forever()
        await check_all(client, written)
        nursery.cancel_scope.cancel()


def have_failed_since(cluster: Cluster, before: dict[SeatIndex, int]) -> bool:
    found = operators(cluster)
    return all(found[seat].failed > failed for seat, failed in before.items())


async def leaves_of(site: Site, client: Client, name: str) -> dict[SeatIndex, list[bytes]]:
    """Read every leaf of an object from every seat that keeps one."""
    found: dict[SeatIndex, list[bytes]] = {}
    own = load_keys(site.cluster.seat_home(SeatIndex(0)) / "keys").network
    async with open_plain_nursery() as nursery:
        connect = dialler(site.cluster.seats, own, nursery, reads_of(site.cluster))
        for seat in site.cluster.all_seats():
            if seat in LIES:
                continue
            link = await connect(seat)
            for segment_id in await segments_of(client, [name]):
                segment = await client.segment(segment_id)
                column = seat_column(segment_id, seat, site.cluster.all_seats())
                assert column is not None
                shape = SegmentShape(segment.segment_bytes, segment.k, 9)
                for leaf in range(shape.leaves):
                    answer = await link.read_leaves(segment_id, column, leaf, 1)
                    found.setdefault(seat, []).append(bytes(answer.leaves))
            await link.aclose()
        nursery.cancel_scope.cancel()
    return found


def windows(leaf: bytes) -> list[bytes]:
    return [leaf[start : start + WINDOW_BYTES] for start in range(0, len(leaf) - WINDOW_BYTES, WINDOW_EVERY_BYTES)]


def traces(site: Site, everywhere: Sequence[bytes], leaves: dict[SeatIndex, list[bytes]]) -> list[str]:
    """Return where anything of an object lies in the images."""
    found: list[str] = []
    for seat, image in site.images.items():
        contents = stored_bytes(image)
        found += [f"seat {seat}: {trace[:16]!r}" for trace in everywhere if trace in contents]
        for number, leaf in enumerate(leaves.get(seat, ())):
            found += [f"seat {seat}: leaf {number}" for window in windows(leaf) if window in contents]
    return found


async def test_an_erased_object_is_in_no_byte_of_nine_disks_a_minute_later(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor is a small one's record, whose bytes lie in a segment that another object keeps alive."""
    name, packed = "erased-" + "f3a9c1d7" * 4, "packed-" + "5be20c94" * 4
    async with client_of(site.cluster) as client, trio.open_nursery() as nursery:
        assert await put(client, name, ERASED_BYTES) >= 8
        async with trio.open_nursery() as together:
            for small in (packed, "stays-in-the-pack"):
                together.start_soon(put, client, small, 5_000)
        leaves = await leaves_of(site, client, name)
        assert sum(map(len, leaves.values())) >= 7 * (ERASED_BYTES // 6 // LEAF_BYTES)
        opened, small_one = await client.open(BUCKET, name), await client.open(BUCKET, packed)
        own = load_keys(site.cluster.seat_home(SeatIndex(0)) / "keys").network
        link = await dialler(site.cluster.seats, own, nursery, reads_of(site.cluster))(SeatIndex(0))
        records = await link.read_records((opened.entry.record_address, small_one.entry.record_address))
        everywhere = [name.encode(), packed.encode()]
        for record in records:
            assert record is not None
            everywhere += [record[:WINDOW_BYTES], record[-WINDOW_BYTES:], record[80 : 80 + WINDOW_BYTES]]
        await trio.to_thread.run_sync(os.sync)
        there = await trio.to_thread.run_sync(traces, site, everywhere, leaves)
        assert len([trace for trace in there if "leaf" in trace]) > 100, "the search finds what is there"
        assert len([trace for trace in there if "leaf" not in trace]) >= 9, "the record on every seat"
        await client.delete(BUCKET, [name, packed])
        began = time.monotonic()
        nursery.start_soon(make_blocks, client)
        while there := await trio.to_thread.run_sync(traces, site, everywhere, leaves):
            assert time.monotonic() - began < ERASED_SECONDS_MAX, there[:9]
            with trio.move_on_after(2.0):  # nothing tells a client of a compaction
                await trio.sleep_forever()
        note(f"\nno byte of it on nine disks {time.monotonic() - began:.0f} s after the deletion")
        place = f"{BUCKET}/{name}"
        words = ["audit", "erasure", place, "--home", str(site.cluster.home), "--json"]
        with trio.fail_after(4 * EPOCH_MS / 1_000):
            while await trio.to_thread.run_sync(main, words) != ExitCode.DONE:
                capsys.readouterr()
                with trio.move_on_after(2.0):  # reports come once an epoch
                    await trio.sleep_forever()
        told = json.loads(capsys.readouterr().out)
        assert [operator["erased"] for operator in told["operators"]] == [True] * 9
        nursery.cancel_scope.cancel()


async def test_a_scrub_and_a_maintenance_are_had_by_command(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    home = str(site.cluster.seat_home(SeatIndex(5)))
    assert await trio.to_thread.run_sync(main, ["node", "scrub", "--home", home, "--now", "--json"]) == ExitCode.DONE
    told = json.loads(capsys.readouterr().out)
    assert told["last"]["shards"] >= 1
    assert (told["last"]["damaged"], told["waiting_for_repair"]) == (0, [])
    announce = ["node", "maintenance", "--home", home, "--hours", "2"]
    assert await trio.to_thread.run_sync(main, announce) == ExitCode.DONE
    assert await trio.to_thread.run_sync(main, announce) == ExitCode.REFUSED
    assert "bad_maintenance" in capsys.readouterr().err
    assert await trio.to_thread.run_sync(main, ["audit", "operators", "--home", str(site.cluster.home)]) == 0
    shown = capsys.readouterr().out
    assert "maintenance 20" in shown
    assert "to do: " in shown
