"""What hostile peers send: every kind of frame that a rule refuses, and the reason that the node must give."""

from __future__ import annotations

import random
import ssl

import trio

from consensus.errors import RejectionError
from consensus.signing import SigningKey
from node.errors import PeerUnreachableError
from node.network import shard_messages
from node.network.certificates import client_context
from node.network.frames import encode_frame
from node.network.peers import FRAME_BYTES_MAX
from node.network.shard_messages import AskHeld, Message, Stored
from node.network.tls_pipe import TlsPipe
from storage.genesis import Seat
from storage.identifiers import SegmentId

CLOSED_SECONDS_MAX = 10.0
LENGTH_BYTES = 4


def bad_frames(choice: random.Random, valid: bytes, forged: bytes, bytes_max: int) -> list[tuple[bytes, str]]:
    """Return one libp2p stream's bytes of every kind that a rule refuses, and the reason.

    The first is as long as the protocol allows, so that a node which keeps what it refuses is seen to grow.
    """
    assert valid[0] == 0x91, "an array of one"
    return [
        (encode_frame(b"\xc1" + choice.randbytes(bytes_max - 1)), "malformed"),
        ((FRAME_BYTES_MAX + 1).to_bytes(4, "big") + bytes(1_000), "oversized"),
        (encode_frame(valid)[:-1], "malformed"),
        (encode_frame(b"\xdc\x00\x01" + valid[1:]), "not_canonical"),
        (encode_frame(valid + b"\x00"), "malformed"),
        (encode_frame(forged), "bad_signature"),
    ]


def _shard_frame(header: bytes, bulk: bytes = b"") -> bytes:
    return encode_frame(bytes(4) + len(header).to_bytes(4, "big") + header + bulk)


def _header_of(message: Message) -> bytes:
    return b"".join(bytes(part) for part in shard_messages.encode_frame(0, message))[shard_messages.PREFIX_BYTES :]


def bad_shard_frames(choice: random.Random) -> list[tuple[bytes, str]]:
    """Return one shard connection's bytes, inside TLS, of every kind that a rule refuses, and the reason.

    The first is as long as any, so that a node which keeps what it refuses is seen to grow.
    """
    header = _header_of(Message(AskHeld(segment_ids=(SegmentId(choice.randbytes(32)),))))
    assert header[0] == 0x92, "an array of two"
    longest = shard_messages.FRAME_BYTES_MAX
    return [
        (_shard_frame(b"\xc1" + header, bulk=choice.randbytes(shard_messages.BULK_BYTES_MAX)), "malformed"),
        ((longest + 1).to_bytes(4, "big") + bytes(1_000), "oversized"),
        (_shard_frame(bytes(shard_messages.HEADER_BYTES_MAX + 1)), "oversized"),
        (_shard_frame(header)[:-1], "malformed"),
        (longest.to_bytes(4, "big") + choice.randbytes(200_000), "malformed"),
        (_shard_frame(b"\xdc\x00\x02" + header[1:]), "not_canonical"),
        (_shard_frame(header + b"\x00"), "malformed"),
        (_shard_frame(header, bulk=choice.randbytes(1_000)), "malformed"),
        (_shard_frame(_header_of(Message(Stored()))), "malformed"),
    ]


async def refused_on_the_shard_channel(seat: Seat, identity: SigningKey, wire: bytes) -> None:
    """Send bytes inside TLS; return once the node has closed the connection without a word."""
    with trio.fail_after(CLOSED_SECONDS_MAX):
        stream = await trio.open_tcp_stream(seat.host, seat.shard_port)
        pipe = TlsPipe(stream, client_context(identity, seat.certificate), server_side=ssl.Purpose.SERVER_AUTH)
        try:
            await pipe.handshake()
            pipe._encrypt(memoryview(wire))
            await pipe._flush()
            if len(wire) - LENGTH_BYTES < int.from_bytes(wire[:LENGTH_BYTES], "big"):
                await stream.send_eof()  # what was announced never comes
            assert await pipe.receive_length(bytes_max=shard_messages.FRAME_BYTES_MAX) is None
        except (PeerUnreachableError, RejectionError, trio.BrokenResourceError):
            pass  # it has closed while we were still sending, or has said that it does not know our certificate
        finally:
            await pipe.aclose()
