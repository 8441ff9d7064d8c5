"""Real nodes on loopback: what members say arrives, what breaks a rule costs the connection, links come back."""

from __future__ import annotations

import random
from functools import partial

import pytest
import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.network.stream.exceptions import StreamError

from consensus.errors import RejectionError, RejectionReason
from node.errors import ConfigurationError
from node.network.catch_up import CATCH_UP_PROTOCOL
from node.network.frames import encode_frame
from node.network.gossip import GOSSIP_PROTOCOL
from node.network.host import open_network
from node.network.peers import FRAME_BYTES_MAX, Drop, peer_id_of
from node.network.streams import CONSENSUS_PROTOCOL
from tests.node.network.doubles import Recorder, eventually, hostile_host, town


async def test_frames_of_one_peer_arrive_in_order() -> None:
    async with town(2).run(0, 1) as (first, second):
        sent = [index.to_bytes(2, "big") for index in range(500)]
        for frame in sent:
            first.network.send(second.key, frame)
        await eventually(lambda: len(second.seen.frames) == 500)
        assert second.seen.frames == [(first.key, frame) for frame in sent]
        assert first.network.counters.frames_sent == 500


async def test_the_largest_frame_arrives_whole() -> None:
    async with town(2).run(0, 1) as (first, second):
        frame = bytes(range(256)) * (FRAME_BYTES_MAX // 256)
        first.network.send(second.key, frame)
        await eventually(lambda: bool(second.seen.frames))
        assert second.seen.frames == [(first.key, frame)]


async def test_a_broadcast_reaches_every_peer() -> None:
    async with town(4).run(0, 1, 2, 3) as members:
        members[0].network.broadcast(b"hello")
        await eventually(lambda: all(len(member.seen.frames) == 1 for member in members[1:]))
        assert members[0].seen.frames == []
        assert members[0].network.connected_peers() == {member.key for member in members[1:]}


async def test_a_pair_that_dials_at_once_keeps_one_connection() -> None:
    async with town(3).run(0, 1, 2) as members:
        for member in members:
            connections = member.network._swarm.connections
            assert [len(of_peer) for of_peer in connections.values()] == [1, 1]


async def test_a_keepalive_never_reaches_the_shell_and_keeps_the_link() -> None:
    async with town(2).run(0, 1) as (first, second):
        # Four of 0.5 s: longer than the silence that costs a link.
        await eventually(lambda: second.network.counters.keepalives_received >= 4)
        assert second.seen.frames == []
        assert second.network.counters.peers_silent == 0
        assert first.seen.links == [("up", second.key)]


async def test_a_peer_that_starts_again_is_linked_within_two_seconds() -> None:
    place = town(2)
    async with place.run(0) as (first,):
        for _life in range(2):
            first.network.send(place.addresses[1].network_key, b"while away")
            with trio.fail_after(5):
                async with open_network(place.settings(1), second := Recorder()):
                    started_at = trio.current_time()
                    await eventually(partial(received, second, 1))
                    assert trio.current_time() - started_at < 2
            await eventually(lambda: not first.network.connected_peers())
    assert first.seen.links == [(state, place.addresses[1].network_key) for state in ("up", "down", "up", "down")]


async def test_a_full_queue_drops_the_oldest_and_counts_them() -> None:
    place = town(2)
    async with place.run(0) as (first,):
        absent = place.addresses[1].network_key
        for index in range(1030):
            first.network.send(absent, index.to_bytes(2, "big"))
        assert first.network.counters.dropped[Drop.QUEUE_FULL] == 6
        async with open_network(place.settings(1), seen := Recorder()):
            await eventually(lambda: len(seen.frames) == 1024)
        assert seen.frames[0][1] == (6).to_bytes(2, "big")


async def test_a_port_in_use_is_said_plainly() -> None:
    place = town(2)
    async with place.run(0):
        with pytest.raises(
            ConfigurationError,
            match=r"libp2p port 127\.0\.0\.1:\d+ cannot be used .*: choose another",
        ):
            async with open_network(place.settings(0), Recorder()):
                pytest.fail("two nodes share a port")


async def test_a_frame_that_the_shell_refuses_costs_the_connection() -> None:
    async with town(2).run(0, 1) as (first, second):
        second.seen.rejection = RejectionError(RejectionReason.BAD_SIGNATURE, "not theirs")
        first.network.send(second.key, b"forged")
        await eventually(lambda: ("down", second.key) in first.seen.links)
        assert second.network.counters.refused == {RejectionReason.BAD_SIGNATURE: 1}
        second.seen.rejection = None
        await eventually(lambda: bool(first.network.connected_peers()))
        first.network.send(second.key, b"honest")
        await eventually(lambda: second.seen.frames == [(first.key, b"honest")])


async def test_a_bug_in_a_handler_ends_the_network() -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(AssertionError, match="our bug"), flatten_subgroups=True):
        async with town(2).run(0, 1) as (first, second):
            second.seen.bug = AssertionError("our bug")
            first.network.send(second.key, b"x")
            await trio.sleep_forever()


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        ((FRAME_BYTES_MAX + 1).to_bytes(4, "big"), RejectionReason.OVERSIZED),
        (b"\xff" * 64, RejectionReason.OVERSIZED),
        (encode_frame(b"abc")[:5], RejectionReason.MALFORMED),
    ],
    ids=["one byte too large", "all ones", "truncated"],
)
async def test_a_hostile_member_loses_its_connection_by_reason(wire: bytes, reason: RejectionReason) -> None:
    place = town(3)
    async with place.run(0, 1) as (first, second), hostile_host(place.seeds[2], place.addresses[0]) as (host, swarm):
        hostile = place.addresses[2].network_key
        stream = await host.new_stream(peer_id_of(first.key), [CONSENSUS_PROTOCOL])
        await stream.write(encode_frame(b"honest so far"))
        await stream.write(wire)
        await stream.close()
        await eventually(lambda: first.network.counters.refused == {reason: 1})
        await eventually(lambda: not swarm.connections)
        assert (hostile, b"honest so far") in first.seen.frames
        second.network.send(first.key, b"undisturbed")
        await eventually(lambda: (second.key, b"undisturbed") in first.seen.frames)
        assert second.key in first.network.connected_peers()


