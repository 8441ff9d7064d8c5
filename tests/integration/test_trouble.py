"""Nine real nodes in trouble, one after the other: killed, flooded, damaged, out of space, out of time, too few.

Every test leaves nine voting nodes, except the last. Longer runs (make campaign): GRANDEST_KILLS, GRANDEST_BAD_FRAMES.
How soon a killed node votes is asserted there alone: here another worker has one of the two cores.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils.varint import encode_varint_prefixed

from consensus.errors import RejectionError
from consensus.identifiers import Height, MemberIndex, Round, Signature
from consensus.messages import (
    REQUEST_BYTES_MAX,
    BlocksRequest,
    StatusMessage,
    VoteMessage,
    encode_message,
    encode_request,
)
from consensus.signing import SigningKey
from consensus.votes import Precommit, SignedVote
from node.cli.output import note
from node.client import TooFewHoldersError, read_client_home
from node.client.shard_links import dialler
from node.clock import now_ms
from node.errors import PeerUnreachableError
from node.keys import load_keys
from node.network.catch_up import CATCH_UP_PROTOCOL
from node.network.gossip import GOSSIP_PROTOCOL
from node.network.peers import FRAME_BYTES_MAX, Membership, NetworkSeed, PeerAddress, Topic, peer_id_of
from node.network.streams import CONSENSUS_PROTOCOL
from node.nurseries import open_plain_nursery
from node.repair_task import REPAIRS_AT_ONCE
from storage.identifiers import SeatIndex
from storage.segments import SegmentShape
from testnet.bench.rebuild import BURNT, Watch, leaves_asked
from testnet.cluster import (
    READY_SECONDS_MAX,
    Cluster,
    burn_seat,
    cluster_states,
    kill_seat,
    last_line,
    process_of,
    start_seat,
    votes,
    wait_for_seats,
)
from tests.integration.bad_frames import bad_frames, bad_shard_frames, refused_on_the_shard_channel
from tests.integration.clocks import shifted_clock
from tests.integration.conftest import running_testnet
from tests.integration.rough import (
    Signatures,
    anonymous_bytes,
    check_all,
    client_of,
    damaged_leaves,
    flip_bits,
    put,
    reads_of,
    segments_of,
    stop_seat,
    wait_for_columns,
    write_for_ever,
)
from tests.node.network.doubles import eventually, hostile_host
from tests.small_disks import fill_disk, small_disk

KILLS = int(os.environ.get("GRANDEST_KILLS", "6"))
KILL_SEED = int(os.environ.get("GRANDEST_KILL_SEED", "50"))
BAD_FRAMES = int(os.environ.get("GRANDEST_BAD_FRAMES", "40"))
VOTING_SECONDS_MAX = float(os.environ.get("GRANDEST_VOTING_SECONDS", READY_SECONDS_MAX))
GROWTH_BYTES_MAX = 16 * 1024 * 1024
"""The allocator may keep what two of the longest frames took; it did from the 60th to the 2,000th."""
LOADED_BYTES = 2_000_000
"""One segment whose columns are a third of a megabyte: 21 leaves."""
NODE_GONE_SECONDS_MAX = 30.0
POLL_S = 0.1


@pytest.fixture(scope="module")
def nine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Nine voting nodes for this whole file."""
    with running_testnet(tmp_path_factory.mktemp("trouble") / "net") as cluster:
        yield cluster


async def until_voting(cluster: Cluster, *seats: SeatIndex) -> None:
    await trio.to_thread.run_sync(wait_for_seats, cluster, seats, votes)


async def until_said(cluster: Cluster, seat: SeatIndex, wanted: str) -> None:
    """Wait until a node's log says something."""
    with trio.fail_after(NODE_GONE_SECONDS_MAX):
        while wanted not in cluster.log_file(seat).read_text():
            with trio.move_on_after(POLL_S):  # the log is a file of another process
                await trio.sleep_forever()


async def pass_time(seconds: float) -> None:
    """Let a drawn time pass: the moment of a kill is what is tested."""
    with trio.move_on_after(seconds):
        await trio.sleep_forever()


