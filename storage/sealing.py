"""Sealing: objects and records encrypted and authenticated in frames.

One *sealing* is one use of this module for one stretch of plaintext: a whole object, an upload of a part, a record. It
has 32 fresh random bytes, its *salt*, drawn by the caller and never used for two sealings:

    64 bytes          = HKDF-SHA256(input = parent key, salt, info = domain)
    sealing key       = the first 32; commitment = the last 32
    frame i           = AES-256-GCM(sealing key, nonce = i as 12 bytes big-endian, plaintext, associated data)
    associated data   = salt, 32 bytes || i, 8 bytes big-endian || 1 when this frame is the last, else 0

A frame is 65,536 bytes: 65,520 of ciphertext and 16 of tag. The last one is shorter, but for plaintext of a multiple of
65,520 bytes, whose last frame is full. Empty plaintext has one frame of 16 bytes. So frame i starts at i * 65,536, and
frames cannot be cut off, dropped, doubled, moved or taken from another sealing.

Since the key differs for every salt, no key and nonce meet twice. GCM does not commit to its key: one ciphertext can
be made that opens under two. The commitment does (its preimage under HMAC-SHA256 would be a collision); records keep
theirs (storage/records.py), and what lies under a committed key needs no other.

Sources: NIST SP 800-38D; RFC 5869; Albertini et al., "How to Abuse and Fix Authenticated Encryption Without Key
Commitment", USENIX Security 2022; Hoang et al., "Online Authenticated-Encryption and its Nonce-Reuse
Misuse-Resistance" (STREAM), CRYPTO 2015.
"""

from __future__ import annotations

import hmac
from enum import Enum, StrEnum
from typing import Annotated, Final, NewType

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Meta

from consensus.encoding import Record
from consensus.identifiers import Buffer
from storage.errors import UnsealError
from storage.identifiers import FRAME_BYTES, FRAME_PLAIN_BYTES, FRAME_TAG_BYTES

SECRET_BYTES: Final = 32
SALT_BYTES: Final = 32
COMMITMENT_BYTES: Final = 32
COMMITTED_HEAD_BYTES: Final = SALT_BYTES + COMMITMENT_BYTES
NONCE_BYTES: Final = 12
PLAIN_BYTES_MAX: Final = 5 * 1024**4
"""One sealing: 5 TiB, the longest object of S3; GCM's bound on blocks per key stays 2**50 away."""

SealingSalt = NewType("SealingSalt", bytes)
"""32 random bytes, drawn for one sealing and kept in the clear."""
KeyCommitment = NewType("KeyCommitment", bytes)
"""32 bytes that name one key without revealing it."""


class SealingDomain(StrEnum):
    """What a sealing is for; keys of one domain are worth nothing in another."""

    OBJECT = "grandest/1/seal/object"
    RECORD = "grandest/1/seal/record"
    OBJECT_KEY = "grandest/1/seal/object-key"
    PART_LIST = "grandest/1/seal/part-list"
    TAGS = "grandest/1/seal/tags"
    SETTINGS = "grandest/1/seal/settings"
    ACCESS = "grandest/1/seal/access"
    ESCROW = "grandest/1/seal/escrow"


class RangeEnd(Enum):
    """Whether a range of frames ends with the sealing's last one."""

    OPEN = 0
    LAST = 1


class Sealing(Record):
    """One sealing of an object, as its record lists it in order."""

    salt: Annotated[SealingSalt, Meta(min_length=SALT_BYTES, max_length=SALT_BYTES)]
    plain_bytes: Annotated[int, Meta(ge=0, le=PLAIN_BYTES_MAX)]


class SecretKey:
    """32 secret bytes; never printed, compared in constant time, never hashed."""

    __slots__ = ("_secret",)
    __hash__ = None  # type: ignore[assignment]  # a secret is no dictionary key

    def __init__(self, secret: bytes) -> None:
        """Take 32 bytes.

        Raises:
            UnsealError: Another length; secrets come from files and opened records.
        """
        if len(secret) != SECRET_BYTES:
            raise UnsealError(f"a secret of {len(secret)} bytes, {SECRET_BYTES} expected")
        self._secret = bytes(secret)

    def __repr__(self) -> str:
        """Reveal nothing."""
        return "SecretKey(redacted)"

    def __eq__(self, other: object) -> bool:
        """Compare without telling by time where they differ."""
        return isinstance(other, SecretKey) and hmac.compare_digest(self._secret, other._secret)

    def __reduce__(self) -> str:
        """Refuse to be pickled or copied into something that prints."""
        raise TypeError("a secret key is not serialised; reveal() is the one way out")

    def reveal(self) -> bytes:
        """Return the secret bytes, for key derivation and the key file alone."""
        return self._secret


