"""Keys in escrow: any six of nine shares, no five, and a false share is named."""

from __future__ import annotations

import hashlib
from itertools import combinations

import msgspec
import pytest

from consensus.encoding import decode, encode
from consensus.errors import RejectionError
from consensus.identifiers import PublicKey
from consensus.signing import SigningKey
from node.escrow import hand_over, read_shares, recover_keys, split_keys
from node.sealed_boxes import open_sealed, seal_to
from storage.errors import UnsealError
from storage.identifiers import SeatIndex, TenantId
from storage.tenant_records import EscrowShare, MasterKeys


def key(name: str) -> SigningKey:
    return SigningKey(hashlib.sha256(name.encode()).digest())


SEATS = {SeatIndex(seat): key(f"seat {seat}") for seat in range(9)}
KEYS = MasterKeys(tenant=TenantId(b"T" * 16), secrets=(bytes(range(32)), bytes(range(32, 64))))
FINDER = key("finder")
RECORD, COMMITMENTS = split_keys(KEYS, {seat: network.public for seat, network in SEATS.items()}, 6)
SHARES = read_shares(RECORD)
HANDED = {seat: hand_over(SHARES, seat, network, FINDER.public) for seat, network in SEATS.items()}


def recovered(seats: tuple[SeatIndex, ...]) -> MasterKeys:
    return recover_keys(SHARES, {seat: HANDED[seat] for seat in seats}, COMMITMENTS, FINDER, 6)


def test_any_six_of_nine_give_the_keys_back() -> None:
    for seats in combinations(SEATS, 6):
        assert recovered(seats) == KEYS
    assert recovered(tuple(SEATS)) == KEYS


def test_five_do_not() -> None:
    with pytest.raises(RejectionError, match="5 of 6 shares"):
        recovered(tuple(SEATS)[:5])


def test_five_shares_open_nothing_whoever_skips_the_count() -> None:
    five = {seat: HANDED[seat] for seat in tuple(SEATS)[:5]}
    with pytest.raises(UnsealError, match="under another key"):
        recover_keys(SHARES, five, COMMITMENTS, FINDER, 5)


def test_a_false_share_is_named_and_left_out() -> None:
    share = decode(open_sealed(FINDER, HANDED[SeatIndex(2)]), EscrowShare, bytes_max=200)
    false = msgspec.structs.replace(share, first=bytes(16))
    handed = HANDED | {SeatIndex(2): seal_to(FINDER.public, encode(false)), SeatIndex(3): b"nothing of the kind"}
    assert recover_keys(SHARES, handed, COMMITMENTS, FINDER, 6) == KEYS
    few = {seat: handed[seat] for seat in tuple(SEATS)[:7]}
    with pytest.raises(RejectionError, match=r"5 of 6 shares .* false: seats \[2, 3\]"):
        recover_keys(SHARES, few, COMMITMENTS, FINDER, 6)


def test_a_share_is_its_seats_alone_until_it_is_handed_over() -> None:
    with pytest.raises(UnsealError, match="for another key"):
        hand_over(SHARES, SeatIndex(0), SEATS[SeatIndex(1)], FINDER.public)
    with pytest.raises(UnsealError, match="no share was given"):
        hand_over(SHARES, SeatIndex(9), SEATS[SeatIndex(1)], FINDER.public)
    with pytest.raises(UnsealError, match="for another key"):
        open_sealed(key("thief"), HANDED[SeatIndex(0)])


def test_what_is_no_key_is_refused() -> None:
    with pytest.raises(RejectionError, match="is no Ed25519 key"):
        seal_to(PublicKey(b"\xff" * 32), b"secret")


def test_no_secret_is_printed() -> None:
    share = decode(open_sealed(FINDER, HANDED[SeatIndex(0)]), EscrowShare, bytes_max=200)
    assert repr(share) == f"EscrowShare({share.index}, redacted)"
    assert repr(KEYS) == "MasterKeys(2 redacted)"