def heights(cluster: Cluster) -> dict[SeatIndex, int]:
    return {state.seat: state.status.height for state in cluster_states(cluster) if state.status is not None}


# --- clock ---------------------------------------------------------------------------------------------------------


async def test_a_clock_an_hour_ahead_is_told_at_start(
    nine: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seat = SeatIndex(3)
    await trio.to_thread.run_sync(stop_seat, nine, seat)
    with monkeypatch.context() as patched:
        for name, text in shifted_clock(tmp_path, 3600).items():
            patched.setenv(name, text)
        start_seat(nine, seat)
    with trio.fail_after(NODE_GONE_SECONDS_MAX):
        while process_of(nine, seat) is not None:
            with trio.move_on_after(POLL_S):  # a process tells nobody of its end but its parent
                await trio.sleep_forever()
    said = last_line(nine, seat)
    assert "the clock of this machine is 60 minutes ahead of those of" in said or "59 minutes ahead" in said
    start_seat(nine, seat)
    await until_voting(nine, seat)


# --- SIGKILL -------------------------------------------------------------------------------------------------------


async def kill_at_a_moment(cluster: Cluster, seat: SeatIndex, choice: random.Random, kill: int) -> float:
    """Kill a voting node, or every second time one that is starting; return the seconds from start to voting."""
    await pass_time(choice.uniform(0, 1.0))
    assert await trio.to_thread.run_sync(kill_seat, cluster, seat)
    if kill % 2:
        start_seat(cluster, seat)
        await pass_time(choice.uniform(0, 2.5))
        assert await trio.to_thread.run_sync(kill_seat, cluster, seat)
    began = time.monotonic()
    start_seat(cluster, seat)
    await until_voting(cluster, seat)
    return time.monotonic() - began


async def test_a_node_killed_at_any_moment_votes_again_and_never_signs_twice(nine: Cluster) -> None:
    choice = random.Random(KILL_SEED)
    signed, spans = Signatures(), list[float]()
    written: dict[str, int] = {}
    async with client_of(nine) as client, trio.open_nursery() as load:
        load.start_soon(write_for_ever, client, "kills", written)
        for kill in range(KILLS):
            seat = SeatIndex(choice.randrange(9))
            spans.append(await kill_at_a_moment(nine, seat, choice, kill))
        load.cancel_scope.cancel()
    for seat in nine.all_seats():
        await trio.to_thread.run_sync(stop_seat, nine, seat)
        signed.add_record(seat, nine.seat_home(seat) / "signer")
        start_seat(nine, seat)
    await until_voting(nine, *nine.all_seats())
    reached = [await trio.to_thread.run_sync(signed.add_chain, nine, seat) for seat in nine.all_seats()]
    async with client_of(nine) as client:
        await check_all(client, written)
    spans.sort()
    note(
        f"\n{KILLS} kills, seed {KILL_SEED}: voting after {spans[len(spans) // 2]:.2f} s (median), {spans[-1]:.2f} s "
        f"(longest); {max(reached)} blocks, {len(signed)} signatures, {len(written)} objects acknowledged"
    )
    assert len(signed) > max(reached)
    assert len(written) >= KILLS
    assert spans[-1] < VOTING_SECONDS_MAX


# --- a flipped bit -------------------------------------------------------------------------------------------------


async def test_flipped_bits_are_never_served_and_are_rebuilt(nine: Cluster) -> None:
    seat = SeatIndex(6)
    written = {f"bits-{number}": LOADED_BYTES for number in range(6)}
    async with client_of(nine) as client, trio.open_nursery() as nursery:
        for name, byte_count in written.items():
            await put(client, name, byte_count)
        await wait_for_columns(client, list(written))
        segments = await segments_of(client, list(written))
        home = nine.seat_home(seat)
        connect = dialler(nine.seats, load_keys(nine.seat_home(SeatIndex(0)) / "keys").network, nursery, reads_of(nine))

        async def damage_is_found() -> None:
            link = await connect(seat)
            assert await damaged_leaves(client, link, seat, segments) > 0
            await check_all(client, written)
            await wait_for_columns(client, list(written))
            with trio.fail_after(NODE_GONE_SECONDS_MAX):
                while await damaged_leaves(client, link, seat, segments):
                    with trio.move_on_after(POLL_S):  # nothing tells a client of a rebuilt column
                        await trio.sleep_forever()
            await link.aclose()

        await trio.to_thread.run_sync(stop_seat, nine, seat)
        assert flip_bits(home / "units", every_bytes=100_000)
        start_seat(nine, seat)  # which turns its log into a table
        await until_voting(nine, seat)
        await damage_is_found()
        await trio.to_thread.run_sync(stop_seat, nine, seat)
        start_seat(nine, seat)
        await until_voting(nine, seat)
        assert flip_bits(home / "units", every_bytes=100_000)
        await damage_is_found()
        nursery.cancel_scope.cancel()


# --- bad messages --------------------------------------------------------------------------------------------------


async def test_bad_messages_are_refused_by_reason_and_cost_no_memory(nine: Cluster) -> None:
    """Seat 8's own key, in other hands."""
    target, liar = SeatIndex(0), SeatIndex(8)
    await trio.to_thread.run_sync(stop_seat, nine, liar)
    seat = nine.seats[target]
    address = PeerAddress(network_key=seat.network_key, host=seat.host, port=seat.libp2p_port)
    seed = NetworkSeed(load_keys(nine.seat_home(liar) / "keys").network.seed())
    peer_id, choice = peer_id_of(seat.network_key), random.Random(8)
    status = encode_message(StatusMessage(height=Height(1), round=Round(0)))
    request = encode_request(BlocksRequest(from_height=Height(1), count=1))

    def all_kinds() -> list[tuple[TProtocol, bytes, str]]:
        # Of the present height: a vote of an old one is no news, and is ignored whoever signed it.
        height = Height(heights(nine)[target] + 1)
        vote = Precommit(height=height, round=Round(0), block_hash=None, member=MemberIndex(liar))
        forged = encode_message(VoteMessage(signed=SignedVote(vote=vote, signature=Signature(bytes(64)))))
        kinds = [(CONSENSUS_PROTOCOL, *kind) for kind in bad_frames(choice, status, forged, FRAME_BYTES_MAX)]
        asked = bad_frames(choice, request, forged, REQUEST_BYTES_MAX)
        catch_up = [kind for kind in asked if kind[1] != "bad_signature"]
        return kinds + [(CATCH_UP_PROTOCOL, *kind) for kind in catch_up]

    kinds = all_kinds()
    sent: dict[str, int] = {}
    log_start = nine.log_file(target).stat().st_size

    async with hostile_host(seed, address) as (host, swarm):

        async def refused(number: int) -> None:
            nonlocal kinds
            if number % len(kinds) == 0:
                kinds = await trio.to_thread.run_sync(all_kinds)
            protocol, wire, reason = kinds[number % len(kinds)]
            if not swarm.connections:
                await swarm.dial_member(Membership((address,)), seat.network_key, 10)
            stream: INetStream = await host.new_stream(peer_id, [protocol])
            await stream.write(wire)
            await stream.close()
            await eventually(lambda: not swarm.connections)
            sent[reason] = sent.get(reason, 0) + 1

        for number in range(2 * len(kinds)):
            await refused(number)
        before = anonymous_bytes(nine, target)
        for number in range(BAD_FRAMES):
            await refused(number)
        await swarm.dial_member(Membership((address,)), seat.network_key, 10)
        stream = await host.new_stream(peer_id, [GOSSIP_PROTOCOL])
        for number in range(BAD_FRAMES):
            message = rpc_pb2.Message(
                data=choice.randbytes(10_000),
                topicIDs=[Topic.TRANSACTIONS],
                from_id=peer_id_of(nine.seats[number % 9].network_key).to_bytes(),
                seqno=number.to_bytes(8, "big"),
            )
            await stream.write(encode_varint_prefixed(rpc_pb2.RPC(publish=[message]).SerializeToString()))
        await stream.write(encode_varint_prefixed(b"\xff" * 20))
        await eventually(lambda: not swarm.connections)
        sent["malformed"] += 1
        growth = anonymous_bytes(nine, target) - before
    log = nine.log_file(target).read_bytes()[log_start:].decode()
    for reason, count in sent.items():
        assert log.count(f"refused peer {seed.public_key().hex()[:16]}: {reason}") >= count, reason
    note(f"\n{sum(sent.values())} refusals {sent}: anonymous memory grew by {growth / 1024:.0f} KiB")
    assert growth < GROWTH_BYTES_MAX
    start_seat(nine, liar)
    await until_voting(nine, target, liar)


async def test_a_stranger_is_refused_on_both_channels(nine: Cluster) -> None:
    seat = nine.seats[1]
    address = PeerAddress(network_key=seat.network_key, host=seat.host, port=seat.libp2p_port)
    with pytest.RaisesGroup(PeerUnreachableError, flatten_subgroups=True):
        await hostile_host(NetworkSeed(b"s" * 32), address).__aenter__()
    async with open_plain_nursery() as nursery:
        with pytest.raises((PeerUnreachableError, RejectionError)):
            # Of its refusal a TLS 1.3 client learns at its first read.
            await (await dialler(nine.seats, SigningKey(b"s" * 32), nursery)(SeatIndex(1))).read_records(())
    assert all(votes(state) for state in cluster_states(nine))


async def test_a_flood_on_the_shard_channel_is_refused_by_reason_and_costs_no_memory(nine: Cluster) -> None:
    """By the demo tenant's own granted key, and by a key that nobody has granted."""
    target, choice = SeatIndex(7), random.Random(7)
    granted, stranger = read_client_home(nine.home / "client").signing_key, SigningKey(b"s" * 32)
    member, sent = f"peer {granted.public.hex()[:16]}", dict[tuple[str, str], int]()
    log_start = nine.log_file(target).stat().st_size

    async def flood(count: int) -> None:
        for number in range(count):
            kinds = bad_shard_frames(choice)
            wire, reason = kinds[number % len(kinds)]
            for name, key, said in ((member, granted, reason), ("a stranger", stranger, "not_a_member")):
                await refused_on_the_shard_channel(nine.seats[target], key, wire)
                sent[name, said] = sent.get((name, said), 0) + 1

    await flood(2 * len(bad_shard_frames(choice)))
    before = anonymous_bytes(nine, target)
    await flood(4 * BAD_FRAMES)
    growth = anonymous_bytes(nine, target) - before
    idle = [await trio.open_tcp_stream(nine.seats[target].host, nine.seats[target].shard_port) for _ in range(300)]
    async with client_of(nine) as client:
        assert await put(client, "beside-a-flood", LOADED_BYTES) == 9
    for stream in idle:
        await trio.aclose_forcefully(stream)
    log = nine.log_file(target).read_bytes()[log_start:].decode()
    for (name, reason), count in sent.items():
        assert log.count(f"shard channel: refused {name}: {reason}") >= count, (name, reason)
    note(f"\n{sum(sent.values())} refusals on the shard channel: anonymous memory grew by {growth / 1024:.0f} KiB")
    assert growth < GROWTH_BYTES_MAX
    assert all(votes(state) for state in cluster_states(nine))


# --- a full disk ---------------------------------------------------------------------------------------------------


@pytest.fixture
def small_home(nine: Cluster) -> Iterator[Path]:
    """Seat 4's home on a disk of 160 MiB, a quarter of it reserve."""
    seat = SeatIndex(4)
    home = nine.seat_home(seat)
    aside = home.with_name("aside")
    stop_seat(nine, seat)
    home.rename(aside)
    with small_disk(home, mebibytes=160):
        shutil.copytree(aside, home, dirs_exist_ok=True)
        home.chmod(0o700)
        with (home / "config.toml").open("a") as file:
            file.write(f"reserve_bytes = {40 * 1024 * 1024}\n")
        start_seat(nine, seat)
        wait_for_seats(nine, [seat], votes)
        try:
            yield home
        finally:
            kill_seat(nine, seat)
            shutil.rmtree(aside)
            shutil.copytree(home, aside)
    home.rmdir()
    aside.rename(home)
    start_seat(nine, seat)
    wait_for_seats(nine, [seat], votes)


async def test_a_full_disk_refuses_tenants_then_stops_and_recovers(nine: Cluster, small_home: Path) -> None:
    seat, written = SeatIndex(4), dict[str, int]()
    async with client_of(nine) as client:

        async def store(name: str) -> int:
            written[name] = LOADED_BYTES
            return await put(client, name, LOADED_BYTES)

        assert await store("space-0") == 9
        fill_disk(small_home / "ballast", leave_bytes=20 * 1024 * 1024)
        assert [await store(f"reserve-{number}") for number in range(3)] == [8, 8, 8]
        await until_voting(nine, seat)
        with trio.fail_after(NODE_GONE_SECONDS_MAX):
            while len(set(heights(nine).values())) > 1:
                with trio.move_on_after(POLL_S):  # a block is on its way
                    await trio.sleep_forever()
        fill_disk(small_home / "ballast-2")
        async with trio.open_nursery() as load:
            more: dict[str, int] = {}
            load.start_soon(write_for_ever, client, "full", more)
            await until_said(nine, seat, "this node stops until 32 MiB are free")
            before = len(more)
            with trio.fail_after(NODE_GONE_SECONDS_MAX):
                while len(more) < before + 5:
                    with trio.move_on_after(POLL_S):  # the writer goes on meanwhile
                        await trio.sleep_forever()
            (small_home / "ballast").unlink()
            (small_home / "ballast-2").unlink()
            await until_voting(nine, seat)
            load.cancel_scope.cancel()
        await wait_for_columns(client, list(written))
        await check_all(client, written | more)


# --- a fire --------------------------------------------------------------------------------------------------------


async def test_a_burnt_seat_reads_k_columns_for_one_and_goes_on_where_it_was_killed(nine: Cluster) -> None:
    written = {f"burnt-{number}": LOADED_BYTES for number in range(24)}
    async with client_of(nine) as client:
        for name, byte_count in written.items():
            await put(client, name, byte_count)
        await wait_for_columns(client, list(written))
        segments = [await client.segment(segment_id) for segment_id in await segments_of(client, list(written))]
        burnt_ms = now_ms()
        burn_seat(nine, BURNT)
        start_seat(nine, BURNT)
        async with open_plain_nursery() as nursery:
            await Watch(nine, segments, nursery).until(len(segments) // 2)
            nursery.cancel_scope.cancel()
        kill_seat(nine, BURNT)
        start_seat(nine, BURNT)
        await wait_for_columns(client, list(written))
        async with trio.open_nursery() as load:
            load.start_soon(write_for_ever, client, "rejoin", dict[str, int]())  # it signs two heights later
            await until_voting(nine, BURNT)
            load.cancel_scope.cancel()
    leaves = [
        segment.k * SegmentShape(segment.segment_bytes, segment.k, len(segment.roots)).leaves for segment in segments
    ]
    asked = await trio.to_thread.run_sync(leaves_asked, nine, segments, burnt_ms)
    assert sum(leaves) <= asked <= 1.05 * sum(leaves) + REPAIRS_AT_ONCE * max(leaves), (
        "what was under way twice at most"
    )


# --- too few -------------------------------------------------------------------------------------------------------


async def test_fewer_than_six_live_holders_refuse_writes_and_serve_reads(nine: Cluster) -> None:
    async with client_of(nine) as client:
        for seat in (1, 3, 5):
            await trio.to_thread.run_sync(kill_seat, nine, SeatIndex(seat))
        assert await put(client, "kept", LOADED_BYTES) == 6
        await trio.to_thread.run_sync(kill_seat, nine, SeatIndex(7))
        with pytest.raises(TooFewHoldersError, match="5 holders answer and a write needs 6"):
            await put(client, "refused", LOADED_BYTES)
        await check_all(client, {"kept": LOADED_BYTES})
