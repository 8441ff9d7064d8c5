"""Chunked bodies: what they carry comes out whatever the cuts, and nothing else does."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.gateway.access_keys import AccessSecret
from node.gateway.chunked import ChunkedBody
from node.gateway.errors import S3Error
from node.gateway.signatures import EMPTY_SHA256, Payload, Scope, Seal, derive_signing_key, sign_text

SCOPE = Scope(date="20261125", region="grand-est")
SIGNING_KEY = derive_signing_key(AccessSecret(b"s" * 40), SCOPE)
SEAL = Seal(signing_key=SIGNING_KEY, scope=SCOPE, time="20261125T080000Z", seed_signature="0" * 64)
PIECES = st.lists(st.binary(min_size=1, max_size=200), max_size=6)
TRAILERS = st.dictionaries(
    st.from_regex(r"x-amz-checksum-[a-z0-9]{1,8}", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9+/=]{1,20}", fullmatch=True),
    max_size=2,
)
SIGNED = [Payload.SIGNED_CHUNKS, Payload.SIGNED_CHUNKS_TRAILER]


def wire_of(pieces: list[bytes], trailers: dict[str, str], payload: Payload) -> bytes:
    """The body as the specification has it, written anew for the test."""
    wire, previous = b"", SEAL.seed_signature
    is_signed = payload in SIGNED
    for piece in [*pieces, b""]:
        digest = hashlib.sha256(piece).hexdigest()
        text = f"AWS4-HMAC-SHA256-PAYLOAD\n{SEAL.time}\n{SCOPE}\n{previous}\n{EMPTY_SHA256}\n{digest}"
        previous = sign_text(SIGNING_KEY, text.encode())
        extension = f";chunk-signature={previous}" if is_signed else ""
        wire += f"{len(piece):x}{extension}\r\n".encode() + piece + (b"\r\n" if piece else b"")
    if payload is not Payload.SIGNED_CHUNKS:
        wire += "".join(f"{name}:{text}\r\n" for name, text in trailers.items()).encode()
        if is_signed:
            canonical = "".join(f"{name}:{text}\n" for name, text in trailers.items())
            digest = hashlib.sha256(canonical.encode()).hexdigest()
            text = f"AWS4-HMAC-SHA256-TRAILER\n{SEAL.time}\n{SCOPE}\n{previous}\n{digest}"
            wire += f"x-amz-trailer-signature:{sign_text(SIGNING_KEY, text.encode())}\r\n".encode()
    return wire + b"\r\n"


def carried(
    wire: bytes, payload: Payload, decoded_bytes: int, cut: int = 7
) -> tuple[bytes, tuple[tuple[str, str], ...]]:
    body = ChunkedBody(payload, SEAL, decoded_bytes)
    found = b""
    for start in range(0, len(wire), cut):
        found += b"".join(body.feed(memoryview(wire[start : start + cut])))
    return found, body.finish()


@given(PIECES, TRAILERS, st.sampled_from([*SIGNED, Payload.UNSIGNED_TRAILER]), st.integers(1, 300))
def test_what_was_put_into_chunks_comes_out(
    pieces: list[bytes], trailers: dict[str, str], payload: Payload, cut: int
) -> None:
    wire = wire_of(pieces, trailers, payload)
    expected = () if payload is Payload.SIGNED_CHUNKS else tuple(trailers.items())
    assert carried(wire, payload, len(b"".join(pieces)), cut) == (b"".join(pieces), expected)


@given(PIECES, TRAILERS, st.sampled_from(SIGNED), st.data())
def test_one_changed_byte_of_a_signed_body_is_noticed(
    pieces: list[bytes], trailers: dict[str, str], payload: Payload, draw: st.DataObject
) -> None:
    wire = bytearray(wire_of(pieces, trailers, payload))
    place = draw.draw(st.integers(0, len(wire) - 1))
    wire[place] ^= draw.draw(st.integers(1, 255))
    try:
        found = carried(bytes(wire), payload, len(b"".join(pieces)))
    except S3Error:
        return
    # Only how a length or a trailer's name is written may change without changing what it says.
    assert found == carried(wire_of(pieces, trailers, payload), payload, len(b"".join(pieces)))


@given(PIECES, st.sampled_from([*SIGNED, Payload.UNSIGNED_TRAILER]), st.data())
def test_a_body_that_ends_early_is_incomplete(pieces: list[bytes], payload: Payload, draw: st.DataObject) -> None:
    wire = wire_of(pieces, {}, payload)
    with pytest.raises(S3Error):
        carried(wire[: draw.draw(st.integers(0, len(wire) - 1))], payload, len(b"".join(pieces)))


@given(PIECES.filter(bool), st.sampled_from([*SIGNED, Payload.UNSIGNED_TRAILER]), st.sampled_from([-1, 1]))
def test_another_length_than_announced_is_refused(pieces: list[bytes], payload: Payload, difference: int) -> None:
    with pytest.raises(S3Error):
        carried(wire_of(pieces, {}, payload), payload, len(b"".join(pieces)) + difference)


@given(st.binary(max_size=400), st.sampled_from([*SIGNED, Payload.UNSIGNED_TRAILER]))
def test_any_bytes_are_refused_or_read_and_nothing_else_happens(wire: bytes, payload: Payload) -> None:
    with pytest.raises(S3Error):
        carried(wire, payload, 1_000)


def test_chunks_in_another_order_are_refused() -> None:
    wire = wire_of([b"a", b"b"], {}, Payload.SIGNED_CHUNKS)
    first, second, rest = wire[:87], wire[87:174], wire[174:]
    with pytest.raises(S3Error, match="signature"):
        carried(second + first + rest, Payload.SIGNED_CHUNKS, 2)
