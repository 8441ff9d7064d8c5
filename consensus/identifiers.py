"""Scalars of the chain, so that two of them cannot be swapped unseen, and the bounds their encodings obey."""

from __future__ import annotations

from typing import Final, NewType, TypeAlias

from msgspec import Meta

Buffer: TypeAlias = bytes | bytearray | memoryview
"""What bytes may be given as where they are only read."""
Height = NewType("Height", int)
"""Position in the chain; genesis is 0, the first block 1."""
Round = NewType("Round", int)
"""Attempt at one height, from 0; NO_ROUND where there is none."""
MemberIndex = NewType("MemberIndex", int)
"""Position in the member set, from 0; on the nine seats it equals the seat."""
BlockHash = NewType("BlockHash", bytes)
"""32 bytes: SHA-256 of a header under its domain."""
StateRoot = NewType("StateRoot", bytes)
"""32 bytes: root of the authenticated state map."""
GenesisHash = NewType("GenesisHash", bytes)
"""32 bytes: SHA-256 of the genesis under its domain; commits chain, members and parameters."""
CertificateHash = NewType("CertificateHash", bytes)
"""32 bytes: SHA-256 of an encoded commit certificate under its domain."""
TransactionId = NewType("TransactionId", bytes)
"""32 bytes: SHA-256 of a signed transaction under its domain."""
MerkleRoot = NewType("MerkleRoot", bytes)
"""32 bytes: root of a Merkle list."""
PublicKey = NewType("PublicKey", bytes)
"""32 bytes: an Ed25519 public key."""
Signature = NewType("Signature", bytes)
"""64 bytes: an Ed25519 signature."""
Milliseconds = NewType("Milliseconds", int)
"""A time since 1970 or a span; the name beside it says which."""

NO_ROUND: Final = Round(-1)
"""The valid round of a proposal that has none."""
MEMBERS_MAX: Final = 64
"""Member sets beyond this are refused; a bitmap of them fits a MessagePack integer."""

HASH = Meta(min_length=32, max_length=32)
SIGNATURE = Meta(min_length=64, max_length=64)
HEIGHT = Meta(ge=0, le=2**53 - 1)
"""Heights, times and byte counts stay exact in JSON readers that use doubles."""
ROUND = Meta(ge=0, le=2**31 - 1)
VALID_ROUND = Meta(ge=-1, le=2**31 - 1)
MEMBER = Meta(ge=0, le=MEMBERS_MAX - 1)
TIME = Meta(ge=0, le=2**53 - 1)
