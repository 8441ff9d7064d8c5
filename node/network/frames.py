"""Frames on a stream: length, then bytes; bounded, timed and refused by reason.

Layout: 4 bytes big-endian length n, then n bytes. n = 0 is a keepalive and never reaches the shell.

Rules
- N5. A length above the stream's limit is refused before a byte of the frame is read (OVERSIZED). Memory follows the
  bytes that arrived, never the length that was announced. A stream that ends inside a frame is refused (MALFORMED);
  between two frames it is an orderly end.
- N6. One deadline covers a frame from the wait for its length to its last byte, so dribbling buys no time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import trio
from libp2p.exceptions import BaseLibp2pError
from libp2p.network.stream.exceptions import StreamEOF, StreamError

from consensus.errors import RejectionError, RejectionReason
from node.errors import PeerUnreachableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LENGTH_BYTES: Final = 4
READ_BYTES: Final = 256 * 1024
"""One read takes at most yamux's default window."""


class ByteStream(Protocol):
    """What is needed of a libp2p stream."""

    async def read(self, n: int | None = None) -> bytes:
        """Return 1 to n bytes."""
        ...

    async def write(self, sent: bytes, /) -> None:
        """Send all of it."""


def encode_frame(payload: bytes) -> bytes:
    """Return a frame around a payload of at most 2**32 - 1 bytes."""
    return len(payload).to_bytes(LENGTH_BYTES, "big") + payload


async def write_frames(stream: ByteStream, payloads: Sequence[bytes], *, deadline_s: float) -> None:
    """Send frames in one write.

    Raises:
        PeerUnreachableError: The stream is gone, or the peer did not take the bytes in time.
    """
    try:
        with trio.fail_after(deadline_s):
            await stream.write(b"".join(encode_frame(payload) for payload in payloads))
    except (BaseLibp2pError, trio.TooSlowError, OSError) as error:
        raise PeerUnreachableError(f"write failed: {error or type(error).__name__}") from error


class FrameParser:
    """Cuts frames out of bytes that come in whatever pieces."""

    __slots__ = ("_buffer", "_bytes_max")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._buffer = bytearray()

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Give the frames that a piece completes, in order; to be run to its end.

        Raises:
            RejectionError: OVERSIZED, once the frames before the length were given.
        """
        self._buffer += piece
        position = 0
        try:
            while len(self._buffer) >= position + LENGTH_BYTES:
                start = position + LENGTH_BYTES
                end = start + _frame_bytes(self._buffer[position:start], self._bytes_max)
                if len(self._buffer) < end:
                    break
                position = end
                yield bytes(memoryview(self._buffer)[start:end])
        finally:
            del self._buffer[:position]

    def end(self) -> None:
        """Say that no more bytes come; raises RejectionError(MALFORMED) inside a frame."""
        if self._buffer:
            raise RejectionError(RejectionReason.MALFORMED, "the stream ended inside a frame")


class FrameReader:
    """Reads one stream frame by frame."""

    __slots__ = ("_buffer", "_bytes_max", "_stream")

    def __init__(self, stream: ByteStream, bytes_max: int) -> None:
        self._stream = stream
        self._bytes_max = bytes_max
        self._buffer = bytearray()

    async def next_frame(self, *, deadline_s: float) -> bytes | None:
        """Return the next frame, None when the peer ended the stream between two.

        Raises:
            RejectionError: OVERSIZED or MALFORMED.
            PeerUnreachableError: The stream broke.
            trio.TooSlowError: No whole frame came in time.
        """
        with trio.fail_after(deadline_s):
            if not await self._fill(LENGTH_BYTES):
                return None
            frame_bytes = _frame_bytes(self._buffer[:LENGTH_BYTES], self._bytes_max)
            await self._fill(LENGTH_BYTES + frame_bytes)
        frame = bytes(memoryview(self._buffer)[LENGTH_BYTES : LENGTH_BYTES + frame_bytes])
        del self._buffer[: LENGTH_BYTES + frame_bytes]
        return frame

    async def _fill(self, wanted_bytes: int) -> bool:
        """Read until the buffer has what is wanted; False if the stream ended with nothing in it."""
        while len(self._buffer) < wanted_bytes:
            piece = await self._read()
            if not piece:
                if not self._buffer:
                    return False
                raise RejectionError(RejectionReason.MALFORMED, "the stream ended inside a frame")
            self._buffer += piece
        return True

    async def _read(self) -> bytes:
        try:
            return await self._stream.read(READ_BYTES)
        except StreamEOF:
            return b""
        except (StreamError, BaseLibp2pError, OSError) as error:
            raise read_failure(error) from error


def read_failure(error: Exception) -> PeerUnreachableError:
    """Return what a broken stream means to whoever reads it."""
    return PeerUnreachableError(f"read failed: {error or type(error).__name__}")


def _frame_bytes(length: bytearray, bytes_max: int) -> int:
    """Return what a length announces, or refuse it (N5)."""
    frame_bytes = int.from_bytes(length, "big")
    if frame_bytes > bytes_max:
        raise RejectionError(RejectionReason.OVERSIZED, f"frame of {frame_bytes} bytes, at most {bytes_max}")
    return frame_bytes
