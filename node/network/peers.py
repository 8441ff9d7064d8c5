"""Who may speak to this node over libp2p, and what the room of the network promises to the shell.

Rules
- N1. A peer is one member, named by its Ed25519 network key; nobody else gets past the security handshake.
- N2. Every refusal is counted by reason; a peer whose message was refused loses its connection, not its seat: links are
  dialled again for ever, and each refusal in a row doubles the pause.
- N3. Frames and payloads are bytes here; their meaning belongs to the shell.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol

from libp2p.crypto.ed25519 import Ed25519PublicKey, create_new_key_pair
from libp2p.peer.id import ID

from consensus.identifiers import PublicKey
from consensus.messages import MESSAGE_BYTES_MAX

if TYPE_CHECKING:
    from libp2p.crypto.keys import KeyPair

    from consensus.errors import RejectionReason

FRAME_BYTES_MAX: Final = MESSAGE_BYTES_MAX
GOSSIP_BYTES_MAX: Final = 960 * 1024
"""One RPC of gossipsub holds at most 1 MiB: 64 KiB are left for its signature, topic and control messages."""
PEERS_MAX: Final = 63
"""Everybody but ourselves in the largest member set."""
SEED_BYTES: Final = 32


class Topic(StrEnum):
    """What is gossiped: hints that whoever needs them pulls again when they are lost."""

    TRANSACTIONS = "/grandest/transactions/1"
    BLOCKS = "/grandest/blocks/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAddress:
    """One other member and where it listens; the host is an IPv4 or IPv6 address or a DNS name."""

    network_key: PublicKey
    host: str
    port: int


class NetworkSeed:
    """The operator's secret network key: 32 bytes that neither print nor compare."""

    __slots__ = ("_seed",)

    def __init__(self, seed: bytes) -> None:
        assert len(seed) == SEED_BYTES, f"a network seed has {SEED_BYTES} bytes"
        self._seed = seed

    def __repr__(self) -> str:
        return "NetworkSeed(redacted)"

    def key_pair(self) -> KeyPair:
        """Return the pair that libp2p signs with."""
        return create_new_key_pair(self._seed)

    def public_key(self) -> PublicKey:
        """Return the name of this node among its peers."""
        return PublicKey(self.key_pair().public_key.to_bytes())


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """How one node meets the others; the defaults are those of a network that spans a region.

    Attributes:
        peers: Every other member, at most PEERS_MAX.
        keepalive_s: An idle link carries an empty frame this often; a peer silent for SILENT_KEEPALIVES of them is
            dropped.
        write_deadline_s: One write that takes longer gives the link up.
        reconnect_s_min: Pause before the second attempt to dial; doubles up to reconnect_s_max, with jitter.
        queue_frames_max: Frames waiting for one peer; the oldest is dropped and counted.
        queue_bytes_max: The same in bytes; never below one largest frame.
        requests_max: Catch-up requests of one peer served at once.
    """

    own_seed: NetworkSeed
    listen_host: str
    listen_port: int
    peers: tuple[PeerAddress, ...]
    frame_bytes_max: int = FRAME_BYTES_MAX
    keepalive_s: float = 5.0
    write_deadline_s: float = 10.0
    dial_deadline_s: float = 5.0
    reconnect_s_min: float = 0.05
    reconnect_s_max: float = 2.0
    queue_frames_max: int = 1024
    queue_bytes_max: int = 8 * 1024 * 1024
    requests_max: int = 4


class NetworkHandlers(Protocol):
    """What the shell does with what arrives; `peer` is a member's network key, proven by the handshake.

    A handler that raises RejectionError has the peer's connection closed and the reason counted.
    """

    def on_frame(self, peer: PublicKey, frame: bytes) -> None:
        """Queue one frame of the peer's stream; frames of one peer arrive one by one, in order."""

    async def on_gossip(self, topic: Topic, peer: PublicKey, payload: bytes) -> None:
        """Take what the member published; it arrives once, in any order, or not at all."""

    async def on_request(self, peer: PublicKey, payload: bytes) -> bytes:
        """Answer a catch-up request with at most RESPONSE_BYTES_MAX bytes."""
        ...

    def on_link_up(self, peer: PublicKey) -> None:
        """Frames sent from now on leave at once."""

    def on_link_down(self, peer: PublicKey) -> None:
        """Frames sent from now on wait in the bounded queue."""


class Drop(StrEnum):
    """Why something of our own did not leave."""

    QUEUE_FULL = "queue_full"
    GOSSIP_OVERSIZED = "gossip_oversized"


@dataclass(slots=True)
class NetworkCounters:
    """What passed and what did not since the start; read by telemetry."""

    frames_sent: int = 0
    frames_delivered: int = 0
    keepalives_received: int = 0
    gossip_published: int = 0
    gossip_delivered: int = 0
    requests_served: int = 0
    links_opened: int = 0
    dials_failed: int = 0
    strangers_refused: int = 0
    peers_silent: int = 0
    dropped: Counter[Drop] = field(default_factory=Counter[Drop])
    refused: Counter[RejectionReason] = field(default_factory=Counter["RejectionReason"])


def peer_id_of(network_key: PublicKey) -> ID:
    """Return the libp2p name of a network key."""
    return ID.from_pubkey(Ed25519PublicKey.from_bytes(network_key))


class Membership:
    """The closed list of those who may connect, both ways between network key and libp2p name."""

    __slots__ = ("_address_by_key", "_key_by_peer_id")

    def __init__(self, peers: tuple[PeerAddress, ...]) -> None:
        assert len(peers) <= PEERS_MAX, f"{len(peers)} peers, at most {PEERS_MAX}"
        self._key_by_peer_id = {peer_id_of(peer.network_key): peer.network_key for peer in peers}
        self._address_by_key = {peer.network_key: peer for peer in peers}
        assert len(self._address_by_key) == len(peers), "two peers share a network key"

    def key_of(self, peer_id: ID) -> PublicKey | None:
        """Return the member's network key, None for a stranger."""
        return self._key_by_peer_id.get(peer_id)

    def peers(self) -> tuple[PublicKey, ...]:
        """Return every peer, in the order of the settings."""
        return tuple(self._address_by_key)

    def address_of(self, peer: PublicKey) -> PeerAddress:
        """Return where a peer listens."""
        return self._address_by_key[peer]
