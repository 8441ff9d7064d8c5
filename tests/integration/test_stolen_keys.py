"""What others can do with a member's own keys, on nine real nodes: run a second time."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from storage.identifiers import SeatIndex
from testnet.bench.absent import sending
from testnet.cluster import (
    Cluster,
    cluster_states,
    open_cluster,
    start_seat,
    stop_all,
    votes,
    wait_for_seats,
)
from testnet.genesis import make_testnet
from tests.integration.rough import stop_seat
from tests.node.network.doubles import free_port

NODE_GONE_SECONDS_MAX = 60.0
LOOK_S = 0.2


@pytest.fixture(scope="module")
def nine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Nine voting nodes for this whole file."""
    home = tmp_path_factory.mktemp("stolen") / "net"
    make_testnet(home)
    cluster = open_cluster(home)
    try:
        for seat in cluster.all_seats():
            start_seat(cluster, seat)
        wait_for_seats(cluster, cluster.all_seats(), votes)
        yield cluster
    finally:
        stop_all(cluster)


async def pass_time(seconds: float) -> None:
    with trio.move_on_after(seconds):
        await trio.sleep_forever()


async def height_of(cluster: Cluster) -> int:
    states = await trio.to_thread.run_sync(cluster_states, cluster)
    return max(state.status.height for state in states if state.status is not None)


# --- a second copy -------------------------------------------------------------------------------------------------


def started_copy(home: Path) -> str:
    """Start a copy of a node at ports of its own; return its last line once it has ended with the code for settings."""
    with (home / "config.toml").open("a") as file:
        file.writelines(f"{port} = {free_port()}\n" for port in ("libp2p_port", "shard_port", "api_port"))
    command = (sys.executable, "-P", "-m", "testnet.cli", "node", "run", "--home", str(home))
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=NODE_GONE_SECONDS_MAX)
    assert ended.returncode == 3, ended.stderr
    return ended.stderr.strip().split("\n")[-1]


async def test_the_second_of_two_processes_with_one_key_halts_and_signs_nothing(nine: Cluster, tmp_path: Path) -> None:
    seat = SeatIndex(3)
    first, of_keys, of_all = nine.seat_home(seat), tmp_path / "keys", tmp_path / "all"
    await trio.to_thread.run_sync(stop_seat, nine, seat)
    shutil.copytree(first, of_all)
    of_keys.mkdir(mode=0o700)
    shutil.copytree(first / "keys", of_keys / "keys")
    for name in ("genesis", "config.toml"):
        shutil.copy2(first / name, of_keys / name)
    signed = (of_all / "signer").read_bytes()
    start_seat(nine, seat)
    await trio.to_thread.run_sync(wait_for_seats, nine, [seat], votes)
    address = f"{nine.seats[seat].host}:{nine.seats[seat].shard_port}"
    async with sending(nine, nine.all_seats()):
        for copy in (of_keys, of_all):
            said = await trio.to_thread.run_sync(started_copy, copy)
            assert (
                f"another copy of seat {seat} is running: {address} answers with this seat's own key; stop it" in said
            )
        height = await height_of(nine)
        with trio.fail_after(NODE_GONE_SECONDS_MAX):
            while await height_of(nine) < height + 5:
                await pass_time(LOOK_S)
    assert not (of_keys / "signer").exists()
    assert (of_all / "signer").read_bytes() == signed
    assert all(votes(state) for state in cluster_states(nine))
