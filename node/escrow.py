"""A tenant's keys split among the seats, and put together again: any quorum of shares, and no fewer.

Shamir's scheme over GF(2^128) is that of pycryptodome, which shares 16 bytes at a time: each half of the escrow key by
a polynomial of its own. Shares are checked against what the chain keeps of them before they are used, since one false
share among six would give another key and name nobody.

Source: Shamir, "How to share a secret", CACM 1979.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from Crypto.Protocol.SecretSharing import Shamir

from consensus.encoding import decode, encode
from consensus.errors import RejectionError, RejectionReason
from node.sealed_boxes import open_sealed, seal_to
from storage.errors import UnsealError
from storage.records import RECORD_BYTES_MAX, check_record_bytes
from storage.sealing import SALT_BYTES, SECRET_BYTES, SealingSalt, SecretKey
from storage.tenant_changes import ShareCommitment
from storage.tenant_records import (
    HALF_BYTES,
    SEALED_SHARE_BYTES_MAX,
    EscrowShare,
    EscrowShares,
    MasterKeys,
    SealedShare,
    seal_escrowed,
    share_commitment,
    unseal_escrowed,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from consensus.identifiers import PublicKey
    from consensus.signing import SigningKey
    from storage.identifiers import SeatIndex


def split_keys(
    keys: MasterKeys, network_keys: Mapping[SeatIndex, PublicKey], threshold: int
) -> tuple[bytes, tuple[ShareCommitment, ...]]:
    """Split a tenant's keys among seats.

    Args:
        keys: All master keys.
        network_keys: Of each seat, to which its share is sealed.
        threshold: So many shares open the keys, fewer tell nothing: the members' quorum.

    Returns:
        The record to put beside the chain, and the commitments that go on it.
    """
    escrow_key = secrets.token_bytes(SECRET_BYTES)
    halves = [Shamir.split(threshold, len(network_keys), half) for half in _halves(escrow_key)]
    sealed: list[SealedShare] = []
    commitments: list[ShareCommitment] = []
    for (index, first), (_, second), (seat, network_key) in zip(*halves, network_keys.items(), strict=True):
        share = EscrowShare(tenant=keys.tenant, index=index, first=first, second=second)
        sealed.append(SealedShare(seat=seat, network_key=network_key, sealed=seal_to(network_key, encode(share))))
        commitments.append(ShareCommitment(seat=seat, commitment=share_commitment(share)))
    sealed_keys = seal_escrowed(keys, SecretKey(escrow_key), SealingSalt(secrets.token_bytes(SALT_BYTES)))
    record = encode(EscrowShares(sealed_keys=sealed_keys, shares=tuple(sealed)))
    check_record_bytes(len(record))
    return record, tuple(commitments)


def read_shares(record: bytes) -> EscrowShares:
    """Read the record of shares or raise RejectionError."""
    return decode(record, EscrowShares, bytes_max=RECORD_BYTES_MAX)


def hand_over(shares: EscrowShares, seat: SeatIndex, network_key: SigningKey, announced: PublicKey) -> bytes:
    """Return a seat's share, sealed to the key that was announced for the tenant.

    Raises:
        UnsealError: The seat has no share, or had another key when it was given one.
    """
    found = [share for share in shares.shares if share.seat == seat]
    if not found:
        raise UnsealError(f"no share was given to seat {seat}")
    return seal_to(announced, open_sealed(network_key, found[0].sealed))


def recover_keys(
    shares: EscrowShares,
    handed_over: Mapping[SeatIndex, bytes],
    commitments: Sequence[ShareCommitment],
    announced: SigningKey,
    threshold: int,
) -> MasterKeys:
    """Put a tenant's keys together from shares that were sealed to the announced key.

    Raises:
        RejectionError: BAD_PROOF: too few shares are those that were committed; names the seats of the others.
        UnsealError: The record's keys are sealed under another escrow key.
    """
    expected = {commitment.seat: commitment.commitment for commitment in commitments}
    good: list[EscrowShare] = []
    false_seats: list[SeatIndex] = []
    for seat, sealed in handed_over.items():
        share = _opened(sealed, announced)
        if share is not None and share_commitment(share) == expected.get(seat):
            good.append(share)
        else:
            false_seats.append(seat)
    if len(good) < threshold:
        detail = f"{len(good)} of {threshold} shares are those that were committed; false: seats {false_seats}"
        raise RejectionError(RejectionReason.BAD_PROOF, detail)
    chosen = good[:threshold]
    first = Shamir.combine([(share.index, share.first) for share in chosen])
    second = Shamir.combine([(share.index, share.second) for share in chosen])
    return unseal_escrowed(shares.sealed_keys, SecretKey(first + second))


def _opened(sealed: bytes, announced: SigningKey) -> EscrowShare | None:
    try:
        return decode(open_sealed(announced, sealed), EscrowShare, bytes_max=SEALED_SHARE_BYTES_MAX)
    except (RejectionError, UnsealError):
        return None


def _halves(escrow_key: bytes) -> tuple[bytes, bytes]:
    return escrow_key[:HALF_BYTES], escrow_key[HALF_BYTES:]
