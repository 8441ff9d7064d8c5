"""Nine real nodes change who sits among them: a burnt seat goes to another company, a member takes new keys."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import httpx
import pytest
import trio

from consensus.encoding import encode
from consensus.genesis import genesis_hash
from node.cli import ExitCode
from node.client import bytes_source, open_client, read_client_home
from node.keys import load_keys
from node.replay import replay
from storage.identifiers import FRAME_PLAIN_BYTES, SeatIndex
from testnet.cli import main
from testnet.cluster import burn_seat, start_seat, votes, wait_for_seats
from tests.frame_verifier import Trusted, frame_verifier

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from storage.identifiers import SegmentId
    from testnet.cluster import Cluster, SeatView

BURNT = SeatIndex(3)
ROTATING = SeatIndex(6)
OBJECT = bytes(range(256)) * 4_000
COLUMNS = 9
READY_S = 150.0
ASKED_MAX = 10


def when_up(cluster: Cluster, words: list[str]) -> int:
    """Run a command of an operator whose node may be starting again after a change: then ask once more."""
    for _ in range(ASKED_MAX):
        code = main(words)
        if code != ExitCode.UNREACHABLE:
            return code
        wait_for_seats(cluster, cluster.all_seats()[4:], votes, seconds_max=READY_S)
    return ExitCode.UNREACHABLE


def vote_on(cluster: Cluster, offer: Path, voters: tuple[int, ...]) -> None:
    """Have one member propose an offer, and five others approve it."""
    first, *others = voters
    assert (
        when_up(
            cluster, ["operator", "propose", "--home", str(cluster.seat_home(SeatIndex(first))), "--offer", str(offer)]
        )
        == 0
    )
    for voter in others:
        home = str(cluster.seat_home(SeatIndex(voter)))
        assert when_up(cluster, ["operator", "approve", "--home", home, "--proposer", str(first)]) == 0


async def test_a_burnt_seat_goes_to_another_company_and_a_member_takes_new_keys(
    nine_nodes: Cluster, tmp_path: Path
) -> None:
    cluster, client_home = nine_nodes, read_client_home(nine_nodes.home / "client")
    async with open_client(client_home) as client:
        before = await client.put("kept", "before", bytes_source(OBJECT))
    await trio.to_thread.run_sync(_replace_the_burnt, cluster, tmp_path / "newcomer")
    await trio.to_thread.run_sync(_rotate, cluster)
    async with open_client(client_home) as client:
        after = await client.put("kept", "after", bytes_source(OBJECT))
        assert await client.get("kept", "before") == OBJECT
        segments = (*before.segment_ids, *after.segment_ids)
        await trio.to_thread.run_sync(_wait_until_sealed, cluster, segments)
        status = await client.stat(await client.open("kept", "before"))
        assert (status.columns_live, status.state) == (COLUMNS, "sealed")
        assert (await client.verify("kept", "before")).signers >= 6, "from genesis, by way of both changes"
        proof = encode(await client.frames.prove(await client.open("kept", "before"), 3))
        await trio.to_thread.run_sync(_check_alone, cluster, proof)

    export = tmp_path / "export"
    assert main(["audit", "export", "--home", str(cluster.home), "--out", str(export)]) == 0
    with export.open("rb") as file:
        report = replay(file, genesis_hash(cluster.genesis))
    assert report.operators[BURNT] == "Newcomer"
    assert not report.faults


def _check_alone(cluster: Cluster, proof: bytes) -> None:
    """Check a frame's proof by the program that knows genesis and what any node says of changes."""
    verifier = frame_verifier()
    members: dict[int, bytes] = dict(enumerate(cluster.genesis.members))
    chain: Trusted = genesis_hash(cluster.genesis), [(0, members)]
    with pytest.raises(verifier.REFUSALS):
        verifier.verify(proof, (chain[0], [(0, {seat: members[seat] for seat in range(ROTATING)})]))
    verifier.follow_changes(chain, httpx.get(f"{cluster.api_address(SeatIndex(0))}/v1/raw/members").content)
    assert [sorted(members) for _, members in chain[1]] == [list(range(COLUMNS))] * 3
    assert verifier.verify(proof, chain)[0] == OBJECT[3 * FRAME_PLAIN_BYTES :][:FRAME_PLAIN_BYTES]


def _replace_the_burnt(cluster: Cluster, newcomer: Path) -> None:
    """Burn a site and its keys; another company sits on its seat, with a disk that holds nothing."""
    burn_seat(cluster, BURNT)
    seat = cluster.seats[BURNT]
    words = ["operator", "init", "--home", str(newcomer), "--node", cluster.api_address(SeatIndex(0))]
    words += ["--seat", str(BURNT), "--operator", "Newcomer", "--site", "elsewhere"]
    words += ["--host", seat.host, "--api-host", seat.host, "--api-port", str(seat.api_port)]
    words += ["--libp2p-port", str(seat.libp2p_port), "--shard-port", str(seat.shard_port)]
    assert main([*words, "--genesis-hash", genesis_hash(cluster.genesis).hex()]) == 0
    assert main(["operator", "join", "--home", str(newcomer), "--json"]) == 0
    vote_on(cluster, newcomer / "offer", (0, 1, 2, 4, 5, 6))
    shutil.rmtree(cluster.seat_home(BURNT))
    newcomer.rename(cluster.seat_home(BURNT))
    start_seat(cluster, BURNT)
    _wait(cluster, votes)


def _rotate(cluster: Cluster) -> None:
    """A member takes new keys; its node starts with them by itself."""
    home = cluster.seat_home(ROTATING)
    before = load_keys(home / "keys").signing.public
    assert main(["operator", "rotate", "--home", str(home)]) == 0
    vote_on(cluster, home / "offer", (int(ROTATING), 0, 1, 3, 4, 8))
    _wait(cluster, lambda state: votes(state) and _has_new_keys(home, before))


def _has_new_keys(home: Path, before: bytes) -> bool:
    return (home / "keys" / "signing").exists() and load_keys(home / "keys").signing.public != before


def _are_sealed(cluster: Cluster, segments: tuple[SegmentId, ...]) -> bool:
    """Say whether the chain has every column's receipt, of who sits there now."""
    address = cluster.api_address(SeatIndex(0))
    answers = [httpx.get(f"{address}/v1/segments/{segment_id.hex()}") for segment_id in segments]
    return all(answer.is_success and len(answer.json()["receipted"]) == COLUMNS for answer in answers)


def _wait_until_sealed(cluster: Cluster, segments: tuple[SegmentId, ...]) -> None:
    _wait(cluster, lambda state: votes(state) and _are_sealed(cluster, segments))


def _wait(cluster: Cluster, is_ready: Callable[[SeatView], bool]) -> None:
    """Wait until it is so at every seat; nodes that start again answer a moment later."""
    wait_for_seats(cluster, cluster.all_seats(), is_ready, seconds_max=READY_S)
