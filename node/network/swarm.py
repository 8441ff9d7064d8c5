"""The libp2p host, narrowed to members; every defect of py-libp2p 0.8.1 that concerns connections is handled here.

Rules
- N1. A stranger is refused right after the handshake that proves its key, before the multiplexer exists: no byte of
  it reaches a protocol.
- N4. Noise alone secures and yamux alone multiplexes, both passed explicitly: the library's default also accepts
  plaintext, where a peer is whoever it says it is. Only our own protocols are spoken: no identify, no ping, no
  discovery, no automatic dialling.
- N11. A member has at most PEER_CONNECTIONS_MAX connections (the oldest goes), each of at most STREAMS_MAX streams and
  BUFFERED_BYTES_MAX bytes that nobody read yet; more of either closes it. The library announces a receive window and
  never enforces it.
- N12. What was taken is given back: an accepted connection returns its slot when it closes (the library keeps it until
  the swarm stops), and every socket is closed when the host stops (the library, cancelled, leaves what it dialled to
  the collector and the listening port taken).
- N13. Whatever a library handler raises on a peer's bytes costs that peer its connection; left alone, one RPC of gossip
  that is no protobuf stopped the whole host.
- N14. A dial forgets the library's negative cache (60 s) and expired addresses (120 s), and uses our address alone,
  never one that a peer advertised.
"""

from __future__ import annotations

import ipaddress
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import trio
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.host.basic_host import BasicHost
from libp2p.io.trio import TrioTCPStream
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.swarm import Swarm
from libp2p.peer.peerstore import PeerStore
from libp2p.protocol_muxer.exceptions import MultiselectClientError, MultiselectError
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL_ID
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_PROTOCOL_ID
from libp2p.transport.exceptions import MuxerUpgradeFailure, SecurityUpgradeFailure
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from node.errors import PeerUnreachableError
from node.network.peers import Membership, NetworkCounters, NetworkSettings, peer_id_of
from node.network.quick_yamux import QuickYamux

if TYPE_CHECKING:
    from libp2p.abc import IMuxedConn, INetStream, IRawConnection, ISecureConn, ISecureTransport
    from libp2p.crypto.keys import KeyPair
    from libp2p.custom_types import StreamHandlerFn
    from libp2p.io.abc import ReadWriteCloser
    from libp2p.metrics.swarm import SwarmEvent
    from libp2p.peer.id import ID

    from consensus.identifiers import PublicKey

logger = logging.getLogger(__name__)

INBOUND_MAX: Final = 256
"""Accepted connections at once, handshakes included: four for each of 63 peers."""
HANDSHAKE_S: Final = 5.0
"""A dialler that does not finish its handshake in this time gives its slot back."""
STREAMS_MAX: Final = 64
"""Streams of one connection: consensus and gossip both ways, a few requests, and room for those that are closing."""
PEER_CONNECTIONS_MAX: Final = 3
ADDRESS_TTL_S: Final = 3600
CLOSE_S: Final = 1.0
AUTO_CONNECT_S: Final = 1e9
"""Never: the links are ours to keep."""


def security_options(key_pair: KeyPair) -> dict[TProtocol, ISecureTransport]:
    """Return the only way to prove an identity (N4)."""
    return {NOISE_PROTOCOL_ID: NoiseTransport(key_pair, noise_privkey=create_new_x25519_key_pair().private_key)}


class OwnedTcp(TCP):
    """Remembers the sockets it dialled, so that they can be closed (N12)."""

    def __init__(self) -> None:
        super().__init__()
        self._dialled: list[trio.SocketStream] = []

    async def dial(self, maddr: Multiaddr) -> IRawConnection:
        """Open a TCP connection."""
        raw = await super().dial(maddr)
        assert isinstance(raw, RawConnection), "TCP dials raw connections"
        assert isinstance(raw.stream, TrioTCPStream), "TCP runs on trio's streams"
        self._dialled = [stream for stream in self._dialled if stream.socket.fileno() >= 0]
        self._dialled.append(raw.stream.stream)
        return raw

    def close_dialled(self) -> None:
        """Close what is still open, without waiting."""
        for stream in self._dialled:
            stream.socket.close()


