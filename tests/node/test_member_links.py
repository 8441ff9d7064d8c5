"""Seats on one side, network keys on the other: what is sent to a seat arrives there, as from the sender's seat."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import Height, MemberIndex, Round
from consensus.messages import (
    HeightRequest,
    HeightResponse,
    StatusMessage,
    TransactionItem,
    TransactionsMessage,
    decode_message,
    decode_response,
    encode_message,
    encode_request,
)
from node.errors import PeerUnreachableError
from node.member_links import MemberLinks, ShellHandlers
from node.network.host import open_network
from node.network.peers import Topic
from storage.genesis import Seat, StorageGenesis, StorageParameters
from tests.node.network.doubles import Recorder, Town, eventually, town
from tests.node.one_member import OneMember, open_member
from tests.node.small_chain import grant, small_chain, small_genesis

ZERO, ONE = MemberIndex(0), MemberIndex(1)
GENESIS = small_genesis()
STATUS = encode_message(StatusMessage(height=Height(9), round=Round(0)))


def genesis_of(place: Town) -> StorageGenesis:
    return StorageGenesis(
        seats=tuple(
            Seat(
                operator="operator",
                site="site",
                network_key=address.network_key,
                certificate=b"certificate",
                host=address.host,
                libp2p_port=address.port,
                shard_port=1,
                api_port=1,
            )
            for address in place.addresses
        ),
        tenants=(),
        parameters=StorageParameters(),
    )


@pytest.fixture
def member(tmp_path: Path) -> Iterator[OneMember]:
    with open_member(tmp_path / "member", small_chain(GENESIS, 1)) as opened:
        yield opened


def handlers(member: OneMember, links: MemberLinks) -> ShellHandlers:
    return ShellHandlers(
        links=links,
        consensus=member.consensus,
        admission=member.admission,
        server=member.server,
        on_link=member.consensus.wake,
    )


def links_of(genesis: StorageGenesis, own: MemberIndex) -> MemberLinks:
    """Return the links of a seat to all others of a genesis."""
    keys = {MemberIndex(number): seat.network_key for number, seat in enumerate(genesis.seats)}
    return MemberLinks({member: network_key for member, network_key in keys.items() if member != own})


async def test_before_the_network_is_open_everything_is_as_on_a_closed_link() -> None:
    links = links_of(genesis_of(town(2)), ZERO)
    links.send(ONE, STATUS)
    links.broadcast(STATUS)
    links.publish_transactions(STATUS)
    links.publish_block(STATUS)
    links.refuse(ONE, RejectionError(RejectionReason.MALFORMED, "lie"))
    assert links.connected() == []
    with pytest.raises(PeerUnreachableError, match="the network is not open"):
        await links.request(ONE, b"question", 1.0)


async def test_seats_reach_each_other_by_number(member: OneMember) -> None:
    place = town(2)
    genesis = genesis_of(place)
    links, other = links_of(genesis, ZERO), links_of(genesis, ONE)
    seen = Recorder()
    async with (
        open_network(place.settings(0), handlers(member, links)) as network,
        open_network(place.settings(1), seen) as network_of_other,
    ):
        links.attach(network)
        other.attach(network_of_other)
        await eventually(lambda: links.connected() == [ONE] and other.connected() == [ZERO])
        links.send(ZERO, b"to myself")
        links.send(ONE, STATUS)
        await eventually(lambda: (place.seeds[0].public_key(), STATUS) in seen.frames)
        assert b"to myself" not in [frame for _, frame in seen.frames]
        assert other.member_of(seen.frames[0][0]) == ZERO
        other.send(ZERO, STATUS)
        await eventually(lambda: member.consensus.peers.height_of(ONE) == 9)
        answer = decode_response(await other.request(ZERO, encode_request(HeightRequest(nonce=b"n" * 32)), 5.0))
        assert isinstance(answer, HeightResponse)
        assert (answer.height, answer.member) == (1, 0)
        other.refuse(ZERO, RejectionError(RejectionReason.MALFORMED, "lie"))
        await eventually(lambda: ("down", place.seeds[0].public_key()) in seen.links)


async def test_gossip_carries_transactions_and_nothing_else_under_their_name(member: OneMember) -> None:
    links = links_of(genesis_of(town(2)), ZERO)
    shell = handlers(member, links)
    peer = genesis_of(town(2)).seats[1].network_key
    item = TransactionItem(transaction=grant(GENESIS, 77), records=())
    await shell.on_gossip(Topic.TRANSACTIONS, peer, encode_message(TransactionsMessage(items=(item,))))
    assert [pending.sequence for pending in member.mempool.waiting()] == [77]
    with pytest.raises(RejectionError, match="malformed: not transactions"):
        await shell.on_gossip(Topic.TRANSACTIONS, peer, STATUS)
    with pytest.raises(RejectionError):
        shell.on_frame(peer, b"\xc1")
    with pytest.raises(RejectionError):
        await shell.on_request(peer, b"\xc1")


async def test_a_new_link_hears_where_this_member_stands(member: OneMember) -> None:
    links = links_of(genesis_of(town(2)), ZERO)
    shell = handlers(member, links)
    peer = genesis_of(town(2)).seats[1].network_key
    async with trio.open_nursery() as nursery:
        nursery.start_soon(member.consensus.run)
        await eventually(lambda: member.consensus.height == 2)
        shell.on_link_up(peer)
        shell.on_link_down(peer)
        nursery.cancel_scope.cancel()
    statuses = [decode_message(frame) for to, frame in member.sent.frames if to == ONE]
    assert StatusMessage(height=Height(2), round=Round(0)) in statuses