ObjectKey = NewType("ObjectKey", SecretKey)
"""Random; seals one object version and nothing else."""


class SealingKey:
    """The key of one sealing, with its salt; never printed."""

    __slots__ = ("_cipher", "commitment", "salt")

    def __init__(self, parent: SecretKey, domain: SealingDomain, salt: SealingSalt) -> None:
        """Derive it; the salt is 32 bytes, fresh when sealing, the recorded ones when unsealing."""
        derived = _derived(parent, domain, salt)
        self._cipher = AESGCM(derived[:SECRET_BYTES])
        self.commitment = KeyCommitment(derived[SECRET_BYTES:])
        self.salt = salt

    def __repr__(self) -> str:
        """Name the salt, which is public."""
        return f"SealingKey(salt={self.salt.hex()[:16]}, key=redacted)"

    def seal_frame(self, plain: memoryview, number: int, end: RangeEnd, out: memoryview) -> None:
        """Write one frame: len(plain) + 16 bytes."""
        self._cipher.encrypt_into(_nonce(number), plain, self._associated(number, end), out)

    def unseal_frame(self, sealed: memoryview, number: int, end: RangeEnd, out: memoryview) -> None:
        """Write a frame's plaintext: len(sealed) - 16 bytes.

        Raises:
            UnsealError: Not what this key sealed as this frame.
        """
        try:
            self._cipher.decrypt_into(_nonce(number), sealed, self._associated(number, end), out)
        except InvalidTag as error:
            raise UnsealError(f"frame {number} is not what its key sealed") from error

    def _associated(self, number: int, end: RangeEnd) -> bytes:
        return self.salt + number.to_bytes(8, "big") + bytes((end.value,))


def derive(parent: SecretKey, salt: bytes, purpose: bytes, byte_count: int) -> bytes:
    """Return HKDF-SHA256 of a secret (RFC 5869); an empty salt stands for 32 zeros."""
    return HKDF(algorithm=SHA256(), length=byte_count, salt=salt, info=purpose).derive(parent.reveal())


def frame_key(parent: SecretKey, domain: SealingDomain, salt: SealingSalt) -> bytes:
    """Return the key of one sealing's frames (32 bytes), for a proof: it opens that sealing and nothing else."""
    return _derived(parent, domain, salt)[:SECRET_BYTES]


def _derived(parent: SecretKey, domain: SealingDomain, salt: SealingSalt) -> bytes:
    assert len(salt) == SALT_BYTES, f"a salt of {len(salt)} bytes"
    return derive(parent, salt, domain.encode(), SECRET_BYTES + COMMITMENT_BYTES)


