"""The long-lived streams of consensus: one outbound per peer, kept up for ever, and one inbound read at a time.

Protocol `/grandest/consensus/1`; frames as in frames.py, from the opener to the acceptor only.

Rules
- N7. Sending never waits: a frame goes to the peer's bounded queue; when it does not fit, the oldest leave it, counted.
  What was queued in one turn of the scheduler leaves in the next, in one write a peer (Sender); what the peer does not
  take at once is the link's own task's to write.
- N8. An idle stream carries a keepalive; a peer silent for SILENT_KEEPALIVES of them loses its connection. A link that
  fails is dialled again for ever, at once when the peer dials us, else after a jittered pause. Of a pair the lower
  network key dials first: two dials that cross would make two connections for good. A peer has one inbound stream; a
  newer one replaces it.
- N2. A refused frame costs the connection; the next dial waits as after a failure.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.network.stream.exceptions import StreamEOF

from consensus.errors import RejectionError
from node.errors import PeerUnreachableError
from node.network.frames import LENGTH_BYTES, FrameParser, FrameReader, encode_frame, read_failure, write_frames
from node.network.peers import Drop
from node.network.quick_yamux import QuickStream
from node.network.swarm import open_stream, reset_stream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from libp2p.abc import INetStream

    from consensus.identifiers import PublicKey
    from node.network.peers import NetworkCounters, NetworkHandlers, NetworkSettings
    from node.network.swarm import MembersHost

CONSENSUS_PROTOCOL: Final = TProtocol("/grandest/consensus/1")
SILENT_KEEPALIVES: Final = 3
WRITE_BYTES_MAX: Final = 256 * 1024
"""Small frames that wait together leave in one write of about this size."""
LINK_STEADY_S: Final = 2.0
"""A link that lived this long starts its pauses from the shortest again."""

YIELD_S: Final = 0.5
"""How long the higher key of a pair waits for the lower one's dial."""


class OutboundQueue:
    """Frames waiting for one peer, oldest first."""

    __slots__ = ("_bytes", "_bytes_max", "_frames", "_frames_max")

    def __init__(self, frames_max: int, bytes_max: int) -> None:
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._frames_max = frames_max
        self._bytes_max = bytes_max

    def __len__(self) -> int:
        return len(self._frames)

    def push(self, frame: bytes) -> int:
        """Append a frame; return how many older ones left to make room (N7)."""
        assert len(frame) <= self._bytes_max, "a frame larger than its queue"
        self._frames.append(frame)
        self._bytes += len(frame)
        dropped = 0
        while len(self._frames) > self._frames_max or self._bytes > self._bytes_max:
            self._bytes -= len(self._frames.popleft())
            dropped += 1
        return dropped

    def take_within(self, bytes_max: int) -> list[bytes]:
        """Return the oldest frames that fit so many bytes of the wire together; none if the first does not."""
        batch: list[bytes] = []
        while self._frames and bytes_max >= LENGTH_BYTES + len(self._frames[0]):
            bytes_max -= LENGTH_BYTES + len(self._frames[0])
            batch.append(self._pop())
        return batch

    def take(self) -> list[bytes]:
        """Return the oldest frames: one, or several small ones; none if none wait."""
        batch = self.take_within(WRITE_BYTES_MAX)
        return [self._pop()] if self._frames and not batch else batch

    def _pop(self) -> bytes:
        frame = self._frames.popleft()
        self._bytes -= len(frame)
        return frame


@dataclass(slots=True, kw_only=True)
class Link:
    """What one peer's keeper, reader and sender share.

    Attributes:
        stream: Where frames leave while the link is up and its task is not writing.
        blocked: Set when frames wait that could not leave at once.
        written_at: When something last left (trio's clock).
    """

    peer: PublicKey
    queue: OutboundQueue
    wake: trio.Event
    is_up: bool = False
    inbound: trio.CancelScope | None = None
    stream: QuickStream | None = None
    blocked: trio.Event = field(default_factory=trio.Event)
    written_at: float = 0.0


class Sender:
    """Writes what waits for any link, all links in one turn of the scheduler (N7)."""

    def __init__(self, counters: NetworkCounters) -> None:
        self._counters = counters
        self._waiting: dict[PublicKey, Link] = {}
        self._news = trio.Event()

    def send(self, link: Link, frame: bytes) -> None:
        """Queue a frame for a peer, whether its link is up or not."""
        assert frame, "an empty frame is a keepalive"
        self._counters.dropped[Drop.QUEUE_FULL] += link.queue.push(frame)
        self._waiting[link.peer] = link
        self._news.set()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            links, self._waiting = self._waiting, {}
            for link in links.values():
                self._write_now(link)

    def _write_now(self, link: Link) -> None:
        if link.stream is not None and (batch := link.queue.take_within(link.stream.room())):
            link.stream.write_now(b"".join(map(encode_frame, batch)))
            link.written_at = trio.current_time()
            self._counters.frames_sent += len(batch)
        if link.queue or (link.stream is not None and link.stream.has_unsent):
            link.blocked.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkContext:
    """What every link of a network shares.

    Attributes:
        dial: Connects to a member or raises PeerUnreachableError.
        refuse: Counts a refusal and closes the peer's connections.
        hang_up: Closes the peer's connections.
    """

    host: MembersHost
    settings: NetworkSettings
    handlers: NetworkHandlers
    counters: NetworkCounters
    random: Random
    dial: Callable[[PublicKey], Awaitable[None]]
    refuse: Callable[[PublicKey, RejectionError], None]
    hang_up: Callable[[PublicKey], None]


