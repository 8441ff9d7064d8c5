"""Bytes that move from old segments into a new one: what a block says of it, and what members sign.

A segment written with a smaller k while sites were down is coded again with the full one; what is alive in packs with
dead bytes is gathered in a new segment. Either way bytes move unopened, so members do it and need no key:

    new segment's bytes   = the ranges, joined in order
    voucher               = a member's signature that it read the ranges, coded them, and found these roots
    signed                = sign_bytes(MOVE, genesis hash, encoded Move)

The rules stand in ledger_moves.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta

from consensus.encoding import Record, encode
from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import HASH, SIGNATURE, GenesisHash, PublicKey, Signature
from consensus.signing import Domain, SigningKey, check_signature, sign_bytes
from storage.identifiers import (
    COLUMNS_MAX,
    ROOT,
    SEAT,
    SEGMENT,
    SEGMENT_BYTES,
    SEGMENT_BYTES_MAX,
    TAG,
    TENANT,
    VERSION,
    BucketTag,
    NameTag,
    RecordAddress,
    SeatIndex,
    SegmentId,
    ShardRoot,
    TenantId,
    VersionId,
)
from storage.receipts import Receipt

if TYPE_CHECKING:
    from collections.abc import Iterable

RANGES_MAX: Final = 2_048
"""Of one move, about 45 bytes each: live bytes of packs lie in few stretches, at worst one an object of 8 KB."""
MOVED_ENTRIES_MAX: Final = 8_192
"""About 90 bytes each; with the ranges under the 1 MiB of a transaction."""


class MovedRange(Record):
    """Bytes of an old segment that stand in the new one behind those of the range before."""

    segment_id: Annotated[SegmentId, SEGMENT]
    offset: Annotated[int, Meta(ge=0, le=SEGMENT_BYTES_MAX)]
    range_bytes: Annotated[int, SEGMENT_BYTES]


class MovedEntry(Record):
    """A version whose references move; if it has another record by then, they stay."""

    bucket_tag: Annotated[BucketTag, TAG]
    name_tag: Annotated[NameTag, TAG]
    version_id: Annotated[VersionId, VERSION]
    record_address: Annotated[RecordAddress, HASH]


class Move(Record):
    """A new segment and the bytes that it is made of: what vouchers are signed over."""

    tenant: Annotated[TenantId, TENANT]
    segment_id: Annotated[SegmentId, SEGMENT]
    k: Annotated[int, Meta(ge=1, le=COLUMNS_MAX)]
    segment_bytes: Annotated[int, SEGMENT_BYTES]
    roots: Annotated[tuple[Annotated[ShardRoot, ROOT], ...], Meta(min_length=1, max_length=COLUMNS_MAX)]
    ranges: Annotated[tuple[MovedRange, ...], Meta(min_length=1, max_length=RANGES_MAX)]


class Voucher(Record):
    """A member's word that it recomputed all roots of a move."""

    seat: Annotated[SeatIndex, SEAT]
    signature: Annotated[Signature, SIGNATURE]


class ReplaceSegment(Record, tag=40):
    """References of entries move to a new segment, vouched for by members and stored by all its holders."""

    move: Move
    entries: Annotated[tuple[MovedEntry, ...], Meta(min_length=1, max_length=MOVED_ENTRIES_MAX)]
    receipts: Annotated[tuple[Receipt, ...], Meta(max_length=64)]
    vouchers: Annotated[tuple[Voucher, ...], Meta(max_length=64)]

    @property
    def tenant(self) -> TenantId:
        """Return whose bytes move."""
        return self.move.tenant


def sign_move(signing_key: SigningKey, genesis_hash: GenesisHash, seat: SeatIndex, move: Move) -> Voucher:
    """Return a member's voucher for a move whose roots it has recomputed."""
    return Voucher(seat=seat, signature=signing_key.sign(sign_bytes(Domain.MOVE, genesis_hash, encode(move))))


def check_voucher(voucher: Voucher, genesis_hash: GenesisHash, move: Move, public_key: PublicKey) -> None:
    """Refuse a voucher that its seat did not sign by RejectionError(BAD_SIGNATURE)."""
    check_signature(public_key, sign_bytes(Domain.MOVE, genesis_hash, encode(move)), voucher.signature)


def check_ranges(move: Move) -> None:
    """Refuse a move whose ranges are not as long as its segment together, or overlap, by RejectionError(MALFORMED)."""
    moved_bytes = sum(part.range_bytes for part in move.ranges)
    if moved_bytes != move.segment_bytes:
        detail = f"ranges of {moved_bytes} bytes for a segment of {move.segment_bytes}"
        raise RejectionError(RejectionReason.MALFORMED, detail)
    ends: dict[SegmentId, int] = {}
    for part in sorted(move.ranges, key=lambda part: (part.segment_id, part.offset)):
        if part.offset < ends.get(part.segment_id, 0):
            raise RejectionError(RejectionReason.MALFORMED, f"byte {part.offset} of a segment moves twice")
        ends[part.segment_id] = part.offset + part.range_bytes


def old_segments(ranges: Iterable[MovedRange]) -> tuple[SegmentId, ...]:
    """Return the segments that bytes leave, each once, in order of first mention."""
    return tuple(dict.fromkeys(part.segment_id for part in ranges))
