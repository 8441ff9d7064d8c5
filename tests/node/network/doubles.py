"""Members and strangers on loopback, for the tests of this room."""

from __future__ import annotations

import random
import socket
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import StreamHandlerFn, TProtocol

from consensus.errors import RejectionError
from consensus.identifiers import PublicKey
from node.network.host import Network, open_network
from node.network.peers import Membership, NetworkCounters, NetworkSeed, NetworkSettings, PeerAddress, Topic
from node.network.swarm import MembersHost, MembersSwarm, build_host, listen_multiaddr

LOOPBACK = "127.0.0.1"
POLL_S = 0.005
PATIENCE_S = 10.0
"""No test waits this long for something that works."""


@dataclass(slots=True)
class Recorder:
    """Handlers that keep what arrives and answer requests with their reverse."""

    frames: list[tuple[PublicKey, bytes]] = field(default_factory=list[tuple[PublicKey, bytes]])
    gossip: list[tuple[Topic, PublicKey, bytes]] = field(default_factory=list[tuple[Topic, PublicKey, bytes]])
    links: list[tuple[str, PublicKey]] = field(default_factory=list[tuple[str, PublicKey]])
    rejection: RejectionError | None = None
    bug: AssertionError | None = None
    answer_gate: trio.Event | None = None

    def on_frame(self, peer: PublicKey, frame: bytes) -> None:
        if self.bug is not None:
            raise self.bug
        if self.rejection is not None:
            raise self.rejection
        self.frames.append((peer, frame))

    async def on_gossip(self, topic: Topic, peer: PublicKey, payload: bytes) -> None:
        if self.rejection is not None:
            raise self.rejection
        self.gossip.append((topic, peer, payload))

    async def on_request(self, peer: PublicKey, payload: bytes) -> bytes:
        if self.rejection is not None:
            raise self.rejection
        if self.answer_gate is not None:
            await self.answer_gate.wait()
        return payload[::-1]

    def on_link_up(self, peer: PublicKey) -> None:
        self.links.append(("up", peer))

    def on_link_down(self, peer: PublicKey) -> None:
        self.links.append(("down", peer))


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One running node: its network and what its handlers saw."""

    network: Network
    seen: Recorder

    @property
    def key(self) -> PublicKey:
        return self.network.own_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Town:
    """Seeds and addresses of a few members, nobody running yet."""

    seeds: tuple[NetworkSeed, ...]
    addresses: tuple[PeerAddress, ...]
    keepalive_s: float = 0.5

    def settings(self, member: int) -> NetworkSettings:
        return NetworkSettings(
            own_seed=self.seeds[member],
            listen_host=LOOPBACK,
            listen_port=self.addresses[member].port,
            peers=tuple(address for i, address in enumerate(self.addresses) if i != member),
            keepalive_s=self.keepalive_s,
        )

    @asynccontextmanager
    async def run(self, *members: int) -> AsyncGenerator[list[Member]]:
        """Run some members, linked to each other."""
        async with AsyncExitStack() as stack:
            running: list[Member] = []
            for member in members:
                seen = Recorder()
                network = await stack.enter_async_context(open_network(self.settings(member), seen))
                running.append(Member(network=network, seen=seen))
            await eventually(
                lambda: all(len(member.network.connected_peers()) == len(members) - 1 for member in running)
            )
            yield running


def town(members: int) -> Town:
    """Return a town of so many members on free ports."""
    seeds = tuple(NetworkSeed(bytes([i + 1]) * 32) for i in range(members))
    addresses = tuple(PeerAddress(network_key=seed.public_key(), host=LOOPBACK, port=free_port()) for seed in seeds)
    return Town(seeds=seeds, addresses=addresses)


def free_port() -> int:
    """Return a port below the kernel's own choices, so that no outgoing connection takes it meanwhile."""
    while True:
        port = random.randint(15_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
        return port


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something that other tasks bring about is true."""
    with trio.fail_after(PATIENCE_S):
        while not holds():
            with trio.move_on_after(POLL_S):  # the library tells of nothing that could be awaited
                await trio.sleep_forever()


@asynccontextmanager
async def hostile_host(seed: NetworkSeed, target: PeerAddress) -> AsyncGenerator[tuple[MembersHost, MembersSwarm]]:
    """Run a bare libp2p host that dials one node and then does as it likes."""
    settings = NetworkSettings(own_seed=seed, listen_host=LOOPBACK, listen_port=0, peers=(target,))
    membership = Membership(settings.peers)

    async def swallow(stream: INetStream) -> None:
        del stream
        await trio.sleep_forever()

    names = ("/grandest/consensus/1", "/meshsub/1.1.0")
    protocols: OrderedDict[TProtocol, StreamHandlerFn] = OrderedDict({TProtocol(name): swallow for name in names})
    host, swarm = build_host(settings, membership, NetworkCounters(), protocols)
    async with host.run([listen_multiaddr(LOOPBACK, 0)]):
        await swarm.dial_member(membership, target.network_key, PATIENCE_S)
        yield host, swarm
