"""Canonical MessagePack: one value, one byte string.

Records are arrays of their fields in order; a member of a union carries its tag first. No maps, no floats.
Decoding is bounded, typed and strict: decode, check every field, encode again, compare (docs/formats.md, rule E1).
msgspec does so for every message; an audit asks msgpack as well, so that the form rests on no single library.
"""

from __future__ import annotations

from functools import cache
from threading import Lock
from typing import Final, TypeVar, cast, dataclass_transform

import msgpack
import msgspec

from consensus.errors import RejectionError, RejectionReason


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """Base of everything that is encoded: frozen, its fields an array in order of definition."""


RecordT = TypeVar("RecordT", bound=Record)

_ENCODER: Final = msgspec.msgpack.Encoder()
_BUILDING: Final = Lock()
"""Held while a decoder is made: msgspec 0.22 shows the half-read fields of a record to decoders that other threads make
of records around it, and reading with such a decoder ends the process (a null type)."""


def encode(record: Record) -> bytes:
    """Return the one encoding of a record."""
    return _ENCODER.encode(record)


def decode(encoded: bytes, record_type: type[RecordT], *, bytes_max: int) -> RecordT:
    """Read a record of the given type (a class or a tagged union) or refuse it by reason.

    Raises:
        RejectionError: OVERSIZED, MALFORMED or NOT_CANONICAL.
    """
    if len(encoded) > bytes_max:
        raise RejectionError(RejectionReason.OVERSIZED, f"{len(encoded)} bytes, at most {bytes_max}")
    try:
        record = cast("RecordT", _decoder(record_type).decode(encoded))
    except (ValueError, RecursionError, msgspec.DecodeError) as error:
        raise RejectionError(RejectionReason.MALFORMED, str(error)[:200]) from error
    if encode(record) != encoded:
        raise RejectionError(RejectionReason.NOT_CANONICAL, "another encoding of the same value")
    return record


def check_second_opinion(encoded: bytes) -> None:
    """Refuse bytes that msgpack, a library of its own, would write otherwise; for whoever audits, not for each message.

    Raises:
        RejectionError: MALFORMED or NOT_CANONICAL.
    """
    try:
        again = msgpack.packb(msgpack.unpackb(encoded, use_list=False, max_map_len=0))
    except (ValueError, msgpack.UnpackException) as error:
        raise RejectionError(RejectionReason.MALFORMED, f"msgpack cannot read it: {error}"[:200]) from error
    if again != encoded:
        raise RejectionError(RejectionReason.NOT_CANONICAL, "msgpack writes the same value otherwise")


@cache
def _decoder(record_type: type[Record]) -> msgspec.msgpack.Decoder[Record]:
    """Return the decoder of a type; there are as many as record types in the program."""
    with _BUILDING:
        return msgspec.msgpack.Decoder(record_type)
