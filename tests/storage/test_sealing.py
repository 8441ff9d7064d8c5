"""Sealing: frames by another route give the same bytes; nothing cut, moved, mixed or changed opens."""

from __future__ import annotations

import copy
import hashlib
import hmac
import pickle
import random

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import UnsealError
from storage.identifiers import FRAME_BYTES, FRAME_PLAIN_BYTES, SEGMENT_BYTES_MAX
from storage.sealing import (
    RangeEnd,
    SealingDomain,
    SealingKey,
    SealingSalt,
    SecretKey,
    frame_count,
    plain_bytes_in,
    seal_range,
    sealed_bytes,
    unseal_range,
)

PARENT = SecretKey(bytes(range(32)))
SALT = SealingSalt(bytes(range(100, 132)))
KEY = SealingKey(PARENT, SealingDomain.OBJECT, SALT)
EDGES = (0, 1, 4096, FRAME_PLAIN_BYTES - 1, FRAME_PLAIN_BYTES, FRAME_PLAIN_BYTES + 1, 3 * FRAME_PLAIN_BYTES, 200_000)
KNOWN_SEALING = "b489aeb6ba44a8ddb778e59aec03ceba2618fc01554a47fd315c28a9e21b47ce"
KNOWN_EMPTY = "76618eb977fd95f73c97c03e8e42b5fd"


def seal(plain: bytes, sealing_key: SealingKey = KEY) -> bytes:
    out = bytearray(sealed_bytes(len(plain)))
    assert seal_range(sealing_key, plain, 0, RangeEnd.LAST, out) == len(out)
    return bytes(out)


def unseal(sealed: bytes, first_frame: int = 0, end: RangeEnd = RangeEnd.LAST, sealing_key: SealingKey = KEY) -> bytes:
    out = bytearray(plain_bytes_in(len(sealed)))
    assert unseal_range(sealing_key, sealed, first_frame, end, out) == len(out)
    return bytes(out)


def derived() -> bytes:
    """HKDF of RFC 5869 by hand: extract, then two blocks."""
    extracted = hmac.digest(SALT, PARENT.reveal(), "sha256")
    first = hmac.digest(extracted, b"grandest/1/seal/object\x01", "sha256")
    return first + hmac.digest(extracted, first + b"grandest/1/seal/object\x02", "sha256")


def test_frames_are_those_of_the_written_format() -> None:
    plain = random.Random(1).randbytes(2 * FRAME_PLAIN_BYTES + 5)
    cipher = AESGCM(derived()[:32])
    frames = [
        cipher.encrypt(
            i.to_bytes(12, "big"),
            plain[i * FRAME_PLAIN_BYTES : (i + 1) * FRAME_PLAIN_BYTES],
            SALT + i.to_bytes(8, "big") + bytes([i == 2]),
        )
        for i in range(3)
    ]
    assert seal(plain) == b"".join(frames)
    assert KEY.commitment == derived()[32:]


def test_known_sealing() -> None:
    assert hashlib.sha256(seal(bytes(FRAME_PLAIN_BYTES + 1))).hexdigest() == KNOWN_SEALING
    assert seal(b"").hex() == KNOWN_EMPTY


@pytest.mark.parametrize("plain_bytes", EDGES)
def test_lengths(plain_bytes: int) -> None:
    sealed = seal(random.Random(plain_bytes).randbytes(plain_bytes))
    assert len(sealed) == sealed_bytes(plain_bytes) == plain_bytes + 16 * frame_count(plain_bytes)
    assert unseal(sealed) == random.Random(plain_bytes).randbytes(plain_bytes)


def test_an_empty_object_is_one_frame_of_tag() -> None:
    assert frame_count(0) == 1
    assert len(seal(b"")) == 16
    assert unseal(seal(b"")) == b""


def test_a_segment_is_256_frames() -> None:
    assert sealed_bytes(256 * FRAME_PLAIN_BYTES) == SEGMENT_BYTES_MAX


def test_ranges_sealed_one_by_one_are_the_whole() -> None:
    plain = random.Random(2).randbytes(5 * FRAME_PLAIN_BYTES + 77)
    out = bytearray(sealed_bytes(len(plain)))
    view = memoryview(out)
    cut = 3 * FRAME_PLAIN_BYTES
    written = seal_range(KEY, memoryview(plain)[:cut], 0, RangeEnd.OPEN, view)
    assert written == 3 * FRAME_BYTES
    seal_range(KEY, memoryview(plain)[cut:], 3, RangeEnd.LAST, view[written:])
    assert bytes(out) == seal(plain)
    assert unseal(bytes(out[FRAME_BYTES : 3 * FRAME_BYTES]), 1, RangeEnd.OPEN) == plain[FRAME_PLAIN_BYTES:cut]
    assert unseal(bytes(out[5 * FRAME_BYTES :]), 5) == plain[5 * FRAME_PLAIN_BYTES :]


def test_the_end_cannot_be_moved() -> None:
    sealed = seal(bytes(2 * FRAME_PLAIN_BYTES))
    with pytest.raises(UnsealError, match=r"^frame 0 is not what its key sealed$"):
        unseal(sealed[:FRAME_BYTES])
    with pytest.raises(UnsealError, match=r"^frame 1 is not what its key sealed$"):
        unseal(sealed, 0, RangeEnd.OPEN)


