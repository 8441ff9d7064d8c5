"""The way of a small frame through libp2p, shortened: the same bytes on the wire for a fraction of the CPU.

A block of nine members is some two hundred frames of a few hundred bytes. The library passes each through eight locks,
each a turn of the scheduler, formats a dozen lines for a log that is off, asks the kernel twice for every noise
message, and answers every read with a window update.

Rules
- Q1. A plain data frame that has arrived whole, for a stream that is known, goes to its stream at once, within the
  bound of BUFFERED_BYTES_MAX (N11). Every other frame is left to the library.
- Q2. What a stream's end means is the library's to say: a quick stream without bytes that is no longer open asks it.
- Q3. Credit is given back at half a window, not at every read.
- Q4. A stream may pour into a sink: its bytes are taken in the turn of the scheduler that read the socket, without a
  task in between. What the sink raises is raised by the task that pours, where the library cannot swallow it.
- Q5. A frame leaves in the turn of the scheduler that wrote it while nobody else writes and the socket takes it.
"""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from struct import Struct
from typing import TYPE_CHECKING, Final

import trio
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.stream.net_stream import NetStream
from libp2p.security.noise.io import MAX_PLAINTEXT_LENGTH, NoiseTransportReadWriter
from libp2p.security.secure_session import SecureSession
from libp2p.stream_muxer.yamux.yamux import (
    HEADER_SIZE,
    MAX_MESSAGE_SIZE,
    MAX_WINDOW_SIZE,
    TYPE_DATA,
    Yamux,
    YamuxStream,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from libp2p.abc import INetStream, ISecureConn
    from libp2p.peer.id import ID

logger = logging.getLogger(__name__)

RECEIVE_BYTES: Final = 64 * 1024
LENGTH_BYTES: Final = 2
"""Before each noise message."""
HEADER: Final = Struct("!BBHII")
"""Of a yamux frame: version, type, flags, stream, length."""
BUFFERED_BYTES_MAX: Final = 32 * 1024 * 1024
"""Two of yamux's largest receive windows: consensus and one large answer, both unread."""
POUR_BYTES: Final = 64 * 1024
BODY_S: Final = 30.0
"""From a data frame's header to its last byte: at most a window, from a member."""


class QuickSession(SecureSession):
    """A noise session that reads the socket in large pieces."""

    def __init__(self, session: SecureSession, take_frames: Callable[[bytearray], int]) -> None:
        """Continue a session whose handshakes are done.

        Args:
            session: Not used any more.
            take_frames: Takes whole frames off the front of what was decrypted; returns how many bytes.
        """
        super().__init__(
            local_peer=session.local_peer,
            local_private_key=session.local_private_key,
            remote_peer=session.remote_peer,
            remote_permanent_pubkey=session.remote_permanent_pubkey,
            is_initiator=session.is_initiator,
            conn=session.conn,
        )
        assert isinstance(session.conn, NoiseTransportReadWriter), "noise alone secures (N4)"
        self._noise = session.conn.noise_state
        self._stream = _socket_stream(session.conn)
        self._take_frames = take_frames
        self._sealed = bytearray()
        self._unsent = b""
        self._plain = bytearray(session._drain(None))  # noqa: SLF001 (what came with the handshake's last message)

    async def read(self, n: int | None = None) -> bytes:
        """Return the next frame's header after taking whole data frames (Q1); fewer bytes only at the end."""
        assert n == HEADER_SIZE, "yamux reads headers here, bodies through read_body()"
        while True:
            taken = self._take_frames(self._plain)
            if taken:
                del self._plain[:taken]
            if len(self._plain) >= HEADER_SIZE or not await self._receive():
                return self._cut(HEADER_SIZE)

    async def read_body(self, length: int) -> bytes:
        """Return the next bytes; fewer only at the end."""
        while len(self._plain) < length and await self._receive():
            pass
        return self._cut(length)

    async def write(self, frame: bytes, /) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] (a name)
        """Send bytes in as few noise messages and system calls as they fit, after what is unsent."""
        sealed, self._unsent = self._unsent + self._seal(frame), b""
        try:
            await self._stream.send_all(sealed)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError(f"connection is gone: {error}", transport="tcp") from error

    def write_now(self, frame: bytes) -> None:
        """Send what the socket takes at once; the rest is unsent and leaves before the next write."""
        assert not self._unsent, "the next write sends what is unsent"
        sealed = self._seal(frame)
        try:
            sent = os.write(self._stream.socket.fileno(), sealed)
        except OSError:  # full, or gone: the next write waits, or says so
            sent = 0
        self._unsent = sealed[sent:]

    @property
    def has_unsent(self) -> bool:
        """Say whether the socket did not take all of the last write_now()."""
        return bool(self._unsent)

    def _seal(self, frame: bytes) -> bytes:
        parts: list[bytes] = []
        for start in range(0, len(frame), MAX_PLAINTEXT_LENGTH):
            message = self._noise.encrypt(frame[start : start + MAX_PLAINTEXT_LENGTH])
            parts += (len(message).to_bytes(LENGTH_BYTES, "big"), message)
        return b"".join(parts)

    def _cut(self, length: int) -> bytes:
        piece = bytes(memoryview(self._plain)[:length])
        del self._plain[:length]
        return piece

    async def _receive(self) -> bool:
        """Wait for the socket and decrypt what it has; False at its end."""
        descriptor = self._stream.socket.fileno()
        if descriptor < 0:
            return False
        try:
            await trio.lowlevel.wait_readable(descriptor)
            received = os.read(descriptor, RECEIVE_BYTES)
        except BlockingIOError:
            return True
        except trio.ClosedResourceError:
            return False
        except OSError as error:
            raise ConnectionClosedError(f"connection is gone: {error}", transport="tcp") from error
        self._sealed += received
        position = 0
        while len(self._sealed) >= position + LENGTH_BYTES:
            start = position + LENGTH_BYTES
            end = start + int.from_bytes(self._sealed[position:start], "big")
            if len(self._sealed) < end:
                break
            self._plain += self._noise.decrypt(bytes(memoryview(self._sealed)[start:end]))
            position = end
        del self._sealed[:position]
        return bool(received)


