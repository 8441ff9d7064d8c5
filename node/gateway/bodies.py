"""A request's body on its way to a store: decoded, counted, hashed in threads, and judged at its end.

A body is a Source (node/client/upload.py): the store takes what it needs, and what it takes is hashed while the next
bytes arrive. What was wrong with the body is told by finish(), which the store calls through `NewVersion.details` once
it has read everything and before anything is committed: so a wrong checksum leaves nothing behind.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

import trio

from node.gateway.checksums import (
    ALGORITHM_OF_HEADER,
    Algorithm,
    algorithm_named,
    new_digest,
    read_digest,
    shown_digest,
)
from node.gateway.chunked import ChunkedBody
from node.gateway.errors import S3Code, S3Error
from node.gateway.signatures import Payload
from node.gateway.store import Checksum

if TYPE_CHECKING:
    from node.gateway.checksums import Digest
    from node.gateway.http_server import BodyReader
    from node.gateway.signatures import Authorization, RequestHead, Seal

OBJECT_BYTES_MAX: Final = 5 * 1024**3
"""Of one PUT or part, as in S3; larger objects come in parts."""
INLINE_BYTES_MAX: Final = 64 * 1024
"""Below this, hashing costs less than the way to a worker thread."""
DOCUMENT_BYTES_MAX: Final = 4 * 1024**2
"""10,000 parts of a CompleteMultipartUpload with checksums, 1,000 names of 1,024 bytes escaped."""
LENGTH_DIGITS_MAX: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyRules:
    """What a head says of its body."""

    payload: Payload
    sha256: str | None
    md5: bytes | None
    wire_bytes: int | None
    plain_bytes: int | None
    """None: not announced, which only bodies in HTTP's chunked coding may be."""
    algorithm: Algorithm | None
    digest: bytes | None
    """What the additional checksum must be; None when a trailer tells or nobody does."""
    trailer: str | None


UNCHUNKED: Final = frozenset({Payload.DIGEST, Payload.UNSIGNED})
"""Bodies as they are; all others come in chunks, and may have trailers."""


class BodyOf(Enum):
    """What the additional checksum in a head is about."""

    OBJECT = "the body"
    NOTHING_TOLD = "something else"


def read_rules(
    head: RequestHead, authorization: Authorization | None, wire_bytes: int | None, about: BodyOf = BodyOf.OBJECT
) -> BodyRules:
    """Read what a head announces of its body.

    Raises:
        S3Error: Malformed, or more than an object may have.
    """
    payload = Payload.UNSIGNED if authorization is None else authorization.payload
    is_chunked = payload not in UNCHUNKED
    plain_bytes = _announced_bytes(head) if is_chunked else wire_bytes
    if is_chunked and plain_bytes is None:
        raise S3Error(S3Code.MISSING_CONTENT_LENGTH, "x-amz-decoded-content-length is needed")
    if plain_bytes is not None and plain_bytes > OBJECT_BYTES_MAX:
        fields = {"ProposedSize": str(plain_bytes), "MaxSizeAllowed": str(OBJECT_BYTES_MAX)}
        raise S3Error(S3Code.ENTITY_TOO_LARGE, fields=fields)
    algorithm, digest, trailer = (
        (None, None, None) if about is BodyOf.NOTHING_TOLD else _announced_checksum(head, payload)
    )
    return BodyRules(
        payload=payload,
        sha256=authorization.payload_hash if authorization is not None and payload is Payload.DIGEST else None,
        md5=_announced_md5(head),
        wire_bytes=wire_bytes,
        plain_bytes=plain_bytes,
        algorithm=algorithm,
        digest=digest,
        trailer=trailer,
    )


