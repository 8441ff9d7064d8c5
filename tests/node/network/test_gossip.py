"""Hints reach everybody, bursts included; what no member wrote is not passed on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils.varint import encode_varint_prefixed

from consensus.errors import RejectionError, RejectionReason
from node.network import gossip
from node.network.gossip import GOSSIP_PROTOCOL, RPC_BYTES_MAX
from node.network.peers import GOSSIP_BYTES_MAX, Drop, Topic, peer_id_of
from tests.node.network.doubles import Member, eventually, hostile_host, town

BURST = 40
"""Published within a second: four times what the library's spam protection lets through."""


def meshed(members: list[Member]) -> Callable[[], bool]:
    """Return whether every member has every other in its mesh of blocks."""
    return lambda: all(len(member.network._router.mesh[Topic.BLOCKS]) == len(members) - 1 for member in members)


def burst(members: list[Member]) -> None:
    for index in range(BURST):
        members[0].network.publish(Topic.BLOCKS, b"%d" % index)


async def test_a_burst_reaches_everybody_once() -> None:
    async with town(4).run(0, 1, 2, 3) as members:
        await eventually(meshed(members))
        burst(members)
        await eventually(lambda: all(len(member.seen.gossip) == BURST for member in members[1:]))
        expected = {(Topic.BLOCKS, members[0].key, b"%d" % index) for index in range(BURST)}
        assert all(set(member.seen.gossip) == expected for member in members[1:])
        assert members[0].seen.gossip == []


async def test_the_library_s_own_protection_would_lose_the_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    def protected(**options: object) -> GossipSub:
        options["spam_protection_enabled"] = True
        return GossipSub(**options)  # type: ignore[arg-type]

    monkeypatch.setattr(gossip, "GossipSub", protected)
    async with town(3).run(0, 1, 2) as members:
        await eventually(meshed(members))
        burst(members)
        members[0].network.publish(Topic.TRANSACTIONS, b"the end")
        ended = (Topic.TRANSACTIONS, members[0].key, b"the end")
        await eventually(lambda: all(ended in member.seen.gossip for member in members[1:]))
        assert any(len(member.seen.gossip) - 1 < BURST for member in members[1:])


async def test_the_largest_payload_arrives_and_a_larger_one_stays_at_home() -> None:
    async with town(2).run(0, 1) as members:
        first, second = members
        await eventually(meshed(members))
        first.network.publish(Topic.BLOCKS, bytes(GOSSIP_BYTES_MAX + 1))
        first.network.publish(Topic.TRANSACTIONS, bytes(GOSSIP_BYTES_MAX))
        await eventually(lambda: second.seen.gossip == [(Topic.TRANSACTIONS, first.key, bytes(GOSSIP_BYTES_MAX))])
        assert first.network.counters.dropped[Drop.GOSSIP_OVERSIZED] == 1


async def test_gossip_that_the_shell_refuses_costs_its_author_the_connection() -> None:
    async with town(2).run(0, 1) as members:
        first, second = members
        await eventually(meshed(members))
        second.seen.rejection = RejectionError(RejectionReason.MALFORMED, "no transaction")
        first.network.publish(Topic.BLOCKS, b"x")
        await eventually(lambda: second.network.counters.refused == {RejectionReason.MALFORMED: 1})
        await eventually(lambda: ("down", second.key) in first.seen.links)


async def test_an_unsigned_or_foreign_message_is_not_delivered() -> None:
    place = town(3)
    async with place.run(0, 1) as members, hostile_host(place.seeds[2], place.addresses[0]) as (host, _):
        await eventually(meshed(members))
        stream = await host.new_stream(peer_id_of(members[0].key), [GOSSIP_PROTOCOL])
        authors = [peer_id_of(place.addresses[2].network_key), peer_id_of(members[1].key)]
        forged = [
            rpc_pb2.Message(data=b"forged", topicIDs=[Topic.BLOCKS], from_id=author.to_bytes(), seqno=bytes(8))
            for author in authors
        ]
        await stream.write(encode_varint_prefixed(rpc_pb2.RPC(publish=forged).SerializeToString()))
        members[1].network.publish(Topic.BLOCKS, b"honest")
        await eventually(lambda: bool(members[0].seen.gossip))
        assert members[0].seen.gossip == [(Topic.BLOCKS, members[1].key, b"honest")]


@pytest.mark.parametrize(
    "wire",
    [encode_varint_prefixed(bytes(RPC_BYTES_MAX + 1))[:10], encode_varint_prefixed(b"\xff" * 20)],
    ids=["oversized", "no protobuf"],
)
async def test_a_malformed_rpc_costs_the_connection(wire: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gossip, "STREAM_END_GRACE_S", 0.1)
    place = town(2)
    async with place.run(0) as (first,), hostile_host(place.seeds[1], place.addresses[0]) as (host, swarm):
        stream = await host.new_stream(peer_id_of(first.key), [GOSSIP_PROTOCOL])
        await stream.write(wire)
        await eventually(lambda: first.network.counters.refused[RejectionReason.MALFORMED] == 1)
        await eventually(lambda: not swarm.connections)


HOSTILE_MESSAGES = {
    "no author": {"from_id": b"", "seqno": bytes(8), "key": b"", "signature": b"s"},
    "an author of one byte": {"from_id": b"\x00", "seqno": bytes(8), "key": b"\xff", "signature": b"s"},
    "a key that is none": {"from_id": bytes(38), "seqno": bytes(8), "key": b"\x08\x01\x12\x20short", "signature": b"s"},
}


@pytest.mark.parametrize("fields", HOSTILE_MESSAGES.values(), ids=HOSTILE_MESSAGES.keys())
async def test_a_hostile_message_does_not_stop_gossip(fields: dict[str, bytes]) -> None:
    place = town(3)
    async with place.run(0, 1) as members, hostile_host(place.seeds[2], place.addresses[0]) as (host, _):
        await eventually(meshed(members))
        stream = await host.new_stream(peer_id_of(members[0].key), [GOSSIP_PROTOCOL])
        message = rpc_pb2.Message(
            data=b"x",
            topicIDs=[Topic.BLOCKS],
            from_id=fields["from_id"],
            seqno=fields["seqno"],
            key=fields["key"],
            signature=fields["signature"],
        )
        await stream.write(encode_varint_prefixed(rpc_pb2.RPC(publish=[message]).SerializeToString()))
        subscription = rpc_pb2.RPC.SubOpts(subscribe=True, topicid=Topic.BLOCKS)
        await stream.write(encode_varint_prefixed(rpc_pb2.RPC(subscriptions=[subscription]).SerializeToString()))
        hostile = peer_id_of(place.addresses[2].network_key)
        await eventually(
            lambda: (
                hostile in members[0].network._pubsub.peer_topics[Topic.BLOCKS]
                or members[0].network.counters.refused[RejectionReason.MALFORMED] > 0
            )
        )
        members[1].network.publish(Topic.BLOCKS, b"honest")
        await eventually(lambda: bool(members[0].seen.gossip))
        assert members[0].seen.gossip == [(Topic.BLOCKS, members[1].key, b"honest")]
