"""Signatures that cost a hash: they bind signer and bytes as real ones do, and only who holds the key can make one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import PublicKey, Signature
from consensus.signing import SigningKey, check_signature

if TYPE_CHECKING:
    from consensus.signing import SignatureCheck, SignatureMaker


PROVEN_MAX: Final = 4_096


class SignatureKind(StrEnum):
    """What votes, proposals and transactions of a world are signed with."""

    STUB = "stub"
    REAL = "real"


class StubKey:
    """Signs with a keyed hash."""

    __slots__ = ("_secret", "public")

    def __init__(self, seed: bytes) -> None:
        self._secret = hashlib.sha256(b"secret" + seed).digest()
        self.public = PublicKey(hashlib.sha256(b"public" + seed).digest())

    def sign(self, message: bytes) -> Signature:
        """Return 64 bytes that nobody else can compute."""
        return Signature(hashlib.blake2b(message, key=self._secret).digest())


@dataclass(slots=True)
class KeyRing:
    """All keys of a world: it alone can check stub signatures, so no node may hold it, only its check()."""

    kind: SignatureKind
    _stubs: dict[PublicKey, StubKey] = field(default_factory=dict[PublicKey, StubKey])
    _proven: set[tuple[PublicKey, bytes, Signature]] = field(default_factory=set[tuple[PublicKey, bytes, Signature]])
    """What was found right lately: eight receivers check the same."""

    def new_key(self, seed: bytes) -> SignatureMaker:
        """Return the key of a seed (32 bytes)."""
        if self.kind is SignatureKind.REAL:
            return SigningKey(seed)
        stub = StubKey(seed)
        self._stubs[stub.public] = stub
        return stub

    @property
    def check(self) -> SignatureCheck:
        """Return what verifies signatures of this ring's keys."""
        return check_signature if self.kind is SignatureKind.REAL else self._check_stub

    def _check_stub(self, public_key: PublicKey, message: bytes, signature: Signature) -> None:
        claim = (public_key, message, signature)
        if claim in self._proven:
            return
        stub = self._stubs.get(public_key)
        if stub is None or stub.sign(message) != signature:
            raise RejectionError(RejectionReason.BAD_SIGNATURE, f"not signed by {public_key.hex()[:16]}")
        if len(self._proven) >= PROVEN_MAX:
            self._proven.clear()
        self._proven.add(claim)
