"""Each defect of the library that concerns connections, with our handling and without it."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import trio
from libp2p.abc import INetStream
from libp2p.crypto.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from libp2p.crypto.keys import KeyPair, PublicKey
from libp2p.custom_types import TProtocol
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.stream.net_stream import NetStream
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL_ID
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream
from libp2p.transport.exceptions import SecurityUpgradeFailure
from libp2p.transport.upgrader import TransportUpgrader

from node.errors import PeerUnreachableError
from node.network import quick_yamux as quick_module
from node.network import swarm as swarm_module
from node.network.catch_up import CATCH_UP_PROTOCOL
from node.network.frames import encode_frame
from node.network.host import open_network
from node.network.peers import Membership, NetworkCounters, NetworkSeed, peer_id_of
from node.network.streams import CONSENSUS_PROTOCOL
from node.network.swarm import MembersSwarm, MembersUpgrader, build_host, security_options
from tests.node.network.doubles import LOOPBACK, Member, Recorder, Town, eventually, hostile_host, town

STRANGER = NetworkSeed(b"stranger" * 4)


async def connect(place: Town, dialler: MembersUpgrader | TransportUpgrader) -> tuple[trio.SocketStream, Yamux]:
    """Connect to member 0 by hand, up to the multiplexer."""
    stream = await trio.open_tcp_stream(LOOPBACK, place.addresses[0].port)
    raw = RawConnection(TrioTCPStream(stream), initiator=True)
    target = peer_id_of(place.addresses[0].network_key)
    try:
        with trio.fail_after(3):
            secured = await dialler.upgrade_security(raw, is_initiator=True, peer_id=target)
            muxed = await dialler.upgrade_connection(secured, target)
    except BaseException:
        stream.socket.close()
        raise
    assert isinstance(muxed, Yamux)
    return stream, muxed


def upgrader_of(place: Town, member: int) -> MembersUpgrader:
    settings = place.settings(member)
    return MembersUpgrader(Membership(settings.peers), NetworkCounters(), settings)


# --- plaintext: whoever knows a member's public key is that member --------------------------------------------------


async def impostor_is_let_in(place: Town, first: Member) -> bool:
    """Dial in plaintext, claiming to be member 1 with its public key alone."""
    victim = place.addresses[1].network_key

    class StolenName(Ed25519PrivateKey):
        """A key of our own that states the victim's public key: plaintext asks for no signature."""

        def get_public_key(self) -> PublicKey:
            return Ed25519PublicKey.from_bytes(victim)

    stolen = StolenName.new(b"x" * 32)
    impostor = InsecureTransport(KeyPair(stolen, stolen.get_public_key()))
    dialler = TransportUpgrader({PLAINTEXT_PROTOCOL_ID: impostor}, {TProtocol("/yamux/1.0.0"): Yamux})
    try:
        stream, _ = await connect(place, dialler)
    except (SecurityUpgradeFailure, trio.TooSlowError):
        return False
    await eventually(lambda: bool(first.network._swarm.get_connections(peer_id_of(victim))))
    stream.socket.close()
    return True


async def test_plaintext_is_refused() -> None:
    place = town(2)
    async with place.run(0) as (first,):
        assert not await impostor_is_let_in(place, first)
        assert not first.network._swarm.connections


async def test_the_library_s_default_would_let_an_impostor_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_plaintext(key_pair: object) -> object:
        options = dict(security_options(key_pair))  # type: ignore[arg-type]
        return {**options, PLAINTEXT_PROTOCOL_ID: InsecureTransport(key_pair)}  # type: ignore[arg-type]

    monkeypatch.setattr(swarm_module, "security_options", with_plaintext)
    monkeypatch.setattr(swarm_module, "QuickYamux", Yamux)  # ours does not even run on plaintext
    place = town(2)
    async with place.run(0) as (first,):
        assert await impostor_is_let_in(place, first)


def test_noise_and_yamux_are_the_only_offers() -> None:
    upgrader = upgrader_of(town(2), 0)
    assert list(upgrader.security_multistream.transports) == [NOISE_PROTOCOL_ID]
    assert list(upgrader.muxer_multistream.transports) == ["/yamux/1.0.0"]


# --- strangers ------------------------------------------------------------------------------------------------------


async def stranger_is_let_in(place: Town) -> bool:
    stranger = TransportUpgrader(security_options(STRANGER.key_pair()), {TProtocol("/yamux/1.0.0"): Yamux})
    try:
        stream, _ = await connect(place, stranger)
    except Exception:  # noqa: BLE001 (a refused handshake ends in any error of the library)
        return False
    stream.socket.close()
    return True


async def test_a_stranger_is_refused_before_the_multiplexer() -> None:
    place = town(2)
    async with place.run(0) as (first,):
        assert not await stranger_is_let_in(place)
        assert first.network.counters.strangers_refused == 1
        assert not first.network._swarm.connections


async def test_the_library_would_let_a_stranger_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MembersUpgrader, "upgrade_security", TransportUpgrader.upgrade_security)
    place = town(2)
    async with place.run(0):
        assert await stranger_is_let_in(place)


