"""Requests are answered, refused by reason, or given up at their deadline."""

from __future__ import annotations

import pytest
import trio

from consensus.errors import RejectionError, RejectionReason
from consensus.messages import REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX
from node.errors import PeerUnreachableError
from node.network.catch_up import CATCH_UP_PROTOCOL
from node.network.frames import FrameReader, encode_frame
from node.network.peers import peer_id_of
from tests.node.network.doubles import eventually, hostile_host, town


async def test_a_request_is_answered() -> None:
    async with town(2).run(0, 1) as (first, second):
        request = bytes(range(256)) * (REQUEST_BYTES_MAX // 256)
        assert await first.network.request(second.key, request, deadline_s=5) == request[::-1]
        assert await first.network.request(second.key, b"", deadline_s=5) == b""


async def test_an_answer_of_the_largest_size_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = bytes(RESPONSE_BYTES_MAX)

    async def answer_at_length(_peer: bytes, _payload: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        return answer

    async with town(2).run(0, 1) as (first, second):
        monkeypatch.setattr(type(second.seen), "on_request", staticmethod(answer_at_length))
        assert await first.network.request(second.key, b"x", deadline_s=10) == answer


async def test_a_refused_request_tells_its_reason_and_costs_the_connection() -> None:
    async with town(2).run(0, 1) as (first, second):
        second.seen.rejection = RejectionError(RejectionReason.WRONG_CHAIN, "another genesis")
        with pytest.raises(RejectionError, match=r"^wrong_chain: another genesis$"):
            await first.network.request(second.key, b"x", deadline_s=5)
        await eventually(lambda: second.network.counters.refused == {RejectionReason.WRONG_CHAIN: 1})
        await eventually(lambda: ("down", second.key) in first.seen.links)


async def test_a_late_request_blames_nobody() -> None:
    async with town(2).run(0, 1) as (first, second):
        second.seen.rejection = RejectionError(RejectionReason.TOO_LATE, "pruned")
        with pytest.raises(RejectionError, match=r"^too_late: pruned$"):
            await first.network.request(second.key, b"x", deadline_s=5)
        second.seen.rejection = None
        assert await first.network.request(second.key, b"ab", deadline_s=5) == b"ba"
        assert first.seen.links == [("up", second.key)]


async def test_one_request_too_many_at_once_is_refused() -> None:
    async with town(2).run(0, 1) as (first, second):
        second.seen.answer_gate = trio.Event()
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(lambda: first.network.request(second.key, b"x", deadline_s=5))
            await eventually(lambda: second.network._served[first.key] == 4)
            with pytest.raises(RejectionError, match=r"^queue_full: 5 requests at once$"):
                await first.network.request(second.key, b"x", deadline_s=5)
            second.seen.answer_gate.set()
        assert await first.network.request(second.key, b"ab", deadline_s=5) == b"ba"


async def test_an_answer_that_does_not_come_is_an_unreachable_peer() -> None:
    async with town(2).run(0, 1) as (first, second):
        second.seen.answer_gate = trio.Event()
        with pytest.raises(PeerUnreachableError, match=r"^no answer within 0\.2 s$"):
            await first.network.request(second.key, b"x", deadline_s=0.2)
        second.seen.answer_gate.set()


async def test_an_absent_peer_is_unreachable() -> None:
    place = town(2)
    async with place.run(0) as (first,):
        with pytest.raises(PeerUnreachableError):
            await first.network.request(place.addresses[1].network_key, b"x", deadline_s=1)


async def test_an_oversized_request_costs_the_connection() -> None:
    place = town(2)
    async with place.run(0) as (first,), hostile_host(place.seeds[1], place.addresses[0]) as (host, swarm):
        stream = await host.new_stream(peer_id_of(first.key), [CATCH_UP_PROTOCOL])
        await stream.write((REQUEST_BYTES_MAX + 1).to_bytes(4, "big"))
        answer = await FrameReader(stream, 1000).next_frame(deadline_s=5)
        assert answer == b"\x01oversized: frame of 65537 bytes, at most 65536"
        await stream.reset()
        await eventually(lambda: not swarm.connections)


@pytest.mark.parametrize("response", [b"", b"\x02", b"\x01no such reason: x", b"\x01" + bytes(600)])
async def test_an_answer_outside_the_format_costs_the_connection(response: bytes) -> None:
    place = town(2)
    async with place.run(0) as (first,), hostile_host(place.seeds[1], place.addresses[0]) as (host, swarm):

        async def answer(stream: object) -> None:
            from libp2p.network.stream.net_stream import NetStream  # noqa: PLC0415

            assert isinstance(stream, NetStream)
            await stream.write(encode_frame(response))
            await trio.sleep_forever()

        host.set_stream_handler(CATCH_UP_PROTOCOL, answer)
        with pytest.raises(RejectionError, match="malformed"):
            await first.network.request(place.addresses[1].network_key, b"x", deadline_s=5)
        await eventually(lambda: not swarm.connections)
