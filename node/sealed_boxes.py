"""Secrets sealed to one Ed25519 key: the same key pair, taken as X25519, opens them.

A client or seat shows one key on chain, and needs no second one for this. Signing and opening with one pair are
independent: Thormarker, "On using the same key pair for Ed25519 and an X25519 based KEM", IACR ePrint 2021/509.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nacl.exceptions import CryptoError
from nacl.public import SealedBox
from nacl.signing import SigningKey as NaclSigningKey
from nacl.signing import VerifyKey

from consensus.errors import RejectionError, RejectionReason
from storage.errors import UnsealError

if TYPE_CHECKING:
    from consensus.identifiers import PublicKey
    from consensus.signing import SigningKey


def seal_to(public_key: PublicKey, contents: bytes) -> bytes:
    """Return what the holder of the key alone opens: 48 bytes longer, under a fresh key of its own.

    Raises:
        RejectionError: BAD_SIGNATURE: these bytes are no key.
    """
    try:
        return SealedBox(VerifyKey(public_key).to_curve25519_public_key()).encrypt(contents)
    except (CryptoError, ValueError) as error:
        raise RejectionError(RejectionReason.BAD_SIGNATURE, f"{public_key.hex()[:16]} is no Ed25519 key") from error


def open_sealed(signing_key: SigningKey, sealed: bytes) -> bytes:
    """Return what was sealed to this key; raises UnsealError when it was not."""
    try:
        return SealedBox(NaclSigningKey(signing_key.seed()).to_curve25519_private_key()).decrypt(sealed)
    except (CryptoError, ValueError) as error:
        raise UnsealError("what was sealed is for another key, or changed") from error