def frame_count(plain_bytes: int) -> int:
    """Return the number of frames of one sealing; at least one."""
    return max(1, -(-plain_bytes // FRAME_PLAIN_BYTES))


def sealed_bytes(plain_bytes: int) -> int:
    """Return the length of a whole sealing."""
    assert 0 <= plain_bytes <= PLAIN_BYTES_MAX, f"{plain_bytes} bytes in one sealing"
    return plain_bytes + frame_count(plain_bytes) * FRAME_TAG_BYTES


def seal_range(
    sealing_key: SealingKey,
    plain: Buffer,
    first_frame: int,
    end: RangeEnd,
    out: bytearray | memoryview,
) -> int:
    """Seal consecutive frames in one call; a whole segment is one call in one worker thread.

    Args:
        sealing_key: Its pair of key and frame number is used once: never seal a range again with other contents.
        plain: With OPEN, whole frames of FRAME_PLAIN_BYTES, at least one. With LAST, anything up to the end; empty only
            when the whole object is.
        first_frame: Number of the first frame.
        end: LAST when the sealing ends here.
        out: At least sealed_bytes(len(plain)) writable bytes; not overlapping `plain`.

    Returns:
        Bytes written.
    """
    frames = frame_count(len(plain))
    assert first_frame >= 0, "frames count from 0"
    assert end is RangeEnd.LAST or (plain and len(plain) % FRAME_PLAIN_BYTES == 0), "an open range has whole frames"
    assert plain or first_frame == 0, "only an empty object has an empty frame"
    written = sealed_bytes(len(plain))
    with memoryview(plain) as source, memoryview(out) as target:
        assert len(target) >= written, f"{len(target)} bytes for {written}"
        for i in range(frames):
            piece = source[i * FRAME_PLAIN_BYTES : (i + 1) * FRAME_PLAIN_BYTES]
            start = i * FRAME_BYTES
            frame = target[start : start + len(piece) + FRAME_TAG_BYTES]
            sealing_key.seal_frame(piece, first_frame + i, _end_of(i, frames, end), frame)
    return written


def unseal_range(
    sealing_key: SealingKey,
    sealed: Buffer,
    first_frame: int,
    end: RangeEnd,
    out: bytearray | memoryview,
) -> int:
    """Open consecutive frames in one call; `out` holds nothing usable when it raises.

    Args:
        sealing_key: The key that sealed them.
        sealed: Whole frames; with LAST the last one may be shorter.
        first_frame: Number of the first frame.
        end: LAST when the sealing ends here; the caller knows from Sealing.plain_bytes.
        out: At least plain_bytes_in(len(sealed)) writable bytes; not overlapping `sealed`.

    Returns:
        Bytes written.

    Raises:
        UnsealError: Lengths that no sealing has, or frames that are not what this key sealed here.
    """
    written = plain_bytes_in(len(sealed))
    if end is RangeEnd.OPEN and len(sealed) % FRAME_BYTES != 0:
        raise UnsealError(f"{len(sealed)} bytes are not whole frames")
    frames = frame_count(written)
    with memoryview(sealed) as source, memoryview(out) as target:
        assert len(target) >= written, f"{len(target)} bytes for {written}"
        for i in range(frames):
            frame = source[i * FRAME_BYTES : (i + 1) * FRAME_BYTES]
            start = i * FRAME_PLAIN_BYTES
            piece = target[start : start + len(frame) - FRAME_TAG_BYTES]
            sealing_key.unseal_frame(frame, first_frame + i, _end_of(i, frames, end), piece)
    return written


def seal_committed(parent: SecretKey, domain: SealingDomain, plain: bytes, salt: SealingSalt) -> bytes:
    """Return salt || key commitment || frames: what opens under one key alone, however it was made."""
    sealing_key = SealingKey(parent, domain, salt)
    sealed = bytearray(COMMITTED_HEAD_BYTES + sealed_bytes(len(plain)))
    sealed[:COMMITTED_HEAD_BYTES] = salt + sealing_key.commitment
    with memoryview(sealed) as view:
        seal_range(sealing_key, plain, 0, RangeEnd.LAST, view[COMMITTED_HEAD_BYTES:])
    return bytes(sealed)


def unseal_committed(parent: SecretKey, domain: SealingDomain, sealed: bytes) -> bytes:
    """Return what seal_committed() sealed.

    Raises:
        UnsealError: Another key, which the commitment shows, or changed bytes.
    """
    sealing_key = _recorded_key(parent, domain, sealed)
    if not _commits(sealing_key, sealed):
        raise UnsealError("the record is sealed under another key")
    plain = bytearray(plain_bytes_in(len(sealed) - COMMITTED_HEAD_BYTES))
    unseal_range(sealing_key, sealed[COMMITTED_HEAD_BYTES:], 0, RangeEnd.LAST, plain)
    return bytes(plain)


def is_sealed_under(parent: SecretKey, domain: SealingDomain, sealed: bytes) -> bool:
    """Say whether the commitment of a sealed record is that of this key; raises UnsealError when it is no record."""
    return _commits(_recorded_key(parent, domain, sealed), sealed)


def _recorded_key(parent: SecretKey, domain: SealingDomain, sealed: bytes) -> SealingKey:
    if len(sealed) < COMMITTED_HEAD_BYTES + FRAME_TAG_BYTES:
        raise UnsealError(f"a record of {len(sealed)} bytes")
    return SealingKey(parent, domain, SealingSalt(sealed[:SALT_BYTES]))


def _commits(sealing_key: SealingKey, sealed: bytes) -> bool:
    return hmac.compare_digest(sealing_key.commitment, sealed[SALT_BYTES:COMMITTED_HEAD_BYTES])


def plain_bytes_in(sealed_byte_count: int) -> int:
    """Return how much plaintext whole frames of that length hold.

    Raises:
        UnsealError: No frames have that length.
    """
    frames = -(-sealed_byte_count // FRAME_BYTES)
    plain_bytes = sealed_byte_count - frames * FRAME_TAG_BYTES
    if plain_bytes < 0 or frame_count(plain_bytes) != frames:
        raise UnsealError(f"{sealed_byte_count} bytes are not whole frames")
    return plain_bytes


def _end_of(position: int, frames: int, end: RangeEnd) -> RangeEnd:
    return end if position == frames - 1 else RangeEnd.OPEN


def _nonce(number: int) -> bytes:
    return number.to_bytes(NONCE_BYTES, "big")
