"""What others can do with a member's own keys, on nine real nodes: flood its peers with votes, or run a second time.

Seat 8's node is off while the flood lasts and its turns are skipped, so that both rates are those of the same eight
nodes under the same load. Their ratio is asserted by the campaign alone (GRANDEST_FLOOD_RATIO): here another worker has
one of the two cores, and printed always. GRANDEST_FLOOD_SECONDS makes it long.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from libp2p.exceptions import BaseLibp2pError

from consensus.genesis import genesis_hash
from consensus.identifiers import BlockHash, GenesisHash, Height, MemberIndex, Round, Signature
from consensus.messages import VoteMessage, encode_message
from consensus.signing import SigningKey
from consensus.vote_keeper import ROUNDS_KEPT
from consensus.votes import Precommit, SignedVote, vote_sign_bytes
from node.cli.output import note
from node.errors import PeerUnreachableError
from node.keys import load_keys
from node.network.frames import encode_frame
from node.network.peers import Membership, NetworkSeed, PeerAddress, peer_id_of
from node.network.streams import CONSENSUS_PROTOCOL
from node.network.swarm import MembersHost, MembersSwarm
from storage.genesis import Seat
from storage.identifiers import SeatIndex
from testnet.bench.absent import sending
from testnet.cluster import (
    Cluster,
    cluster_states,
    start_seat,
    votes,
    wait_for_seats,
)
from testnet.status_query import ask_status
from tests.integration.conftest import running_testnet
from tests.integration.rough import anonymous_bytes, stop_seat
from tests.node.network.doubles import free_port, hostile_host

RATIO_MIN = float(os.environ.get("GRANDEST_FLOOD_RATIO", "0"))
FLOOD_SECONDS = float(os.environ.get("GRANDEST_FLOOD_SECONDS", "6"))
LIAR = SeatIndex(8)
TIMES_HONEST = 10
VOTES_A_BLOCK = 2
BURST = 120
"""Votes before forged ones, of which one costs the connection."""
GROWTH_BYTES_MAX = 16 * 1024 * 1024
SUSPENDED_HEIGHTS = 40
"""Three own turns of nine missed, and the multiple of nine after them."""
DIAL_SECONDS_MAX = 5.0
NODE_GONE_SECONDS_MAX = 60.0
LOOK_S = 0.2
FOLLOW_S = 0.05
HEIGHTS_BEHIND_MAX = 6
"""Blocks that are made while the flooder learns of the last."""


@pytest.fixture(scope="module")
def nine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Nine voting nodes for this whole file."""
    with running_testnet(tmp_path_factory.mktemp("stolen") / "net") as cluster:
        yield cluster


async def pass_time(seconds: float) -> None:
    with trio.move_on_after(seconds):
        await trio.sleep_forever()


async def height_of(cluster: Cluster) -> int:
    states = await trio.to_thread.run_sync(cluster_states, cluster)
    return max(state.status.height for state in states if state.status is not None)


async def block_rate(cluster: Cluster) -> float:
    height, began = await height_of(cluster), time.monotonic()
    await pass_time(FLOOD_SECONDS)
    return (await height_of(cluster) - height) / (time.monotonic() - began)


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


# --- floods --------------------------------------------------------------------------------------------------------


Place = tuple[MembersHost, MembersSwarm, PeerAddress]