class ObjectBody:
    """Implements Source over a request's body."""

    def __init__(self, reader: BodyReader, rules: BodyRules, seal: Seal | None) -> None:
        """Read from the wire by the rules of its head; the seal checks signed chunks."""
        self._reader = reader
        self._rules = rules
        is_chunked = rules.payload not in UNCHUNKED
        self._chunks = ChunkedBody(rules.payload, seal, rules.plain_bytes or 0) if is_chunked else None
        self._waiting: list[memoryview] = []
        self._waiting_bytes = 0
        self._received_bytes = 0
        self._is_over = False
        self._fault: S3Error | None = None
        self._trailers: tuple[tuple[str, str], ...] = ()
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._sha256 = hashlib.sha256() if rules.sha256 is not None else None
        self._extra: Digest | None = None if rules.algorithm is None else new_digest(rules.algorithm)
        self._unhashed: bytes = b""

    @property
    def plain_bytes(self) -> int:
        """Return how many bytes were given out."""
        return self._received_bytes - self._waiting_bytes

    @property
    def fault(self) -> S3Error | None:
        """Return what was wrong with the body so far."""
        return self._fault

    async def read(self, byte_count: int) -> bytes:
        """Return exactly that many bytes, fewer only at the end; hashes what was returned before meanwhile."""
        if len(self._unhashed) > INLINE_BYTES_MAX:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hash_in_threads)
                await self._gather(byte_count)
        else:
            self._hash_all(self._unhashed)
            await self._gather(byte_count)
        self._unhashed = piece = self._take(byte_count)
        if len(piece) < byte_count:
            await self._hash_in_threads() if len(piece) > INLINE_BYTES_MAX else self._hash_all(piece)
            self._unhashed = b""
        return piece

    async def read_document(self, bytes_max: int = DOCUMENT_BYTES_MAX) -> bytes:
        """Return all of a small body, checked.

        Raises:
            S3Error: Too long, or not what was announced.
        """
        found = await self.read(bytes_max + 1)
        if len(found) > bytes_max:
            raise S3Error(S3Code.MAX_MESSAGE)
        self.finish()
        return found

    def finish(self) -> tuple[str, Checksum | None]:
        """Return the MD5 in hex and the additional checksum, once everything was read.

        Raises:
            S3Error: What was wrong with the body.
        """
        if self._fault is not None:
            raise self._fault
        if not self._is_over or self._waiting_bytes:
            raise S3Error(S3Code.INCOMPLETE_BODY)
        rules = self._rules
        if rules.plain_bytes is not None and self._received_bytes != rules.plain_bytes:
            raise S3Error(S3Code.INCOMPLETE_BODY)
        if rules.md5 is not None and rules.md5 != self._md5.digest():
            raise S3Error(S3Code.BAD_DIGEST, "The Content-MD5 you specified did not match what we received.")
        if self._sha256 is not None and not hmac.compare_digest(self._sha256.hexdigest(), (rules.sha256 or "").lower()):
            raise S3Error(S3Code.SHA256_MISMATCH)
        return self._md5.hexdigest(), self._checked_extra()

    def _checked_extra(self) -> Checksum | None:
        algorithm = self._rules.algorithm
        if algorithm is None or self._extra is None:
            return None
        expected = self._rules.digest
        if self._rules.trailer is not None:
            text = next((text for name, text in self._trailers if name == self._rules.trailer), None)
            if text is None:
                raise S3Error(S3Code.MALFORMED_TRAILER, "the announced trailer is missing")
            expected = read_digest(algorithm, text)
        found = self._extra.digest()
        if expected is not None and expected != found:
            raise S3Error(
                S3Code.BAD_DIGEST, f"The {algorithm.shown} you specified did not match the calculated checksum."
            )
        return Checksum(algorithm=algorithm.shown, text=shown_digest(found))

    async def _gather(self, byte_count: int) -> None:
        """Receive until so many bytes wait, or the end; a fault ends the body, and finish() tells."""
        try:
            while self._waiting_bytes < byte_count and not self._is_over:
                await self._receive()
        except S3Error as error:
            self._fault = error
            self._is_over = True
            self._waiting, self._waiting_bytes = [], 0

    async def _receive(self) -> None:
        piece = await self._reader.read_some()
        if piece is None:
            self._is_over = True
            if self._chunks is not None:
                self._trailers = self._chunks.finish()
            return
        for carried in (piece,) if self._chunks is None else self._chunks.feed(piece):
            self._waiting.append(carried)
            self._waiting_bytes += len(carried)
            self._received_bytes += len(carried)
        if self._received_bytes > (OBJECT_BYTES_MAX if self._rules.plain_bytes is None else self._rules.plain_bytes):
            raise S3Error(S3Code.ENTITY_TOO_LARGE)

    def _take(self, byte_count: int) -> bytes:
        taken: list[memoryview] = []
        missing = byte_count
        while missing and self._waiting:
            piece = self._waiting.pop(0)
            if len(piece) > missing:
                self._waiting.insert(0, piece[missing:])
                piece = piece[:missing]
            taken.append(piece)
            missing -= len(piece)
        self._waiting_bytes -= byte_count - missing
        return b"".join(taken)

    def _hash_all(self, piece: bytes) -> None:
        for digest in self._digests():
            digest.update(piece)

    async def _hash_in_threads(self) -> None:
        async with trio.open_nursery() as nursery:
            for digest in self._digests():
                nursery.start_soon(trio.to_thread.run_sync, digest.update, self._unhashed)

    def _digests(self) -> tuple[Digest, ...]:
        return tuple(digest for digest in (self._md5, self._sha256, self._extra) if digest is not None)


def _announced_bytes(head: RequestHead) -> int | None:
    text = head.header("x-amz-decoded-content-length")
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > LENGTH_DIGITS_MAX:
        raise S3Error(S3Code.INVALID_ARGUMENT, "x-amz-decoded-content-length must be a whole number")
    return int(text)


def _announced_md5(head: RequestHead) -> bytes | None:
    text = head.header("content-md5")
    if text is None:
        return None
    try:
        found = base64.b64decode(text, validate=True)
    except ValueError:  # no base64, or no ASCII
        found = b""
    if len(found) != hashlib.md5(usedforsecurity=False).digest_size:
        raise S3Error(S3Code.INVALID_DIGEST, "The Content-MD5 you specified was invalid.")
    return found


def _announced_checksum(head: RequestHead, payload: Payload) -> tuple[Algorithm | None, bytes | None, str | None]:
    """Return the algorithm of the additional checksum, its value, and the trailer that tells it instead."""
    sent = [(name, text) for name, text in head.headers if name in ALGORITHM_OF_HEADER]
    if len(sent) > 1:
        raise S3Error(
            S3Code.INVALID_REQUEST,
            "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.",
        )
    trailer = (head.header("x-amz-trailer") or "").strip().lower() or None
    if trailer is not None and (trailer not in ALGORITHM_OF_HEADER or payload in UNCHUNKED):
        raise S3Error(S3Code.INVALID_REQUEST, "The value specified in the x-amz-trailer header is not supported")
    if sent and trailer is not None:
        raise S3Error(S3Code.INVALID_REQUEST, "Expecting a single x-amz-checksum- header")
    named = head.header("x-amz-sdk-checksum-algorithm")
    algorithm = None if named is None else algorithm_named(named)
    if sent:
        found = ALGORITHM_OF_HEADER[sent[0][0]]
        if algorithm not in {None, found}:
            raise S3Error(S3Code.INVALID_REQUEST, "Value for x-amz-sdk-checksum-algorithm header is invalid.")
        return found, read_digest(found, sent[0][1]), None
    if trailer is not None:
        return ALGORITHM_OF_HEADER[trailer], None, trailer
    return algorithm, None, None
