"""Nine real nodes on disks of their own lose their power, one, three, all at once: nothing acknowledged is lost.

Longer runs (make campaign): GRANDEST_POWER_CUTS.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from consensus.errors import GrandestError
from node.cli.output import note
from storage.identifiers import SeatIndex
from testnet.cluster import Cluster, open_cluster, process_of, start_seat, stop_all, votes, wait_for_seats
from testnet.genesis import make_testnet
from testnet.processes import OwnedProcess, kill_process
from tests.integration.rough import Signatures, check_all, client_of, put, stop_seat
from tests.small_disks import CutDisk, imaged_disk

if TYPE_CHECKING:
    from node.client import Client

CUTS = int(os.environ.get("GRANDEST_POWER_CUTS", "3"))
SEED = int(os.environ.get("GRANDEST_POWER_CUT_SEED", "3"))
SEATS_CUT = (1, 3, 9)
"""In turn."""
IMAGE_MEBIBYTES = 384
SIZES = (10_000, 200_000, 2_000_000)
"""Of the objects written meanwhile, in turn: packed, and with segments of their own."""
OBJECTS_MIN = 2
"""Acknowledged before a cut and, unless all nodes were cut, after it."""


@dataclass(frozen=True)
class Site:
    """A testnet whose seats' homes lie on disks that can be cut."""

    cluster: Cluster
    disks: dict[SeatIndex, CutDisk]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Nine voting nodes, whose keys and settings have long been on their disks."""
    make_testnet(tmp_path / "testnet")
    cluster = open_cluster(tmp_path / "testnet")
    disks = {seat: CutDisk(cluster.seat_home(seat), tmp_path / f"image-{seat}") for seat in cluster.all_seats()}
    with ExitStack() as stack:
        for disk in disks.values():
            stack.enter_context(imaged_disk(disk.folder, disk.image, IMAGE_MEBIBYTES))
        os.sync()
        try:
            for seat in cluster.all_seats():
                start_seat(cluster, seat)
            wait_for_seats(cluster, cluster.all_seats(), votes)
            yield Site(cluster, disks)
        finally:
            stop_all(cluster)


async def write_until_refused(client: Client, written: dict[str, int], lost: trio.Event) -> None:
    """Store one object after the other and note each that was acknowledged; end when the nodes are gone."""
    while True:
        name, byte_count = f"object-{len(written)}", SIZES[len(written) % len(SIZES)]
        try:
            await put(client, name, byte_count)
        except GrandestError:
            lost.set()
            return
        written[name] = byte_count


async def until_written(written: dict[str, int], count: int, lost: trio.Event) -> None:
    """Wait until so many objects are acknowledged or nobody is left who would."""
    with trio.fail_after(60):
        while len(written) < count and not lost.is_set():
            with trio.move_on_after(0.05):  # the writer goes on meanwhile
                await lost.wait()


def cut_and_restore(site: Site, seats: Sequence[SeatIndex]) -> None:
    """Take the power from some seats' disks, end what ran on them, start them again on what is left."""
    cut_power(site, seats)
    for seat in seats:
        site.disks[seat].restore()
        start_seat(site.cluster, seat)
    wait_for_seats(site.cluster, site.cluster.all_seats(), votes)


def cut_power(site: Site, seats: Sequence[SeatIndex]) -> None:
    # Their pid files lie on the disks that are about to lose what was not flushed.
    running: list[OwnedProcess] = []
    for seat in seats:
        process = process_of(site.cluster, seat)
        assert process is not None, f"seat {seat} runs"
        running.append(process)
    for seat in seats:
        site.disks[seat].cut()
    for process in running:
        kill_process(process)


async def test_no_acknowledged_object_is_lost_in_a_power_cut(site: Site) -> None:
    choice = random.Random(SEED)
    written: dict[str, int] = {}
    for number in range(CUTS):
        seats = [SeatIndex(seat) for seat in choice.sample(range(9), SEATS_CUT[number % len(SEATS_CUT)])]
        lost = trio.Event()
        async with client_of(site.cluster) as client, trio.open_nursery() as load:
            load.start_soon(write_until_refused, client, written, lost)
            await until_written(written, len(written) + choice.randrange(OBJECTS_MIN, 3 * OBJECTS_MIN), lost)
            before = len(written)
            await trio.to_thread.run_sync(cut_and_restore, site, seats)
            if len(seats) < 9:
                await until_written(written, before + OBJECTS_MIN, lost)
                assert not lost.is_set(), "three sites down refuse no write"
            load.cancel_scope.cancel()
        async with client_of(site.cluster) as client:
            await check_all(client, written)
        note(f"\ncut {number + 1}: seats {sorted(seats)}, {len(written)} objects acknowledged and read back")
    await trio.to_thread.run_sync(check_signatures, site.cluster)


def check_signatures(cluster: Cluster) -> None:
    """Nobody has signed two things for one step, before or after its power was gone."""
    signed = Signatures()
    for seat in cluster.all_seats():
        signed.add_chain(cluster, seat)
    for seat in cluster.all_seats():
        stop_seat(cluster, seat)
        signed.add_record(seat, cluster.seat_home(seat) / "signer")
    assert len(signed) > len(cluster.all_seats())