@dataclass(slots=True, kw_only=True)
class Flooder:
    """Seat 8's keys, in other hands."""

    signing: SigningKey
    seed: NetworkSeed
    genesis: GenesisHash
    height: int
    votes_a_second: float
    sent: Counter[str] = field(default_factory=Counter[str])
    failed_dials: int = 0

    def frame(self, height: int, round_: int, block: int) -> bytes:
        block_hash = BlockHash(block.to_bytes(32, "big"))
        vote = Precommit(height=Height(height), round=Round(round_), block_hash=block_hash, member=MemberIndex(LIAR))
        signature = self.signing.sign(vote_sign_bytes(vote, self.genesis))
        return encode_message(VoteMessage(signed=SignedVote(vote=vote, signature=signature)))

    def forged(self) -> list[tuple[str, bytes]]:
        """Return votes of a few heights: older than the member's are ignored, the first of its own costs the link."""
        heights = range(self.height + 1, self.height + 1 + HEIGHTS_BEHIND_MAX)
        forged = [
            Precommit(height=Height(height), round=Round(0), block_hash=None, member=MemberIndex(LIAR))
            for height in heights
        ]
        signed = [SignedVote(vote=vote, signature=Signature(bytes(64))) for vote in forged]
        return [("forged", encode_message(VoteMessage(signed=each))) for each in signed]

    def burst(self, number: int) -> list[tuple[str, bytes]]:
        """Return votes of each useless kind, and a forged one at the end."""
        here = self.height + 1
        kinds: list[tuple[str, bytes]] = []
        for place in range(0, BURST, 5):
            new = number * BURST + place
            kinds += [
                ("next height", self.frame(here + 1, new, new)),
                ("far height", self.frame(here + 2 + new, 0, new)),
                ("far round", self.frame(here, ROUNDS_KEPT + 1 + new, new)),
                ("near round", self.frame(here, 1 + new % ROUNDS_KEPT, 1)),
                ("duplicate", self.frame(here, 1, 1)),
            ]
        return [*kinds, *self.forged()]

    async def flood(self, seat: Seat) -> None:
        """Send one member bursts for ever, over a new connection whenever the old one was closed."""
        address = PeerAddress(network_key=seat.network_key, host=seat.host, port=seat.libp2p_port)
        async with hostile_host(self.seed, address) as (host, swarm):
            began, number = trio.current_time(), 0
            while True:
                burst = self.burst(number)
                number += 1
                try:
                    await self._send(burst, (host, swarm, address))
                except (BaseLibp2pError, PeerUnreachableError, OSError, trio.TooSlowError):
                    self.failed_dials += 1
                await pass_time(max(0.0, began + number * len(burst) / self.votes_a_second - trio.current_time()))

    async def _send(self, burst: list[tuple[str, bytes]], place: Place) -> None:
        """Send a burst, over a new connection if the last is closed; return once the member has closed it."""
        host, swarm, address = place
        with trio.fail_after(DIAL_SECONDS_MAX):
            await swarm.dial_member(Membership((address,)), address.network_key, DIAL_SECONDS_MAX)
            stream = await host.new_stream(peer_id_of(address.network_key), [CONSENSUS_PROTOCOL])
            await stream.write(b"".join(encode_frame(frame) for _, frame in burst))
            self.sent.update(kind for kind, _ in burst)
            while swarm.connections:
                await pass_time(0.005)

    async def follow(self, cluster: Cluster) -> None:
        """Keep up with the height."""
        while True:
            seat = cluster.seats[0]
            status = await trio.to_thread.run_sync(ask_status, seat.host, seat.api_port)
            self.height = self.height if status is None else status.height
            await pass_time(FOLLOW_S)


async def test_a_flood_of_votes_costs_bounded_memory_and_few_blocks(nine: Cluster) -> None:
    honest = tuple(seat for seat in nine.all_seats() if seat != LIAR)
    keys = load_keys(nine.seat_home(LIAR) / "keys")
    await trio.to_thread.run_sync(stop_seat, nine, LIAR)
    log_starts = {seat: nine.log_file(seat).stat().st_size for seat in honest}
    async with sending(nine, honest):
        start = await height_of(nine)
        with trio.fail_after(NODE_GONE_SECONDS_MAX):
            while await height_of(nine) < start + SUSPENDED_HEIGHTS:
                await pass_time(LOOK_S)
        before = await block_rate(nine)
        memory = {seat: anonymous_bytes(nine, seat) for seat in honest}
        flooder = Flooder(
            signing=keys.signing,
            seed=NetworkSeed(keys.network.seed()),
            genesis=genesis_hash(nine.genesis),
            height=await height_of(nine),
            votes_a_second=TIMES_HONEST * VOTES_A_BLOCK * before,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flooder.follow, nine)
            for seat in honest:
                nursery.start_soon(flooder.flood, nine.seats[seat])
            during = await block_rate(nine)
            growth = max(anonymous_bytes(nine, seat) - memory[seat] for seat in honest)
            nursery.cancel_scope.cancel()
    times = sum(flooder.sent.values()) / len(honest) / FLOOD_SECONDS / (VOTES_A_BLOCK * during)
    note(
        f"\n{sum(flooder.sent.values())} useless votes {dict(flooder.sent)} to eight members in {FLOOD_SECONDS:.0f} s, "
        f"{times:.1f} times what an honest member says, {flooder.failed_dials} dials failed: {before:.1f} blocks/s "
        f"before, {during:.1f} during ({100 * during / before:.0f} %); anonymous memory grew by "
        f"{growth / 1024:.0f} KiB at most"
    )
    assert growth < GROWTH_BYTES_MAX
    assert sum(flooder.sent.values()) > 0
    peer = flooder.seed.public_key().hex()[:16]
    for seat in honest:
        log = nine.log_file(seat).read_bytes()[log_starts[seat] :].decode()
        reasons = Counter(line.split(": ")[2] for line in log.split("\n") if f"refused peer {peer}: " in line)
        assert set(reasons) == {"bad_signature"}, (seat, reasons)
    assert during >= RATIO_MIN * before
    start_seat(nine, LIAR)
    await trio.to_thread.run_sync(wait_for_seats, nine, nine.all_seats(), votes)
