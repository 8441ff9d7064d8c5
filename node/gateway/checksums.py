"""Additional checksums of S3: CRC32, CRC32C, CRC64NVME, SHA1 and SHA256, of whole objects and of objects in parts.

A part's checksum is of its bytes. An object in parts has either a checksum of all its bytes (FULL_OBJECT: CRCs alone,
combined from the parts' without reading a byte) or one of its parts' checksums (COMPOSITE: any but CRC64NVME).
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

import google_crc32c
from awscrt import checksums as crt

from consensus.identifiers import Buffer
from node.gateway.errors import S3Code, S3Error

if TYPE_CHECKING:
    from collections.abc import Sequence


class Algorithm(Enum):
    """An algorithm, the bytes of its digest, and whether objects in parts may have it of all their bytes."""

    CRC32 = ("CRC32", 4, True)
    CRC32C = ("CRC32C", 4, True)
    CRC64NVME = ("CRC64NVME", 8, True)
    SHA1 = ("SHA1", 20, False)
    SHA256 = ("SHA256", 32, False)

    def __init__(self, shown: str, digest_bytes: int, combines: bool) -> None:  # noqa: FBT001 (a table)
        self.shown = shown
        self.digest_bytes = digest_bytes
        self.combines = combines

    @property
    def header(self) -> str:
        """Return the header that carries it."""
        return f"x-amz-checksum-{self.shown.lower()}"


class Composition(Enum):
    """What the checksum of an object in parts is of."""

    FULL_OBJECT = "FULL_OBJECT"
    COMPOSITE = "COMPOSITE"


ALGORITHM_OF_HEADER: Final = {algorithm.header: algorithm for algorithm in Algorithm}


class Digest(Protocol):
    """Something that takes bytes and gives their digest."""

    def update(self, piece: Buffer, /) -> None:
        """Take the next bytes."""
        ...

    def digest(self) -> bytes:
        """Return the digest of all bytes so far."""
        ...


class _Crc:
    """A CRC as a Digest."""

    def __init__(self, algorithm: Algorithm) -> None:
        self._algorithm = algorithm
        self._crc = 0

    def update(self, piece: Buffer, /) -> None:
        match self._algorithm:
            case Algorithm.CRC32:
                self._crc = zlib.crc32(piece, self._crc)
            case Algorithm.CRC32C:
                self._crc = google_crc32c.extend(self._crc, bytes(piece))
            case _:
                self._crc = crt.crc64nvme(bytes(piece), self._crc)

    def digest(self) -> bytes:
        return self._crc.to_bytes(self._algorithm.digest_bytes, "big")


def new_digest(algorithm: Algorithm) -> Digest:
    """Return a fresh digest."""
    match algorithm:
        case Algorithm.SHA1:
            return hashlib.sha1(usedforsecurity=False)
        case Algorithm.SHA256:
            return hashlib.sha256()
        case _:
            return _Crc(algorithm)


def algorithm_named(name: str) -> Algorithm:
    """Return an algorithm by S3's name.

    Raises:
        S3Error: InvalidRequest for one that is none of them.
    """
    for algorithm in Algorithm:
        if algorithm.shown == name.upper():
            return algorithm
    known = ", ".join(algorithm.shown for algorithm in Algorithm)
    raise S3Error(S3Code.INVALID_REQUEST, f"Checksum algorithm provided is unsupported. Please try any of [{known}]")


def read_digest(algorithm: Algorithm, text: str) -> bytes:
    """Return the digest that a header or trailer announces.

    Raises:
        S3Error: BadDigest for what is no base64 of its length.
    """
    try:
        found = base64.b64decode(text, validate=True)
    except ValueError:  # no base64, or no ASCII
        found = b""
    if len(found) != algorithm.digest_bytes:
        raise S3Error(S3Code.BAD_DIGEST, f"Value for {algorithm.header} header is invalid.")
    return found


def shown_digest(digest: bytes) -> str:
    """Return a digest as S3 writes it."""
    return base64.b64encode(digest).decode()


def combined(algorithm: Algorithm, parts: Sequence[tuple[bytes, int]]) -> bytes:
    """Return the CRC of parts one after the other, from the CRC and the length of each."""
    combine = {
        Algorithm.CRC32: crt.combine_crc32,
        Algorithm.CRC32C: crt.combine_crc32c,
        Algorithm.CRC64NVME: crt.combine_crc64nvme,
    }[algorithm]
    crc = int.from_bytes(parts[0][0], "big")
    for digest, byte_count in parts[1:]:
        crc = combine(crc, int.from_bytes(digest, "big"), byte_count)
    return crc.to_bytes(algorithm.digest_bytes, "big")


def composite(algorithm: Algorithm, digests: Sequence[bytes]) -> str:
    """Return the checksum of parts' checksums as S3 writes it."""
    total = new_digest(algorithm)
    total.update(b"".join(digests))
    return f"{shown_digest(total.digest())}-{len(digests)}"


def default_composition(algorithm: Algorithm) -> Composition:
    """Return what an object in parts gets when nothing was said: S3's defaults."""
    return Composition.FULL_OBJECT if algorithm is Algorithm.CRC64NVME else Composition.COMPOSITE
