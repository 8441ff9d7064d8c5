"""Request and response: one new stream each, for blocks, headers and pieces of snapshots.

Protocol `/grandest/catch-up/1`. Request: one frame of at most 64 KiB. Response: one frame of at most 8 MiB, of which
the first byte is 0 (the rest answers) or 1 (the rest is `reason: detail` in UTF-8).

Rules
- N10. A peer has at most `requests_max` requests served at once; one more is answered QUEUE_FULL. A request that the
  shell refuses is answered with the reason, then its connection is closed, except for QUEUE_FULL and TOO_LATE, which
  blame nobody.
- N6. Every part has a deadline; a response that breaks a limit closes the connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio
from libp2p.custom_types import TProtocol

from consensus.errors import RejectionError, RejectionReason
from consensus.messages import REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX
from node.errors import PeerUnreachableError
from node.network.frames import FrameReader, write_frames
from node.network.swarm import open_stream, reset_stream

if TYPE_CHECKING:
    from collections import Counter

    from libp2p.abc import INetStream

    from consensus.identifiers import PublicKey
    from node.network.streams import LinkContext
    from node.network.swarm import MembersHost

CATCH_UP_PROTOCOL: Final = TProtocol("/grandest/catch-up/1")
ANSWERED: Final = b"\x00"
REFUSED: Final = b"\x01"
REQUEST_READ_S: Final = 5.0
RESPONSE_WRITE_S: Final = 30.0
"""8 MiB at 2.5 Mbit/s."""
REFUSAL_BYTES_MAX: Final = 512
BLAMELESS: Final = frozenset({RejectionReason.QUEUE_FULL, RejectionReason.TOO_LATE})


async def request(host: MembersHost, peer: PublicKey, payload: bytes, *, deadline_s: float) -> bytes:
    """Ask one connected peer and return its answer.

    Raises:
        PeerUnreachableError: No answer in time.
        RejectionError: The peer refused, with its reason; or MALFORMED and OVERSIZED for what it sent.
    """
    assert len(payload) <= REQUEST_BYTES_MAX, f"a request of {len(payload)} bytes, at most {REQUEST_BYTES_MAX}"
    started_at = trio.current_time()
    stream = await open_stream(host, peer, CATCH_UP_PROTOCOL, deadline_s)
    try:
        await write_frames(stream, [payload], deadline_s=deadline_s)
        left_s = max(0.0, started_at + deadline_s - trio.current_time())
        response = await FrameReader(stream, RESPONSE_BYTES_MAX + len(ANSWERED)).next_frame(deadline_s=left_s)
    except trio.TooSlowError as error:
        raise PeerUnreachableError(f"no answer within {deadline_s} s") from error
    finally:
        await reset_stream(stream)
    if response is None:
        raise PeerUnreachableError("the peer hung up without an answer")
    return _read_response(response)


async def serve_request(peer: PublicKey, stream: INetStream, context: LinkContext, served: Counter[PublicKey]) -> None:
    """Answer one request of a peer (N10)."""
    served[peer] += 1
    try:
        await _answer(peer, stream, context, served[peer])
    except (PeerUnreachableError, trio.TooSlowError):
        pass
    except RejectionError as error:
        await _explain(stream, error)
        if error.reason not in BLAMELESS:
            context.refuse(peer, error)
    finally:
        served[peer] -= 1
        await reset_stream(stream)


async def _answer(peer: PublicKey, stream: INetStream, context: LinkContext, at_once: int) -> None:
    if at_once > context.settings.requests_max:
        raise RejectionError(RejectionReason.QUEUE_FULL, f"{at_once} requests at once")
    payload = await FrameReader(stream, REQUEST_BYTES_MAX).next_frame(deadline_s=REQUEST_READ_S)
    if payload is None:
        return
    response = await context.handlers.on_request(peer, payload)
    assert len(response) <= RESPONSE_BYTES_MAX, f"a response of {len(response)} bytes, at most {RESPONSE_BYTES_MAX}"
    await write_frames(stream, [ANSWERED + response], deadline_s=RESPONSE_WRITE_S)
    context.counters.requests_served += 1
    await _wait_for_end(stream)


async def _explain(stream: INetStream, error: RejectionError) -> None:
    try:
        await write_frames(stream, [REFUSED + str(error).encode()[:REFUSAL_BYTES_MAX]], deadline_s=1)
        await _wait_for_end(stream)
    except PeerUnreachableError:
        return


async def _wait_for_end(stream: INetStream) -> None:
    """Let the peer read before the reset: it ends the stream when it has the response."""
    try:
        await FrameReader(stream, 0).next_frame(deadline_s=RESPONSE_WRITE_S)
    except (PeerUnreachableError, RejectionError, trio.TooSlowError):
        return


def _read_response(response: bytes) -> bytes:
    mark, body = response[:1], response[1:]
    if mark == ANSWERED:
        return body
    if mark != REFUSED or len(body) > REFUSAL_BYTES_MAX:
        raise RejectionError(RejectionReason.MALFORMED, "a response starts with 0 or 1")
    reason, _, detail = body.decode(errors="replace").partition(": ")
    try:
        raise RejectionError(RejectionReason(reason), detail)
    except ValueError as error:
        raise RejectionError(RejectionReason.MALFORMED, "the peer refused for an unknown reason") from error