async def test_a_silent_member_loses_its_connection() -> None:
    place = town(2)
    async with place.run(0) as (first,), hostile_host(place.seeds[1], place.addresses[0]) as (host, swarm):
        stream = await host.new_stream(peer_id_of(first.key), [CONSENSUS_PROTOCOL])
        await stream.write(encode_frame(b"x")[:3])
        await eventually(lambda: first.network.counters.peers_silent == 1)
        await eventually(lambda: not swarm.connections)


async def test_a_newer_stream_replaces_the_older() -> None:
    place = town(2)
    async with place.run(0) as (first,), hostile_host(place.seeds[1], place.addresses[0]) as (host, _):
        hostile = place.addresses[1].network_key
        streams: list[INetStream] = []
        for index in range(3):
            stream = await host.new_stream(peer_id_of(first.key), [CONSENSUS_PROTOCOL])
            await stream.write(encode_frame(bytes([index])))
            await eventually(partial(received, first.seen, index + 1))
            streams.append(stream)
        assert first.seen.frames == [(hostile, bytes([index])) for index in range(3)]
        assert await reads_end(streams[0])
        await streams[2].write(encode_frame(b"still read"))
        await eventually(lambda: first.seen.frames[-1] == (hostile, b"still read"))


async def test_an_unknown_protocol_is_not_spoken() -> None:
    place = town(2)
    async with place.run(0) as (first,), hostile_host(place.seeds[1], place.addresses[0]) as (host, _):
        for protocol in ("/ipfs/id/1.0.0", "/ipfs/ping/1.0.0", "/grandest/other/1"):
            with pytest.raises(Exception, match="failed to open a stream"):
                await host.new_stream(peer_id_of(first.key), [TProtocol(protocol)])


def received(seen: Recorder, frames: int) -> bool:
    return len(seen.frames) == frames


async def reads_end(stream: INetStream) -> bool:
    """Return whether a stream was ended by the other side."""
    with trio.fail_after(5):
        try:
            return not await stream.read(1)
        except StreamError:
            return True


async def test_noise_on_every_protocol_stops_nobody() -> None:
    place = town(3)
    generator = random.Random(20)
    protocols = [CONSENSUS_PROTOCOL, CATCH_UP_PROTOCOL, GOSSIP_PROTOCOL]
    async with place.run(0, 1) as (first, second):
        for attempt in range(24):
            async with hostile_host(place.seeds[2], place.addresses[0]) as (host, swarm):
                (connection,) = swarm.get_connections(peer_id_of(first.key))
                if attempt % 4 == 3:  # below the protocols: as frames of yamux
                    await connection.muxed_conn.secured_conn.write(generator.randbytes(200))  # type: ignore[attr-defined]
                    continue
                stream = await host.new_stream(peer_id_of(first.key), [protocols[attempt % 4]])
                await stream.write(generator.randbytes(generator.randint(1, 2000)))
                await stream.close()
        second.network.send(first.key, b"undisturbed")
        await eventually(lambda: (second.key, b"undisturbed") in first.seen.frames)
        assert first.seen.links.count(("down", second.key)) == 0