class QuickYamux(Yamux):
    """A multiplexer that delivers plain data frames at once, and closes a connection that ignores its window (N11)."""

    def __init__(
        self, secured_conn: ISecureConn, peer_id: ID, *, is_initiator: bool, on_close: Callable[[], Awaitable[None]]
    ) -> None:
        assert isinstance(secured_conn, SecureSession), "noise alone secures (N4)"
        self._session = QuickSession(secured_conn, self._take_frames)
        self._sinks: dict[int, Callable[[bytes], None]] = {}
        super().__init__(self._session, peer_id, is_initiator=is_initiator, on_close=on_close)

    def _take_frames(self, plain: bytearray) -> int:
        position = 0
        while len(plain) >= position + HEADER_SIZE:
            wire_version, kind, flags, stream_id, length = HEADER.unpack_from(plain, position)
            end = position + HEADER_SIZE + length
            is_plain = wire_version == 0 and kind == TYPE_DATA and flags == 0 and stream_id in self.streams
            if not is_plain or len(plain) < end or self._is_above_bound(length):
                break
            stream = self.streams[stream_id]
            stream.recv_window = max(0, stream.recv_window - length)
            self._deliver(stream_id, bytes(memoryview(plain)[position + HEADER_SIZE : end]))
            position = end
        return position

    def _deliver(self, stream_id: int, piece: bytes) -> None:
        sink = self._sinks.get(stream_id)
        if sink is not None and not self.stream_buffers[stream_id]:
            sink(piece)
            return
        self.stream_buffers[stream_id] += piece
        self.stream_events[stream_id].set()

    @contextmanager
    def pouring(self, stream_id: int, sink: Callable[[bytes], None]) -> Generator[None]:
        """Let a stream's bytes go to a sink that never raises, unless others wait in the buffer before them."""
        assert stream_id not in self._sinks, "one task pours a stream"
        self._sinks[stream_id] = sink
        try:
            yield
        finally:
            del self._sinks[stream_id]

    async def send_frame(self, frame: bytes) -> None:
        """Send a frame of one of the streams; no bytes: what is unsent alone."""
        await self._write_frame(frame)

    def send_now(self, frame: bytes) -> None:
        """Send a frame of one of the streams while is_free."""
        self._session.write_now(frame)

    @property
    def is_free(self) -> bool:
        """Say whether nobody is writing and everything that was written has left."""
        return not (self._write_lock.locked() or self.has_unsent or self.event_shutting_down.is_set())

    @property
    def has_unsent(self) -> bool:
        """Say whether the socket did not take all that was written."""
        return self._session.has_unsent

    def _is_above_bound(self, length: int) -> bool:
        return sum(map(len, self.stream_buffers.values())) + length > BUFFERED_BYTES_MAX

    async def _read_data_body(self, length: int) -> bytes:
        """Read the body of one data frame; the caller's deadline covers it."""
        if self._is_above_bound(length):
            logger.warning("%s ignores the receive window: %d bytes more", self.peer_id, length)
            # The one error after which the library closes the connection wherever it reads a body.
            raise trio.TooSlowError
        with trio.fail_after(BODY_S):
            return await self._session.read_body(length)

    async def _write_frame(self, frame: bytes, /) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] (a name)
        """Write one frame; a free lock costs no turn of the scheduler."""
        try:
            self._write_lock.acquire_nowait()
        except trio.WouldBlock:
            await self._write_lock.acquire()
        try:
            await self._session.write(frame)
        finally:
            self._write_lock.release()


