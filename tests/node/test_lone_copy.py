"""A node that finds its own key at its own address does not start; nobody else can keep it from starting."""

from __future__ import annotations

import pytest
import trio

from consensus.identifiers import MemberIndex, PublicKey
from consensus.signing import SigningKey
from node.errors import ConfigurationError
from node.lone_copy import check_no_copy_runs
from node.network.certificates import make_certificate
from node.network.shard_channel import ShardServer
from node.network.shard_messages import Message, RequestFrame
from storage.genesis import Seat
from tests.node.network.doubles import LOOPBACK, free_port

OWN = SigningKey(b"\x01" * 32)
OTHER = SigningKey(b"\x02" * 32)
NUMBER = MemberIndex(3)
ANSWER_S = 0.3


class Silent:
    """Answers anything, and is not asked."""

    async def answer(self, peer: PublicKey, request: RequestFrame) -> Message:
        raise AssertionError(f"{peer.hex()} asked {request}")


def seat_at(port: int) -> Seat:
    return Seat(
        operator="Example",
        site="Example site",
        network_key=OWN.public,
        certificate=make_certificate(OWN),
        host=LOOPBACK,
        libp2p_port=1,
        shard_port=port,
        api_port=2,
    )


async def check_beside(server_key: SigningKey) -> None:
    """Check while somebody listens at the address, who accepts the other member and not this one."""
    server = ShardServer(server_key, Silent())
    server.accept_only([make_certificate(OTHER)])
    async with trio.open_nursery() as nursery:
        port = await server.listen(LOOPBACK, 0)
        nursery.start_soon(server.serve)
        try:
            await check_no_copy_runs(NUMBER, seat_at(port), OWN, 10.0)
        finally:
            nursery.cancel_scope.cancel()


async def test_the_own_key_at_the_own_address_is_another_copy() -> None:
    with pytest.RaisesGroup(
        pytest.RaisesExc(
            ConfigurationError, match=r"^another copy of seat 3 is running: 127.0.0.1:\d+ answers with this"
        )
    ):
        await check_beside(OWN)


async def test_another_key_at_the_own_address_is_no_copy() -> None:
    await check_beside(OTHER)


async def test_an_address_where_nobody_listens_is_free() -> None:
    await check_no_copy_runs(NUMBER, seat_at(free_port()), OWN, 10.0)


async def test_somebody_who_says_nothing_keeps_nobody_from_starting() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host=LOOPBACK)
    async with listener:
        with trio.fail_after(10 * ANSWER_S):
            await check_no_copy_runs(NUMBER, seat_at(listener.socket.getsockname()[1]), OWN, ANSWER_S)
