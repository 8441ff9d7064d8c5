"""A burnt seat of nine real nodes comes back by a snapshot; the others have pruned what lies behind it."""

from __future__ import annotations

from pathlib import Path

import httpx
import trio

from consensus.identifiers import Height
from node.client import Client, bytes_source, open_client, read_client_home
from storage.genesis import StorageParameters
from testnet.cluster import Cluster, burn_seat, cluster_states, seat_state, start_seat, votes
from tests.integration.conftest import running_testnet

INTERVAL = 8
BURNT = 8
PATIENCE_S = 60.0


def height_of(cluster: Cluster, seat: int) -> int:
    status = seat_state(cluster, cluster.all_seats()[seat]).status
    assert status is not None, f"seat {seat} does not answer"
    return status.height


async def put_until(client: Client, cluster: Cluster, prefix: str, height: int) -> dict[str, bytes]:
    """Store objects until the chain has this height."""
    stored: dict[str, bytes] = {}
    while height_of(cluster, 0) < height:
        name = f"{prefix}{len(stored)}"
        stored[name] = name.encode() * 100
        await client.put("kept", name, bytes_source(stored[name]))
    return stored


async def put_until_all_vote(client: Client, cluster: Cluster) -> dict[str, bytes]:
    """Store objects until all vote: whoever rejoins signs two heights later, and a quiet chain makes one a minute."""
    stored: dict[str, bytes] = {}
    with trio.fail_after(PATIENCE_S):
        while not all(votes(state) for state in cluster_states(cluster, cluster.all_seats())):
            name = f"meanwhile{len(stored)}"
            stored[name] = name.encode() * 100
            await client.put("kept", name, bytes_source(stored[name]))
    return stored


async def test_a_burnt_seat_comes_back_by_a_snapshot_of_a_chain_that_others_have_pruned(tmp_path: Path) -> None:
    parameters = StorageParameters(snapshot_heights=Height(INTERVAL))
    with running_testnet(tmp_path / "testnet", parameters, "history_heights = 4\n") as cluster:
        async with open_client(read_client_home(cluster.home / "client")) as client:
            stored = await put_until(client, cluster, "before", INTERVAL)
            seat = cluster.all_seats()[BURNT]
            burn_seat(cluster, seat)
            stored |= await put_until(client, cluster, "while", 6 * INTERVAL)
            start_seat(cluster, seat)
            stored |= await put_until(client, cluster, "after", height_of(cluster, 0) + 4)
            stored |= await put_until_all_vote(client, cluster)
            for name, contents in stored.items():
                assert await client.get("kept", name) == contents
        log = cluster.log_file(seat).read_text()
        assert "installing a snapshot" in log
        async with httpx.AsyncClient(trust_env=False) as http:
            for pruned_at in (seat, *cluster.all_seats()[:2]):
                answer = await http.get(f"{cluster.api_address(pruned_at)}/v1/blocks/1")
                assert (answer.status_code, answer.json()["error"]) == (410, "pruned")