# --- limiter slots --------------------------------------------------------------------------------------------------


async def connect_in_turn(place: Town, times: int) -> int:
    """Connect so many times as member 1, one after the other; return how many got through."""
    dialler = upgrader_of(place, 1)
    for connected in range(times):
        try:
            stream, _ = await connect(place, dialler)
        except Exception:  # noqa: BLE001 (a refused connection ends in any error of the library)
            return connected
        stream.socket.close()
    return times


async def test_a_thousand_connections_in_turn_are_all_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swarm_module, "INBOUND_MAX", 16)
    place = town(2)
    async with place.run(0) as (first,):
        assert await connect_in_turn(place, 1000) == 1000
        await eventually(lambda: first.network._swarm._inbound_limiter.borrowed_tokens == 0)
        await eventually(lambda: not first.network._swarm.connections)


async def test_the_library_would_keep_the_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swarm_module, "INBOUND_MAX", 16)
    monkeypatch.setattr(MembersSwarm, "_do_handle_inbound_connection", Swarm._do_handle_inbound_connection)
    place = town(2)
    async with place.run(0):
        assert await connect_in_turn(place, 40) == 16


# --- negative cache -------------------------------------------------------------------------------------------------


async def dial_after_a_failure(place: Town) -> None:
    """Dial member 0 while it is away, then when it is there."""
    settings = place.settings(1)
    membership = Membership(settings.peers)
    host, swarm = build_host(settings, membership, NetworkCounters(), OrderedDict({CONSENSUS_PROTOCOL: _ignore}))
    async with host.run([]):
        with pytest.raises(PeerUnreachableError):
            await swarm.dial_member(membership, place.addresses[0].network_key, 2)
        async with open_network(place.settings(0), Recorder()):
            await swarm.dial_member(membership, place.addresses[0].network_key, 2)


async def _ignore(stream: INetStream) -> None:
    del stream
    await trio.sleep_forever()


def _keep_the_block(_swarm: MembersSwarm, _peer_id: ID) -> None:
    """Leave the negative cache as it is."""


async def test_a_failed_dial_does_not_forbid_the_next() -> None:
    await dial_after_a_failure(town(2))


async def test_the_library_would_forbid_it_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MembersSwarm, "unblock_peer", _keep_the_block)
    with pytest.RaisesGroup(pytest.RaisesExc(PeerUnreachableError, match="negative cache"), flatten_subgroups=True):
        await dial_after_a_failure(town(2))


# --- hostile members ------------------------------------------------------------------------------------------------


async def flood(place: Town, first: Member, flood_bytes: int) -> int:
    """Send to a stream that nobody reads, ignoring its window; return the most bytes that were kept unread."""
    first.seen.answer_gate = trio.Event()
    most = 0
    async with hostile_host(place.seeds[1], place.addresses[0]) as (host, swarm):
        stream = await host.new_stream(peer_id_of(first.key), [CATCH_UP_PROTOCOL])
        assert isinstance(stream, NetStream)
        await stream.write(encode_frame(b"a question whose answer takes long"))
        muxed = stream.muxed_stream
        assert isinstance(muxed, YamuxStream)
        (held,) = first.network._swarm.get_connections(peer_id_of(place.addresses[1].network_key))
        assert isinstance(held.muxed_conn, Yamux)
        piece = b"\x00\x00\x00\x01x" + bytes(64 * 1024 - 5 - 12)
        with trio.move_on_after(10):
            for _ in range(flood_bytes // len(piece)):
                muxed.send_window = 2**30
                try:
                    await stream.write(piece)
                except Exception:  # noqa: BLE001 (the connection was closed: that is the point)
                    break
                most = max(most, sum(map(len, held.muxed_conn.stream_buffers.values())))
            else:
                return most
        await eventually(lambda: not swarm.connections)
    return most


async def test_a_member_that_ignores_the_window_loses_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick_module, "BUFFERED_BYTES_MAX", 2 * 1024 * 1024)
    place = town(2)
    async with place.run(0) as (first,):
        assert await flood(place, first, 8 * 1024 * 1024) <= 2 * 1024 * 1024
        await eventually(lambda: not first.network._swarm.connections)


async def test_without_the_bound_whatever_is_sent_would_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick_module, "BUFFERED_BYTES_MAX", 2**40)
    place = town(2)
    async with place.run(0) as (first,):
        assert await flood(place, first, 6 * 1024 * 1024) > 4 * 1024 * 1024


async def test_a_member_that_opens_streams_without_end_loses_its_connection() -> None:
    place = town(2)
    async with place.run(0) as (first,), hostile_host(place.seeds[1], place.addresses[0]) as (_, swarm):
        (connection,) = swarm.get_connections(peer_id_of(first.key))
        for _ in range(100):
            try:
                await connection.new_stream()
            except Exception:  # noqa: BLE001 (the connection was closed: that is the point)
                break
        await eventually(lambda: not swarm.connections)
