"""The demo's disaster on small data: nine real processes, three fires, every byte back, an audit that finds lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from consensus.genesis import genesis_hash
from node.client import open_client, read_client_home
from node.replay import ReplayError, replay
from testnet.cli import main
from testnet.cluster import Cluster, cluster_states
from testnet.scenarios.inputs import demo_tree, write_large_file
from testnet.scenarios.three_fires import BURNT_SEATS, Plan, Report, three_fires

LARGE_BYTES = 20_000_000
"""Two segments, the second cut short."""


async def lived_through(cluster: Cluster) -> Report:
    large = write_large_file(cluster.home / "large.bin", LARGE_BYTES)
    plan = Plan(files=(*demo_tree(limit=60), large), objects_before=4, objects_after=4)
    async with open_client(read_client_home(cluster.home / "client")) as client:
        return await three_fires(cluster, client, plan)


async def test_three_fires_lose_nothing_and_the_audit_agrees(nine_nodes: Cluster, tmp_path: Path) -> None:
    report = await lived_through(nine_nodes)
    assert set(report.columns_by_seat.values()) == {sum(report.k_counts.values())}
    assert len(report.columns_by_seat) == 9
    assert min(report.k_counts) == 4
    states = cluster_states(nine_nodes)
    assert {state.seat for state in states if state.is_voting} == set(nine_nodes.all_seats())
    assert set(BURNT_SEATS) < {state.seat for state in states}

    export = tmp_path / "export"
    assert main(["audit", "export", "--home", str(nine_nodes.home), "--out", str(export)]) == 0
    with export.open("rb") as file:
        replayed = replay(file, genesis_hash(nine_nodes.genesis))
    assert replayed.objects == 60 + 1 + len(report.written)
    assert not replayed.faults

    lie = bytearray(export.read_bytes())
    lie[len(lie) // 2] ^= 1
    export.write_bytes(lie)
    assert main(["audit", "replay", str(export)]) == 1
    with export.open("rb") as file, pytest.raises(ReplayError) as caught:
        replay(file, None)
    assert 0 < caught.value.height <= replayed.height
