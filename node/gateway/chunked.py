"""Bodies in the aws-chunked coding: the bytes they carry, each chunk's signature, and what trails behind them.

    chunk    = hex length [";chunk-signature=" 64 hex] CR LF bytes CR LF
    body     = chunk* last-chunk [trailers] CR LF           (the last chunk has length 0 and no bytes)
    trailers = (name ":" value CR LF)+ ["x-amz-trailer-signature:" 64 hex CR LF]

    chunk's string to sign   = "AWS4-HMAC-SHA256-PAYLOAD" LF time LF scope LF previous signature LF
                               hex(SHA-256("")) LF hex(SHA-256(bytes))
    trailer's string to sign = "AWS4-HMAC-SHA256-TRAILER" LF time LF scope LF previous signature LF
                               hex(SHA-256((name ":" value LF)+))

The first previous signature is the head's. Bytes are given out as they come, before their chunk's signature was seen:
whoever takes them stores nothing for good until finish() has returned.

Source: Amazon S3 API Reference, "Transferring Payload in Multiple Chunks (Chunked Upload)".
"""

from __future__ import annotations

import hashlib
import hmac
import re
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from node.gateway.errors import S3Code, S3Error
from node.gateway.signatures import EMPTY_SHA256, Payload, sign_text

if TYPE_CHECKING:
    from node.gateway.signatures import Seal

CHUNK_HEAD_BYTES_MAX: Final = 256
"""A length, a signature and room for extensions that nobody sends."""
TRAILERS_BYTES_MAX: Final = 4 * 1024

_LENGTH: Final = re.compile(rb"[0-9a-fA-F]{1,10}\Z")
_SIGNATURE: Final = re.compile(rb"chunk-signature=([0-9a-f]{64})\Z")
_TRAILER_SIGNATURE: Final = "x-amz-trailer-signature"
_NAME: Final = re.compile(r"[a-z0-9-]{1,64}\Z")


class _Place(Enum):
    HEAD = auto()
    BYTES = auto()
    END_OF_BYTES = auto()
    TRAILERS = auto()
    END = auto()