def test_frames_cannot_be_swapped_doubled_or_shifted() -> None:
    plain = random.Random(4).randbytes(3 * FRAME_PLAIN_BYTES)
    sealed = seal(plain)
    frames = [sealed[i * FRAME_BYTES : (i + 1) * FRAME_BYTES] for i in range(3)]
    for forged, number in (
        ([frames[1], frames[0], frames[2]], 0),
        ([frames[0], frames[0], frames[2]], 1),
        ([frames[1], frames[2]], 0),
    ):
        with pytest.raises(UnsealError, match=rf"^frame {number} is not what its key sealed$"):
            unseal(b"".join(forged))


def test_another_salt_parent_or_domain_does_not_open() -> None:
    others = (
        SealingKey(PARENT, SealingDomain.OBJECT, SealingSalt(bytes(32))),
        SealingKey(SecretKey(bytes(32)), SealingDomain.OBJECT, SALT),
        SealingKey(PARENT, SealingDomain.RECORD, SALT),
    )
    assert len({key.commitment for key in (KEY, *others)}) == 4
    for other in others:
        with pytest.raises(UnsealError):
            unseal(seal(b"plain"), sealing_key=other)


@pytest.mark.parametrize("length", [0, 1, 15, FRAME_BYTES + 1, FRAME_BYTES + 16, 2 * FRAME_BYTES + 15])
def test_lengths_that_no_sealing_has_are_refused(length: int) -> None:
    with pytest.raises(UnsealError, match=rf"^{length} bytes are not whole frames$"):
        plain_bytes_in(length)


def test_an_open_range_is_whole_frames() -> None:
    with pytest.raises(UnsealError, match=r"^21 bytes are not whole frames$"):
        unseal(seal(b"plain"), 0, RangeEnd.OPEN)
    with pytest.raises(AssertionError, match=r"^an open range has whole frames$"):
        seal_range(KEY, b"plain", 0, RangeEnd.OPEN, bytearray(100))
    with pytest.raises(AssertionError, match=r"^an open range has whole frames$"):
        seal_range(KEY, b"", 0, RangeEnd.OPEN, bytearray(100))
    with pytest.raises(AssertionError, match=r"^only an empty object has an empty frame$"):
        seal_range(KEY, b"", 1, RangeEnd.LAST, bytearray(100))


def test_a_short_target_is_our_bug() -> None:
    with pytest.raises(AssertionError, match=r"^20 bytes for 21$"):
        seal_range(KEY, b"plain", 0, RangeEnd.LAST, bytearray(20))
    with pytest.raises(AssertionError, match=r"^4 bytes for 5$"):
        unseal_range(KEY, seal(b"plain"), 0, RangeEnd.LAST, bytearray(4))


def test_secrets_never_show() -> None:
    shown = f"{PARENT!r} {PARENT} {KEY!r} {KEY}"
    assert repr(PARENT) == "SecretKey(redacted)"
    assert PARENT.reveal().hex()[:8] not in shown
    assert repr(PARENT.reveal())[2:10] not in shown
    assert repr(KEY) == f"SealingKey(salt={SALT.hex()[:16]}, key=redacted)"
    for leak in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError, match=r"^a secret key is not serialised"):
            leak(PARENT)
    with pytest.raises(TypeError):
        hash(PARENT)


def test_secrets_compare_by_value() -> None:
    assert SecretKey(bytes(range(32))) == PARENT
    assert SecretKey(bytes(32)) != PARENT
    assert PARENT.reveal() != PARENT


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_secret_has_32_bytes(length: int) -> None:
    with pytest.raises(UnsealError, match=rf"^a secret of {length} bytes, 32 expected$"):
        SecretKey(bytes(length))


@settings(max_examples=50)
@given(
    plain_bytes=st.one_of(st.sampled_from(EDGES), st.integers(0, 3 * FRAME_PLAIN_BYTES)),
    place=st.integers(min_value=0),
    bit=st.integers(0, 7),
)
def test_any_flipped_bit_is_noticed(plain_bytes: int, place: int, bit: int) -> None:
    sealed = bytearray(seal(bytes(plain_bytes)))
    sealed[place % len(sealed)] ^= 1 << bit
    with pytest.raises(UnsealError, match=rf"^frame {place % len(sealed) // FRAME_BYTES} is not what its key sealed$"):
        unseal(bytes(sealed))


@settings(max_examples=50)
@given(plain_bytes=st.integers(0, 4 * FRAME_PLAIN_BYTES), cut=st.integers(1, 2 * FRAME_BYTES))
def test_any_truncation_is_noticed(plain_bytes: int, cut: int) -> None:
    sealed = seal(bytes(plain_bytes))
    with pytest.raises(UnsealError):
        unseal(sealed[: max(0, len(sealed) - cut)])


@given(plain_bytes=st.integers(0, 5 * 1024**4))
def test_lengths_invert(plain_bytes: int) -> None:
    assert plain_bytes_in(sealed_bytes(plain_bytes)) == plain_bytes
