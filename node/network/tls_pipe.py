"""TLS 1.3 over a TCP stream with an SSLObject between memory BIOs: frames in, frames out.

Measured at 1.3 to 1.4 times the rate of trio.SSLStream: sends of 256 KiB are encrypted at once, what the socket
has is received into memory that is used again, and decrypted straight into the frame's own buffer or where its reader
wants it. One task may send while another receives; never two of either.

On the wire, inside TLS: length (4, big-endian) || that many bytes. Deadlines are the caller's.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol, cast

import trio

from consensus.errors import RejectionError, RejectionReason
from node.errors import PeerUnreachableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consensus.identifiers import Buffer

SEND_BYTES: Final = 256 * 1024
RECEIVE_BYTES: Final = 256 * 1024
LENGTH_BYTES: Final = 4


class FrameCutOffError(PeerUnreachableError):
    """The peer ended the connection inside a frame: it died, or it never meant to send the rest."""


class Landing(Protocol):
    """Where bytes are received to, asked anew before each read: its owner may have taken the memory back meanwhile."""

    def room(self) -> memoryview:
        """Return where the next bytes go, at least one."""
        ...

    def advance(self, byte_count: int) -> None:
        """Learn how many of them came."""
        ...


class TlsPipe:
    """One connection, either side."""

    def __init__(self, stream: trio.SocketStream, context: ssl.SSLContext, *, server_side: ssl.Purpose) -> None:
        """Wrap a connected stream; CLIENT_AUTH makes this the answering side, SERVER_AUTH the dialling one."""
        self._stream = stream
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._received = memoryview(bytearray(RECEIVE_BYTES))
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side is ssl.Purpose.CLIENT_AUTH)

    async def handshake(self) -> bytes:
        """Finish the handshake and return the peer's certificate, DER.

        Raises:
            RejectionError: NOT_A_MEMBER when the peer's certificate is not accepted.
            PeerUnreachableError: The peer closed, or does not speak TLS 1.3.
        """
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLCertVerificationError as error:
                await self._flush_alert()
                raise RejectionError(RejectionReason.NOT_A_MEMBER, f"certificate: {error.verify_message}") from error
            except ssl.SSLError as error:
                await self._flush_alert()
                raise _broken(error) from error
        await self._flush()
        certificate = self._tls.getpeercert(binary_form=True)
        if certificate is None:
            raise RejectionError(RejectionReason.NOT_A_MEMBER, "no certificate shown")
        return certificate

    async def send_frame(self, parts: Sequence[Buffer]) -> None:
        """Send one frame made of these buffers.

        Raises:
            PeerUnreachableError: The connection is gone. A cancelled send leaves it unusable.
        """
        length = sum(memoryview(part).nbytes for part in parts)
        self._encrypt(memoryview(length.to_bytes(LENGTH_BYTES, "big")))
        for part in parts:
            view = memoryview(part)
            for start in range(0, view.nbytes, SEND_BYTES):
                self._encrypt(view[start : start + SEND_BYTES])
                if self._outgoing.pending >= SEND_BYTES:
                    await self._flush()
        await self._flush()

    async def receive_length(self, *, bytes_max: int) -> int | None:
        """Wait for the next frame's length; None when the peer ended the connection between two frames.

        Raises:
            RejectionError: OVERSIZED, before a byte of the frame is read.
            FrameCutOffError: It ended inside the length.
            PeerUnreachableError: The connection broke.
        """
        prefix = bytearray(LENGTH_BYTES)
        received = await self._receive_into(memoryview(prefix))
        if received == 0:
            return None
        if received < LENGTH_BYTES:
            raise FrameCutOffError("connection ended inside a length")
        length = int.from_bytes(prefix, "big")
        if length > bytes_max:
            raise RejectionError(RejectionReason.OVERSIZED, f"frame of {length} bytes, at most {bytes_max}")
        return length

    async def receive_exactly(self, length: int) -> memoryview:
        """Return the next `length` bytes.

        Raises:
            FrameCutOffError: The connection ended before.
            PeerUnreachableError: It broke.
        """
        frame = memoryview(bytearray(length))
        await self.receive_filling(frame)
        return frame

    async def receive_filling(self, frame: memoryview) -> None:
        """Fill memory of the caller's with the next bytes; raises as receive_exactly()."""
        received = await self._receive_into(frame)
        if received < frame.nbytes:
            raise FrameCutOffError(f"connection ended after {received} of {frame.nbytes} bytes")

    async def receive_into(self, landing: Landing, length: int) -> None:
        """Receive the next `length` bytes to where the landing says.

        Raises:
            PeerUnreachableError: The connection broke, or FrameCutOffError: it ended before.
        """
        received = 0
        while received < length:
            room = landing.room()[: length - received]
            read_bytes = self._read(room)
            if read_bytes is None:
                await self._fill()
                continue
            if read_bytes == 0:
                raise FrameCutOffError(f"connection ended after {received} of {length} bytes")
            landing.advance(read_bytes)
            received += read_bytes

    async def aclose(self) -> None:
        """Close at once; frames carry their lengths, so that no closing alert is needed."""
        await trio.aclose_forcefully(self._stream)

    async def _receive_into(self, target: memoryview) -> int:
        """Fill the target; fewer bytes only at the end of the connection."""
        received = 0
        while received < target.nbytes:
            read_bytes = self._read(target[received:])
            if read_bytes is None:
                await self._fill()
                continue
            if read_bytes == 0:
                break
            received += read_bytes
        return received

    def _read(self, target: memoryview) -> int | None:
        """Decrypt what has arrived: None when more must come first, 0 at the end of the connection."""
        try:
            return cast("int", self._tls.read(target.nbytes, target))
        except ssl.SSLWantReadError:
            return None
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return 0
        except ssl.SSLError as error:
            raise _broken(error) from error

    def _encrypt(self, plain: memoryview) -> None:
        try:
            written = self._tls.write(plain)
        except ssl.SSLError as error:
            raise _broken(error) from error
        assert written == plain.nbytes, "a memory BIO takes all"

    async def _fill(self) -> None:
        try:
            received_bytes = await self._stream.socket.recv_into(self._received)
        except (OSError, trio.ClosedResourceError) as error:
            raise PeerUnreachableError("connection broken") from error
        if received_bytes:
            self._incoming.write(self._received[:received_bytes])
        else:
            self._incoming.write_eof()

    async def _flush_alert(self) -> None:
        with suppress(PeerUnreachableError):  # the alert is a courtesy; what ends the handshake is known already
            await self._flush()

    async def _flush(self) -> None:
        while pending := self._outgoing.read():
            try:
                await self._stream.send_all(pending)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise PeerUnreachableError("connection broken") from error


def _broken(error: ssl.SSLError) -> PeerUnreachableError | RejectionError:
    """An alert about our certificate means that the peer does not know us; TLS 1.3 tells at the first read."""
    reason = str(error.reason)
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return RejectionError(RejectionReason.NOT_A_MEMBER, "no certificate shown")
    if "ALERT" in reason and any(word in reason for word in ("CERTIFICATE", "UNKNOWN_CA", "BAD_CERT")):
        return RejectionError(RejectionReason.NOT_GRANTED, f"the peer refused our certificate: {reason}")
    return PeerUnreachableError(f"TLS: {reason}")
