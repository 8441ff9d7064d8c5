"""Which bytes of an object a request wants (RFC 9110, section 14; one range, as S3 has it)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from node.gateway.errors import S3Code, S3Error

_RANGE: Final = re.compile(r"bytes=(\d{0,19})-(\d{0,19})\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes of an object, the last included."""

    first: int
    last: int

    @property
    def byte_count(self) -> int:
        """Return how many they are."""
        return self.last - self.first + 1


def read_range(text: str | None, plain_bytes: int) -> ByteRange | None:
    """Return the range that a header asks for; None for the whole object, also when the header is none of HTTP's.

    Raises:
        S3Error: InvalidRange when no byte of it exists.
    """
    found = None if text is None else _RANGE.match(text.strip().replace(" ", ""))
    if found is None or (not found[1] and not found[2]):
        return None
    if not found[1]:
        suffix = int(found[2])
        first, last = max(0, plain_bytes - suffix), plain_bytes - 1
        is_empty = suffix == 0
    else:
        first = int(found[1])
        last = min(int(found[2]), plain_bytes - 1) if found[2] else plain_bytes - 1
        if found[2] and int(found[2]) < first:
            return None
        is_empty = False
    if is_empty or first >= plain_bytes:
        raise S3Error(
            S3Code.INVALID_RANGE,
            fields={"ActualObjectSize": str(plain_bytes), "RangeRequested": (text or "")[:64]},
            headers=(("Content-Range", f"bytes */{plain_bytes}"),),
        )
    return ByteRange(first, last)


def read_copy_range(text: str, plain_bytes: int) -> ByteRange:
    """Return the range of a part's source, which must be written in full and lie within it.

    Raises:
        S3Error: InvalidArgument, InvalidRange.
    """
    found = _RANGE.match(text)
    if found is None or not found[1] or not found[2] or int(found[2]) < int(found[1]):
        raise S3Error(S3Code.INVALID_ARGUMENT, "The x-amz-copy-source-range value must be of the form bytes=first-last")
    if int(found[2]) >= plain_bytes:
        raise S3Error(S3Code.INVALID_RANGE, f"Range specified is not valid for source object of size: {plain_bytes}")
    return ByteRange(int(found[1]), int(found[2]))
