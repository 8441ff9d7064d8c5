"""Seeds stay secret, keys and libp2p names map one to one."""

from __future__ import annotations

import pytest
from nacl.signing import SigningKey

from consensus.identifiers import PublicKey
from node.network.peers import Membership, NetworkSeed, PeerAddress, peer_id_of


def address(seed: bytes) -> PeerAddress:
    return PeerAddress(network_key=NetworkSeed(seed).public_key(), host="127.0.0.1", port=4001)


def test_a_seed_prints_nothing_of_itself() -> None:
    assert repr(NetworkSeed(b"s" * 32)) == "NetworkSeed(redacted)"
    assert str(NetworkSeed(b"s" * 32)) == "NetworkSeed(redacted)"


def test_the_public_key_is_plain_ed25519() -> None:
    assert NetworkSeed(b"s" * 32).public_key() == bytes(SigningKey(b"s" * 32).verify_key)


def test_a_member_is_found_by_its_libp2p_name_and_a_stranger_is_not() -> None:
    member, stranger = address(b"m" * 32), address(b"x" * 32)
    membership = Membership((member,))
    assert membership.key_of(peer_id_of(member.network_key)) == member.network_key
    assert membership.key_of(peer_id_of(stranger.network_key)) is None


def test_two_peers_never_share_a_key() -> None:
    with pytest.raises(AssertionError, match="share a network key"):
        Membership((address(b"m" * 32), address(b"m" * 32)))


def test_a_peer_id_is_that_of_other_libp2p_implementations() -> None:
    # Source: libp2p peer-ids specification: an Ed25519 id is the identity multihash of the protobuf-encoded key.
    encoded = peer_id_of(PublicKey(bytes(32))).to_bytes()
    assert encoded == b"\x00\x24\x08\x01\x12\x20" + bytes(32)
