"""The door of the room: one libp2p host, its links, gossip and catch-up, behind `Network`.

    async with open_network(settings, handlers) as network:
        network.broadcast(frame)

Everything that arrives goes to the handlers (peers.NetworkHandlers); a bug in a handler ends `open_network` with its
error, never a refusal. Leaving the block closes every connection.
"""

from __future__ import annotations

import logging
import random
from collections import Counter, OrderedDict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from consensus.errors import RejectionError, RejectionReason
from node.network.catch_up import CATCH_UP_PROTOCOL, request, serve_request
from node.network.gossip import build_gossip, deliver_topic, install_validators, publish, run_gossip
from node.network.peers import Drop, Membership, NetworkCounters, Topic
from node.network.streams import CONSENSUS_PROTOCOL, Link, LinkContext, OutboundQueue, Sender, keep_link, serve_inbound
from node.network.swarm import build_host, listen_multiaddr, reset_stream
from node.ports import check_port_is_free

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from libp2p.abc import INetStream
    from libp2p.pubsub.pb import rpc_pb2

    from consensus.identifiers import PublicKey
    from node.network.peers import NetworkHandlers, NetworkSettings

logger = logging.getLogger(__name__)

PUBLISH_QUEUE_MAX = 256
"""Payloads waiting for gossip; one more is dropped and counted."""

PUBLISH_PAUSE_S = 0.005
"""The library drops what finds 32 messages waiting for a peer: 200 a second let its writers keep up."""