class QuickStream:
    """A stream's bytes straight from its buffer; a frames.ByteStream."""

    def __init__(self, stream: INetStream) -> None:
        """Read and write a stream of a QuickYamux; another stream is used as it is."""
        self._stream = stream
        muxed = stream.muxed_stream if isinstance(stream, NetStream) else None
        self._muxed: YamuxStream | None = None
        if isinstance(muxed, YamuxStream) and isinstance(muxed.conn, QuickYamux):
            self._muxed, self._yamux = muxed, muxed.conn
        self._owed_bytes = 0

    async def read(self, n: int | None = None) -> bytes:
        """Return 1 to n bytes, or raise what the library raises at the end (Q2)."""
        muxed = self._muxed
        assert n is not None, "reads are bounded"
        while muxed is not None and _is_open(muxed):
            buffer = muxed.conn.stream_buffers[muxed.stream_id]
            if buffer:
                piece = bytes(memoryview(buffer)[:n])
                del buffer[: len(piece)]
                self._owed_bytes += len(piece)
                await self._release(muxed)
                return piece
            await _wait_for_news(muxed)
        return await self._stream.read(n)

    async def pour(self, sink: Callable[[bytes], None]) -> None:
        """Give every byte to a sink as it arrives (Q4); raises what the sink raises, or the library at the end (Q2)."""
        muxed = self._muxed
        if muxed is not None:
            await self._pour_quickly(muxed, sink)
        while True:
            sink(await self._stream.read(POUR_BYTES))

    async def _pour_quickly(self, muxed: YamuxStream, sink: Callable[[bytes], None]) -> None:
        failures: list[BaseException] = []
        events = muxed.conn.stream_events

        def take(piece: bytes) -> None:
            self._owed_bytes += len(piece)
            try:
                if not failures:
                    sink(piece)
            except BaseException as error:  # noqa: BLE001 (raised again below, by the task that pours)
                failures.append(error)
            if (failures or self._owes_credit(muxed)) and muxed.stream_id in events:
                events[muxed.stream_id].set()

        with self._yamux.pouring(muxed.stream_id, take):
            while _is_open(muxed):
                buffer = muxed.conn.stream_buffers[muxed.stream_id]
                if buffer:
                    piece = bytes(buffer)
                    buffer.clear()
                    take(piece)
                if failures:
                    raise failures[0]
                await self._release(muxed)
                if not buffer:
                    await _wait_for_news(muxed)

    async def write(self, payload: bytes, /) -> None:
        """Send all of it after what is unsent; what does not fit the peer's window goes the library's way."""
        muxed = self._muxed
        if muxed is not None and not payload:
            await self._yamux.send_frame(payload)
            return
        if (
            muxed is None
            or muxed.send_closed
            or muxed.closed
            or not 0 < len(payload) <= min(muxed.send_window, MAX_MESSAGE_SIZE - HEADER_SIZE)
        ):
            await self._stream.write(payload)
            return
        muxed.send_window -= len(payload)
        await self._yamux.send_frame(HEADER.pack(0, TYPE_DATA, 0, muxed.stream_id, len(payload)) + payload)

    @property
    def has_unsent(self) -> bool:
        """Say whether the connection's socket did not take all that was written."""
        return self._muxed is not None and self._yamux.has_unsent

    def room(self) -> int:
        """Return how many bytes write_now() takes at this moment."""
        muxed = self._muxed
        if muxed is None or muxed.send_closed or muxed.closed or not self._yamux.is_free:
            return 0
        return min(muxed.send_window, MAX_MESSAGE_SIZE - HEADER_SIZE)

    def write_now(self, payload: bytes) -> None:
        """Send 1 to room() bytes without waiting; the next write() sends what the socket did not take (Q5)."""
        muxed = self._muxed
        assert muxed is not None, "the library's own streams have no room"
        muxed.send_window -= len(payload)
        self._yamux.send_now(HEADER.pack(0, TYPE_DATA, 0, muxed.stream_id, len(payload)) + payload)

    def _owes_credit(self, muxed: YamuxStream) -> bool:
        return self._owed_bytes >= muxed.target_recv_window // 2

    async def _release(self, muxed: YamuxStream) -> None:
        """Give credit back once it is worth a frame (Q3), and let the window grow as the library would."""
        if not self._owes_credit(muxed):
            return
        grown = min(muxed.target_recv_window, MAX_WINDOW_SIZE - muxed.target_recv_window)
        credit, self._owed_bytes = self._owed_bytes + grown, 0
        muxed.target_recv_window += grown
        muxed.recv_window += credit
        await muxed.send_window_update(credit)


def _is_open(muxed: YamuxStream) -> bool:
    is_ending = muxed.recv_closed or muxed.closed or muxed.conn.event_shutting_down.is_set()
    is_known = muxed.stream_id in muxed.conn.stream_buffers and muxed.stream_id in muxed.conn.stream_events
    return is_known and not is_ending


async def _wait_for_news(muxed: YamuxStream) -> None:
    event = muxed.conn.stream_events[muxed.stream_id]
    await event.wait()
    if muxed.conn.stream_events.get(muxed.stream_id) is event:
        muxed.conn.stream_events[muxed.stream_id] = trio.Event()


def _socket_stream(conn: NoiseTransportReadWriter) -> trio.SocketStream:
    raw = conn.read_writer.read_write_closer
    assert isinstance(raw, RawConnection), "noise runs on raw connections"
    assert isinstance(raw.stream, TrioTCPStream), "raw connections run on TCP"
    return raw.stream.stream