async def keep_link(link: Link, context: LinkContext) -> None:
    """Hold the outbound stream of one peer up, for ever (N8)."""
    settings = context.settings
    pause_s = settings.reconnect_s_min
    yield_s = YIELD_S if link.peer < settings.own_seed.public_key() else 0.0
    while True:
        with trio.move_on_after(yield_s):
            await link.wake.wait()
        link.wake = trio.Event()
        opened_at = trio.current_time()
        try:
            await context.dial(link.peer)
            await _run_link(link, context)
        except PeerUnreachableError:
            context.counters.dials_failed += not link.is_up
        if trio.current_time() - opened_at >= LINK_STEADY_S + settings.dial_deadline_s:
            pause_s = settings.reconnect_s_min
        with trio.move_on_after(pause_s * context.random.uniform(0.5, 1.0)):
            await link.wake.wait()
        pause_s = min(2 * pause_s, settings.reconnect_s_max)


async def _run_link(link: Link, context: LinkContext) -> None:
    """Open the stream and write what is queued until it breaks."""
    stream = await open_stream(context.host, link.peer, CONSENSUS_PROTOCOL, context.settings.dial_deadline_s)
    link.is_up = True
    context.counters.links_opened += 1
    try:
        context.handlers.on_link_up(link.peer)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch_for_end, stream, nursery.cancel_scope)
            await _write_queue(link, stream, context)
    finally:
        link.is_up = False
        await reset_stream(stream)
        context.handlers.on_link_down(link.peer)


async def _watch_for_end(stream: INetStream, writer: trio.CancelScope) -> None:
    """Stop the writer when the peer ends the stream: nothing else ever comes back on it."""
    reader = FrameReader(stream, 0)
    with contextlib.suppress(PeerUnreachableError, RejectionError):
        await reader.next_frame(deadline_s=math.inf)
    writer.cancel()


async def _write_queue(link: Link, stream: INetStream, context: LinkContext) -> None:
    """Write what did not leave at once, and a keepalive when nothing else did for a while."""
    settings = context.settings
    quick = QuickStream(stream)
    try:
        while True:
            await _write_waiting(link, quick, context)
            link.blocked = trio.Event()
            link.stream = quick
            with trio.move_on_at(link.written_at + settings.keepalive_s):
                await link.blocked.wait()
            link.stream = None
            if trio.current_time() >= link.written_at + settings.keepalive_s:
                await write_frames(quick, [b""], deadline_s=settings.write_deadline_s)
                link.written_at = trio.current_time()
    except PeerUnreachableError:
        return
    finally:
        link.stream = None


async def _write_waiting(link: Link, quick: QuickStream, context: LinkContext) -> None:
    """Write until the queue is empty; nobody else writes to the stream meanwhile."""
    deadline_s = context.settings.write_deadline_s
    if quick.has_unsent:
        await write_frames(quick, [], deadline_s=deadline_s)
    while batch := link.queue.take():
        await write_frames(quick, batch, deadline_s=deadline_s)
        link.written_at = trio.current_time()
        context.counters.frames_sent += len(batch)


async def serve_inbound(link: Link, stream: INetStream, context: LinkContext) -> None:
    """Read a peer's frames until its stream ends, is replaced, or breaks a rule."""
    if link.inbound is not None:
        link.inbound.cancel()
    with trio.move_on_after(math.inf) as scope:
        link.inbound = scope
        link.wake.set()
        try:
            await _read_frames(link, stream, context)
        except PeerUnreachableError:
            pass
        except RejectionError as error:
            context.refuse(link.peer, error)
        except trio.TooSlowError:
            context.counters.peers_silent += 1
            context.hang_up(link.peer)
    if link.inbound is scope:
        link.inbound = None
    await reset_stream(stream)


async def _read_frames(link: Link, stream: INetStream, context: LinkContext) -> None:
    parser = FrameParser(context.settings.frame_bytes_max)
    counters = context.counters
    silence_s = SILENT_KEEPALIVES * context.settings.keepalive_s

    with trio.fail_after(silence_s) as silence:

        def take(piece: bytes) -> None:
            for frame in parser.feed(piece):
                silence.deadline = trio.current_time() + silence_s
                if not frame:
                    counters.keepalives_received += 1
                    continue
                counters.frames_delivered += 1
                context.handlers.on_frame(link.peer, frame)

        try:
            await QuickStream(stream).pour(take)
        except StreamEOF:
            parser.end()
        except (BaseLibp2pError, OSError) as error:
            raise read_failure(error) from error