class ChunkedBody:
    """Takes a body as it comes from the wire and gives the bytes that it carries."""

    def __init__(self, payload: Payload, seal: Seal | None, decoded_bytes: int) -> None:
        """Begin a body.

        Args:
            payload: One of the three chunked kinds.
            seal: Of the head; needed for signed chunks.
            decoded_bytes: What the body announces to carry.
        """
        assert payload not in {Payload.DIGEST, Payload.UNSIGNED}, "not a chunked body"
        self._is_signed = payload is not Payload.UNSIGNED_TRAILER
        self._has_trailers = payload is not Payload.SIGNED_CHUNKS
        assert seal is not None or not self._is_signed, "signed chunks need the seal of their head"
        self._seal = seal
        self._previous = "" if seal is None else seal.seed_signature
        self._missing = decoded_bytes
        self._place = _Place.HEAD
        self._line = bytearray()
        self._chunk_missing = 0
        self._chunk_signature = ""
        self._chunk_digest = hashlib.sha256()
        self._trailer_bytes = 0
        self._trailers: list[tuple[str, str]] = []

    def feed(self, piece: memoryview) -> list[memoryview]:
        """Return the carried bytes among the next bytes of the wire.

        Raises:
            S3Error: Malformed, more than announced, or a signature that is not the sender's.
        """
        carried: list[memoryview] = []
        while piece:
            if self._place is _Place.BYTES:
                taken = piece[: self._chunk_missing]
                piece = piece[len(taken) :]
                self._take_bytes(taken)
                carried.append(taken)
            elif self._place is _Place.END:
                raise S3Error(S3Code.INVALID_REQUEST, "bytes behind the last chunk")
            else:
                piece = self._take_line(piece)
        return carried

    def finish(self) -> tuple[tuple[str, str], ...]:
        """Return the trailers, names in lower case, once the wire has ended.

        Raises:
            S3Error: The body is not whole.
        """
        if self._place is not _Place.END or self._missing:
            raise S3Error(S3Code.INCOMPLETE_BODY)
        return tuple(self._trailers)

    def _take_bytes(self, taken: memoryview) -> None:
        self._chunk_missing -= len(taken)
        if self._is_signed:
            self._chunk_digest.update(taken)
        if self._chunk_missing == 0:
            self._check_chunk()
            self._place = _Place.END_OF_BYTES

    def _take_line(self, piece: memoryview) -> memoryview:
        """Gather a line, carry it out when it is whole, and return what is behind it."""
        line_end = bytes(piece[: CHUNK_HEAD_BYTES_MAX + TRAILERS_BYTES_MAX]).find(b"\n")
        taken = piece if line_end < 0 else piece[: line_end + 1]
        limit = TRAILERS_BYTES_MAX if self._place is _Place.TRAILERS else CHUNK_HEAD_BYTES_MAX
        if len(self._line) + len(taken) > limit:
            raise S3Error(S3Code.INVALID_REQUEST, "a line of the chunked body is too long")
        self._line += taken
        if line_end < 0:
            return piece[len(taken) :]
        if not self._line.endswith(b"\r\n"):
            raise S3Error(S3Code.INVALID_REQUEST, "lines of a chunked body end in CR LF")
        line = bytes(self._line[:-2])
        self._line.clear()
        self._on_line(line)
        return piece[len(taken) :]

    def _on_line(self, line: bytes) -> None:
        if self._place is _Place.HEAD:
            self._on_head(line)
        elif self._place is _Place.END_OF_BYTES:
            if line:
                raise S3Error(S3Code.INVALID_REQUEST, "a chunk is longer than it says")
            self._place = _Place.HEAD
        elif line:
            self._on_trailer(line)
        else:
            self._check_trailers()
            self._place = _Place.END

    def _on_head(self, line: bytes) -> None:
        length, _, extension = line.partition(b";")
        signature = _SIGNATURE.match(extension)
        if not _LENGTH.match(length) or (signature is None) is self._is_signed or (extension and not self._is_signed):
            raise S3Error(S3Code.INVALID_REQUEST, "a chunk's head is malformed")
        self._chunk_missing = int(length, 16)
        self._chunk_signature = "" if signature is None else signature[1].decode()
        self._chunk_digest = hashlib.sha256()
        if self._chunk_missing > self._missing:
            raise S3Error(S3Code.INCOMPLETE_BODY, "the chunks hold more than x-amz-decoded-content-length")
        self._missing -= self._chunk_missing
        if self._chunk_missing:
            self._place = _Place.BYTES
            return
        self._check_chunk()
        self._place = _Place.TRAILERS

    def _on_trailer(self, line: bytes) -> None:
        self._trailer_bytes += len(line)
        if not self._has_trailers or self._trailer_bytes > TRAILERS_BYTES_MAX:
            raise S3Error(S3Code.MALFORMED_TRAILER)
        name, separator, text = line.decode("latin-1").partition(":")
        name = name.strip().lower()
        if not separator or not _NAME.match(name) or any(known == name for known, _ in self._trailers):
            raise S3Error(S3Code.MALFORMED_TRAILER)
        self._trailers.append((name, text.strip()))

    def _check_chunk(self) -> None:
        if self._seal is None or not self._is_signed:
            return
        text = (
            f"AWS4-HMAC-SHA256-PAYLOAD\n{self._seal.time}\n{self._seal.scope}\n{self._previous}\n"
            f"{EMPTY_SHA256}\n{self._chunk_digest.hexdigest()}"
        )
        expected = sign_text(self._seal.signing_key, text.encode())
        if not hmac.compare_digest(expected, self._chunk_signature):
            raise S3Error(S3Code.SIGNATURE_MISMATCH)
        self._previous = expected

    def _check_trailers(self) -> None:
        """Take the trailers' signature off and check it; an unsigned body has none."""
        if not self._is_signed or not self._has_trailers or self._seal is None:
            return
        signatures = [text for name, text in self._trailers if name == _TRAILER_SIGNATURE]
        self._trailers = [(name, text) for name, text in self._trailers if name != _TRAILER_SIGNATURE]
        if not signatures:
            raise S3Error(S3Code.MALFORMED_TRAILER, "the trailers carry no signature")
        canonical = "".join(f"{name}:{text}\n" for name, text in self._trailers)
        digest = hashlib.sha256(canonical.encode("latin-1")).hexdigest()
        text = f"AWS4-HMAC-SHA256-TRAILER\n{self._seal.time}\n{self._seal.scope}\n{self._previous}\n{digest}"
        expected = sign_text(self._seal.signing_key, text.encode())
        if not hmac.compare_digest(expected.encode(), signatures[0].encode()):
            raise S3Error(S3Code.SIGNATURE_MISMATCH)