class MembersUpgrader(TransportUpgrader):
    """Secures a connection and refuses whoever is no member (N1)."""

    def __init__(self, membership: Membership, counters: NetworkCounters, settings: NetworkSettings) -> None:
        security = security_options(settings.own_seed.key_pair())
        super().__init__(security, {TProtocol(YAMUX_PROTOCOL_ID): QuickYamux}, int(HANDSHAKE_S))
        self._membership = membership
        self._counters = counters

    async def upgrade_security(
        self,
        raw_conn: IRawConnection,
        is_initiator: bool,  # noqa: FBT001 (the library\'s)
        peer_id: ID | None = None,
    ) -> ISecureConn:
        """Return the secured connection of a member."""
        secured = await super().upgrade_security(raw_conn, is_initiator, peer_id)
        stranger = secured.get_remote_peer()
        if self._membership.key_of(stranger) is None:
            self._counters.strangers_refused += 1
            await secured.close()
            raise SecurityUpgradeFailure(f"{stranger} is not a member")
        return secured

    async def upgrade_connection(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        """Multiplex a secured connection; the library would take its own Yamux whatever class it was given."""
        try:
            await self.muxer_multistream.select_transport(conn)
        except (MultiselectError, MultiselectClientError) as error:
            raise MuxerUpgradeFailure("no common multiplexer") from error

        async def on_close() -> None:
            """Nothing is left to do."""

        return QuickYamux(conn, peer_id, is_initiator=conn.is_initiator, on_close=on_close)


class MembersSwarm(Swarm):
    """Accepts and dials members, and gives back what it took (N12, N14)."""

    tcp: OwnedTcp

    async def run(self) -> None:
        """Run until the host stops, then close every socket."""
        try:
            await super().run()
        finally:
            self.tcp.close_dialled()
            with shielded(CLOSE_S):
                for listener in tuple(self.listeners.values()):
                    await listener.close()

    async def _do_handle_inbound_connection(
        self, read_write_closer: ReadWriteCloser, maddr: Multiaddr, failure_event: SwarmEvent
    ) -> None:
        """Hold the caller's limiter slot for the life of this connection alone."""
        raw = RawConnection(read_write_closer, False)  # noqa: FBT003 (libp2p's)
        try:
            muxed = await self.upgrade_inbound_raw_conn(raw, maddr)
            connections = self.get_connections(muxed.peer_id)
            for old in connections[:-PEER_CONNECTIONS_MAX]:
                self.manager.run_task(old.close)
            for connection in connections:
                if connection.muxed_conn is muxed and isinstance(connection, SwarmConn):
                    await connection.event_closed.wait()
        except BaseLibp2pError:
            failure_event.conn_incoming_error = True
        finally:
            with shielded(1):
                await raw.close()

    async def notify_opened_stream(self, stream: INetStream) -> None:
        """Close the connection of a peer that opens streams without end (N11)."""
        await super().notify_opened_stream(stream)
        for connection in self.get_connections(stream.muxed_conn.peer_id):
            if len(connection.get_streams()) > STREAMS_MAX:
                self.manager.run_task(connection.close)

    def hang_up(self, peer: PublicKey) -> None:
        """Close a member's connections, those that exist now alone: the library's own would forget later ones too."""
        for connection in self.get_connections(peer_id_of(peer)):
            self.manager.run_task(connection.close)

    def _schedule_auto_connect(self) -> None:
        """Do nothing when a connection is lost: the links are kept by streams.py (N4)."""

    async def dial_member(self, membership: Membership, peer: PublicKey, deadline_s: float) -> None:
        """Connect to a member unless connected already.

        Raises:
            PeerUnreachableError: Nobody there, or somebody else.
        """
        peer_id = peer_id_of(peer)
        self.unblock_peer(peer_id)
        self.peerstore.clear_addrs(peer_id)
        self.peerstore.add_addrs(peer_id, [listen_multiaddr(*_place(membership, peer))], ADDRESS_TTL_S)
        try:
            with trio.fail_after(deadline_s):
                await self.dial_peer(peer_id)
        except (BaseLibp2pError, OSError, trio.TooSlowError) as error:
            raise PeerUnreachableError(f"dial failed: {error or type(error).__name__}") from error


class MembersHost(BasicHost):
    """A host that outlives its peers' errors (N13) and speaks no identify: members know each other (N4)."""

    async def _swarm_stream_handler(self, net_stream: INetStream) -> None:
        """Negotiate and serve one stream of a peer."""
        try:
            await super()._swarm_stream_handler(net_stream)
        except Exception as error:  # noqa: BLE001 (the library may raise anything here; our own handlers run elsewhere)
            logger.warning("a stream of %s failed: %s", net_stream.muxed_conn.peer_id, type(error).__name__)
            await reset_stream(net_stream)

    def _schedule_identify(self, peer_id: ID, *, reason: str) -> None:
        """Do nothing: the library would open a stream and read without a limit."""


def build_host(
    settings: NetworkSettings,
    membership: Membership,
    counters: NetworkCounters,
    protocols: OrderedDict[TProtocol, StreamHandlerFn],
) -> tuple[MembersHost, MembersSwarm]:
    """Return a host that is not running yet, and the swarm in it."""
    key_pair = settings.own_seed.key_pair()
    own_peer_id = peer_id_of(settings.own_seed.public_key())
    upgrader = MembersUpgrader(membership, counters, settings)
    peerstore = PeerStore()
    peerstore.add_key_pair(own_peer_id, key_pair)
    connections = ConnectionConfig(
        # The limiter of accepted connections is the difference; closing ones are counted by the first for 200 ms.
        max_connections=4 * INBOUND_MAX,
        min_connections=3 * INBOUND_MAX,
        low_watermark=3 * INBOUND_MAX,
        high_watermark=4 * INBOUND_MAX,
        dial_timeout=settings.dial_deadline_s,
        inbound_upgrade_timeout=HANDSHAKE_S,
        outbound_upgrade_timeout=HANDSHAKE_S,
        auto_connect_interval=AUTO_CONNECT_S,
    )
    tcp = OwnedTcp()
    swarm = MembersSwarm(
        own_peer_id, peerstore, upgrader, [tcp], RetryConfig(max_retries=0), connection_config=connections
    )
    swarm.tcp = tcp
    host = MembersHost(swarm, default_protocols=protocols, disable_identify_address_discovery=True)
    return host, swarm


async def open_stream(host: MembersHost, peer: PublicKey, protocol: TProtocol, deadline_s: float) -> INetStream:
    """Open a stream to a connected member.

    Raises:
        PeerUnreachableError: No connection, or it did not answer in time.
    """
    try:
        with trio.fail_after(deadline_s):
            return await host.new_stream(peer_id_of(peer), [protocol])
    except (BaseLibp2pError, OSError, trio.TooSlowError) as error:
        raise PeerUnreachableError(f"no stream: {error or type(error).__name__}") from error


def shielded(deadline_s: float) -> trio.CancelScope:
    """Return a scope in which closing goes on for so long although the task was cancelled."""
    scope = trio.move_on_after(deadline_s)
    scope.shield = True
    return scope


async def reset_stream(stream: INetStream) -> None:
    """Give a stream up without waiting for the peer."""
    with shielded(1):
        try:
            await stream.reset()
        except (BaseLibp2pError, OSError):
            return


def listen_multiaddr(host: str, port: int) -> Multiaddr:
    """Return the address in libp2p's notation; a name that is no IP address is resolved when dialled."""
    try:
        family = "ip4" if ipaddress.ip_address(host).version == 4 else "ip6"  # noqa: PLR2004 (IPv4)
    except ValueError:
        family = "dns"
    return Multiaddr(f"/{family}/{host}/tcp/{port}")


def _place(membership: Membership, peer: PublicKey) -> tuple[str, int]:
    address = membership.address_of(peer)
    return address.host, address.port
