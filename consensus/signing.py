"""Domain-separated signing and hashing, and Ed25519 checks that raise.

Signed bytes = domain tag, NUL, genesis hash, canonical fields. Hashed bytes = domain tag, NUL, canonical fields.
A signature or hash made for one purpose or one chain is worth nothing for another.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey as NaclSigningKey
from nacl.signing import VerifyKey

from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import GenesisHash, PublicKey, Signature

if TYPE_CHECKING:
    from collections.abc import Callable

    SignatureCheck = Callable[[PublicKey, bytes, Signature], None]
    """Raises RejectionError(BAD_SIGNATURE); the simulator swaps in a faster one that still binds signer and bytes."""


class Domain(StrEnum):
    """What a signature or hash is for."""

    GENESIS = "grandest/1/genesis"
    HEADER = "grandest/1/header"
    COMMIT = "grandest/1/commit-certificate"
    PROPOSAL = "grandest/1/proposal"
    PREVOTE = "grandest/1/prevote"
    PRECOMMIT = "grandest/1/precommit"
    TRANSACTION = "grandest/1/transaction"
    TRANSACTION_ID = "grandest/1/transaction-id"
    RECEIPT = "grandest/1/receipt"
    RECORD = "grandest/1/record"
    DECIDED_HEIGHT = "grandest/1/decided-height"
    VERIFIER_LOT = "grandest/1/verifier-lot"
    LEAF_LOT = "grandest/1/leaf-lot"
    SEAT_OFFER = "grandest/1/seat-offer"
    SEAT_CHANGE = "grandest/1/seat-change"
    MOVE = "grandest/1/move"
    READ = "grandest/1/read"


def sign_bytes(domain: Domain, genesis_hash: GenesisHash, payload: bytes) -> bytes:
    """Return what is signed: unambiguous, since tags hold no NUL and the genesis hash has a fixed length."""
    return domain.encode() + b"\0" + genesis_hash + payload


def domain_hash(domain: Domain, payload: bytes) -> bytes:
    """Return SHA-256 (32 bytes) of a payload under its domain."""
    return hashlib.sha256(domain.encode() + b"\0" + payload).digest()


def check_signature(public_key: PublicKey, message: bytes, signature: Signature) -> None:
    """Raise RejectionError(BAD_SIGNATURE) unless the key signed the message (RFC 8032)."""
    try:
        VerifyKey(public_key).verify(message, signature)
    except (BadSignatureError, ValueError) as error:
        raise RejectionError(RejectionReason.BAD_SIGNATURE, f"not signed by {public_key.hex()[:16]}") from error


class SignatureMaker(Protocol):
    """Whatever signs for one public key: SigningKey, or the simulator's faster stand-in."""

    @property
    def public(self) -> PublicKey:
        """Return the key to check against."""
        ...

    def sign(self, message: bytes) -> Signature:
        """Return the 64-byte signature; equal messages give equal signatures."""
        ...


class SigningKey:
    """An Ed25519 private key; never printed, never compared."""

    __slots__ = ("_secret", "public")

    def __init__(self, seed: bytes) -> None:
        """Take the 32-byte seed of RFC 8032."""
        self._secret = NaclSigningKey(seed)
        self.public = PublicKey(bytes(self._secret.verify_key))

    def __repr__(self) -> str:
        """Name the public half only."""
        return f"SigningKey(public={self.public.hex()[:16]}, seed=redacted)"

    def sign(self, message: bytes) -> Signature:
        """Return the 64-byte signature; equal messages give equal signatures."""
        return Signature(self._secret.sign(message).signature)

    def seed(self) -> bytes:
        """Return the 32 secret bytes, for the key file and the TLS identity alone."""
        return bytes(self._secret)