class Network:
    """A running node's way to its peers; made by `open_network` alone."""

    def __init__(self, settings: NetworkSettings, handlers: NetworkHandlers, nursery: trio.Nursery) -> None:
        self.counters = NetworkCounters()
        self.own_key: PublicKey = settings.own_seed.public_key()
        self._settings = settings
        self._membership = Membership(settings.peers)
        assert self.own_key not in self._membership.peers(), "a node is not its own peer"
        self._nursery = nursery
        self._served: Counter[PublicKey] = Counter()
        self._handlers = handlers
        self._host, self._swarm = build_host(
            settings,
            self._membership,
            self.counters,
            OrderedDict({CONSENSUS_PROTOCOL: self._accept_link, CATCH_UP_PROTOCOL: self._accept_request}),
        )
        self._context = LinkContext(
            host=self._host,
            settings=settings,
            handlers=handlers,
            counters=self.counters,
            random=random.Random(),  # noqa: S311 (spreads dials, protects nothing)
            dial=self._dial,
            refuse=self.refuse,
            hang_up=self._hang_up,
        )
        self._sender = Sender(self.counters)
        self._links = {peer: self._new_link(peer) for peer in self._membership.peers()}
        self._pubsub, self._router = build_gossip(self._host, self._membership, self.refuse)
        self._publish_send, self._publish_receive = trio.open_memory_channel[tuple[Topic, bytes]](PUBLISH_QUEUE_MAX)

    @property
    def listen_port(self) -> int:
        """The TCP port, also when the settings asked for any (0)."""
        (address,) = self._host.get_transport_addrs()
        return int(address.value_for_protocol("tcp") or 0)

    def send(self, peer: PublicKey, frame: bytes) -> None:
        """Queue a frame for one peer; never waits (1 byte to frame_bytes_max)."""
        assert len(frame) <= self._settings.frame_bytes_max, f"a frame of {len(frame)} bytes"
        self._sender.send(self._links[peer], frame)

    def broadcast(self, frame: bytes) -> None:
        """Queue a frame for every peer."""
        for peer in self._links:
            self.send(peer, frame)

    def publish(self, topic: Topic, payload: bytes) -> None:
        """Gossip a hint of at most GOSSIP_BYTES_MAX; a larger one is dropped and counted."""
        try:
            self._publish_send.send_nowait((topic, payload))
        except trio.WouldBlock:
            self.counters.dropped[Drop.QUEUE_FULL] += 1

    async def request(self, peer: PublicKey, payload: bytes, *, deadline_s: float) -> bytes:
        """Ask one peer and return its answer.

        Raises:
            PeerUnreachableError: Not connected, or no answer in time.
            RejectionError: The peer refused, or its answer broke a limit.
        """
        try:
            return await request(self._host, peer, payload, deadline_s=deadline_s)
        except RejectionError as error:
            if error.reason in (RejectionReason.OVERSIZED, RejectionReason.MALFORMED):
                self.refuse(peer, error)
            raise

    def connected_peers(self) -> frozenset[PublicKey]:
        """Return the peers whose link is up: what is sent to them leaves at once."""
        return frozenset(peer for peer, link in self._links.items() if link.is_up)

    def refuse(self, peer: PublicKey, error: RejectionError) -> None:
        """Count and log a refusal, and close the peer's connections; the shell calls it for what it finds later."""
        self.counters.refused[error.reason] += 1
        logger.warning("refused peer %s: %s", peer.hex()[:16], error)
        self._hang_up(peer)

    async def run(self, ready: trio.Event) -> None:
        """Run everything until cancelled; `open_network` calls it."""
        settings = self._settings
        async with (
            self._host.run([listen_multiaddr(settings.listen_host, settings.listen_port)]),
            run_gossip(self._pubsub, self._router) as subscriptions,
            trio.open_nursery() as nursery,
        ):
            install_validators(self._pubsub, self._membership, self._host.get_id())
            for topic, subscription in subscriptions.items():
                nursery.start_soon(self._deliver, topic, subscription)
            nursery.start_soon(self._publish_queue)
            nursery.start_soon(self._sender.run)
            for link in self._links.values():
                nursery.start_soon(keep_link, link, self._context)
            ready.set()

    async def _deliver(self, topic: Topic, subscription: trio.MemoryReceiveChannel[rpc_pb2.Message]) -> None:
        await deliver_topic(
            topic,
            subscription,
            membership=self._membership,
            handlers=self._handlers,
            counters=self.counters,
            refuse=self.refuse,
        )

    async def _publish_queue(self) -> None:
        async for topic, payload in self._publish_receive:
            await publish(self._pubsub, topic, payload, self.counters)
            await trio.sleep(PUBLISH_PAUSE_S)

    async def _dial(self, peer: PublicKey) -> None:
        await self._swarm.dial_member(self._membership, peer, self._settings.dial_deadline_s)

    def _hang_up(self, peer: PublicKey) -> None:
        self._swarm.hang_up(peer)

    def _new_link(self, peer: PublicKey) -> Link:
        settings = self._settings
        queue = OutboundQueue(settings.queue_frames_max, settings.queue_bytes_max)
        return Link(peer=peer, queue=queue, wake=trio.Event())

    async def _accept_link(self, stream: INetStream) -> None:
        await self._serve(stream, self._serve_link)

    async def _accept_request(self, stream: INetStream) -> None:
        await self._serve(stream, self._serve_request)

    async def _serve_link(self, peer: PublicKey, stream: INetStream) -> None:
        await serve_inbound(self._links[peer], stream, self._context)

    async def _serve_request(self, peer: PublicKey, stream: INetStream) -> None:
        await serve_request(peer, stream, self._context, self._served)

    async def _serve(self, stream: INetStream, serve: Callable[[PublicKey, INetStream], Awaitable[None]]) -> None:
        """Serve in our own nursery: the library would swallow a handler's bug."""
        peer = self._membership.key_of(stream.muxed_conn.peer_id)
        if peer is None:
            await reset_stream(stream)
            return
        served = trio.Event()

        async def serve_and_tell() -> None:
            try:
                await serve(peer, stream)
            finally:
                served.set()

        self._nursery.start_soon(serve_and_tell)
        await served.wait()


@asynccontextmanager
async def open_network(settings: NetworkSettings, handlers: NetworkHandlers) -> AsyncGenerator[Network]:
    """Start a node's network and stop it when the block ends.

    Raises:
        ConfigurationError: The port is taken or the address is not ours.
    """
    check_port_is_free("libp2p", settings.listen_host, settings.listen_port)
    async with trio.open_nursery() as nursery:
        network = Network(settings, handlers, nursery)
        ready = trio.Event()
        nursery.start_soon(network.run, ready)
        await ready.wait()
        yield network
        nursery.cancel_scope.cancel()
