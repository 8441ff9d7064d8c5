"""What a member signs when it asks another for leaves: the holder keeps it, and anybody can see who read what of whom.

A seat that stores nothing can still answer a verifier: it fetches k leaves of others' columns and decodes its own
(possession.py, limits). So members sign for what they read of each other, and what they signed shows it afterwards.

    signed = sign_bytes(READ, genesis hash, canonical [holder's network key, time_ms, ranges])

signed by the reader's network key, which the chain names. Pure.

Rules
- S65 Receipt. A holder serves leaves to a member only against its signature over holder, time and ranges, no more than
  a minute off the holder's clock. Granted clients sign nothing: they hold no columns.
- S66 Kept. Each holder keeps what members signed for four epochs, at most READER_BYTES_MAX of each in one; who has used
  that up is refused (QUEUE_FULL) until the next. So nobody washes out what it has read by reading more.
- S67 Compared. Leaves of k columns at one position give the leaf of any other there. A seat that reads k within a
  minute, of a segment whose column it has vouched for, and neither of them whole, rebuilds a leaf that it has vouched
  for. Verifiers ask one or a few columns; FETCHED_MIN such leaves are no chance. Whole columns are repairs and moves,
  and are counted apart.

Limits: holders that collude with the reader hide what it signed for; of a segment of one leaf a column every read is a
whole one.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta

from consensus.encoding import Record, decode, encode
from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import HASH, SIGNATURE, TIME, GenesisHash, Milliseconds, PublicKey, Signature
from consensus.signing import Domain, check_signature, sign_bytes
from storage.identifiers import COLUMN, LEAF_BYTES, SEGMENT, SEGMENT_BYTES_MAX, ColumnIndex, SegmentId

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from consensus.signing import SignatureCheck, SigningKey

LEAVES_PER_READ_MAX: Final = 64
"""1 MiB."""
RANGES_PER_READ_MAX: Final = 16
RECEIPT_DRIFT_MS: Final = 60_000
SPANS_KEPT: Final = 4
"""The epoch that runs and three before it: what one disputes is asked in the next, and told in the third."""
FETCHED_MIN: Final = 9
"""A tenth of what one verifier asks: a seat that has dropped a tenth rebuilds three times as many in each epoch."""
FETCHED_MS: Final = 60_000
"""A verifier waits no longer for an answer."""
READER_BYTES_MAX: Final = 16 * 1024 * 1024
"""Of one reader in one epoch, some 70,000 receipts: of 1 MiB each more than a link of 900 Mbit/s carries in it."""
RECEIPT_BYTES_MAX: Final = 2_048
"""Sixteen ranges of 45 bytes, two keys and a signature are 900."""

_LEAF = Meta(ge=0, le=SEGMENT_BYTES_MAX // LEAF_BYTES - 1)
_LEAF_COUNT = Meta(ge=1, le=LEAVES_PER_READ_MAX)


class LeafRange(Record):
    """Consecutive leaves of a shard."""

    segment_id: Annotated[SegmentId, SEGMENT]
    column: Annotated[ColumnIndex, COLUMN]
    first_leaf: Annotated[int, _LEAF]
    leaf_count: Annotated[int, _LEAF_COUNT]


LeafRanges = Annotated[tuple[LeafRange, ...], Meta(min_length=1, max_length=RANGES_PER_READ_MAX)]


class SignedRead(Record):
    """What travels with a member's question for leaves; the question itself is what it is about."""

    time_ms: Annotated[Milliseconds, TIME]
    signature: Annotated[Signature, SIGNATURE]


class ReadReceipt(Record):
    """A member's signature that it asked a holder for leaves, as the holder keeps it."""

    reader: Annotated[PublicKey, HASH]
    holder: Annotated[PublicKey, HASH]
    time_ms: Annotated[Milliseconds, TIME]
    ranges: LeafRanges
    signature: Annotated[Signature, SIGNATURE]


class _Statement(Record):
    holder: Annotated[PublicKey, HASH]
    time_ms: Annotated[Milliseconds, TIME]
    ranges: LeafRanges


def sign_read(
    network_key: SigningKey,
    genesis_hash: GenesisHash,
    *,
    holder: PublicKey,
    time_ms: Milliseconds,
    ranges: Sequence[LeafRange],
) -> SignedRead:
    """Return a member's signature for a question about these leaves of one holder."""
    message = _sign_bytes(genesis_hash, holder, time_ms, tuple(ranges))
    return SignedRead(time_ms=time_ms, signature=network_key.sign(message))


def check_read(receipt: ReadReceipt, genesis_hash: GenesisHash, check: SignatureCheck = check_signature) -> None:
    """Refuse a receipt that its reader did not sign by RejectionError(BAD_SIGNATURE)."""
    message = _sign_bytes(genesis_hash, receipt.holder, receipt.time_ms, receipt.ranges)
    check(receipt.reader, message, receipt.signature)


def check_read_time(receipt: ReadReceipt, now_ms: Milliseconds) -> None:
    """Refuse one that is not of this minute by RejectionError(TOO_LATE): nobody uses a receipt twice, or later."""
    if abs(receipt.time_ms - now_ms) > RECEIPT_DRIFT_MS:
        raise RejectionError(RejectionReason.TOO_LATE, f"signed {(now_ms - receipt.time_ms) / 1_000:.0f} s ago")


def decode_read(encoded: bytes) -> ReadReceipt:
    """Read a kept receipt or raise RejectionError(OVERSIZED, MALFORMED, NOT_CANONICAL)."""
    return decode(encoded, ReadReceipt, bytes_max=RECEIPT_BYTES_MAX)


@dataclass(slots=True)
class ReaderTally:
    """What one reader has asked of all holders."""

    questions: int = 0
    leaves: int = 0
    """Each as often as it was asked for."""
    segments_rebuilt: int = 0
    """Of which it has read k whole columns: repairs, and moves of what is live no more."""
    leaves_rebuilt: int = 0
    """Of its own columns of live segments: positions at which it has read k others, of which it did not read all."""

    @property
    def fetches_its_answers(self) -> bool:
        """Say whether this is no chance."""
        return self.leaves_rebuilt >= FETCHED_MIN


@dataclass(slots=True)
class ReadAudit:
    """Receipts of one reader, compared with what it has vouched for (S67)."""

    questions: int = 0
    leaves: int = 0
    _columns: dict[SegmentId, dict[ColumnIndex, dict[int, Milliseconds]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(dict))
    )
    """When each leaf was asked for last."""

    def add(self, receipt: ReadReceipt) -> None:
        """Note a checked receipt."""
        self.questions += 1
        for part in receipt.ranges:
            leaves = range(part.first_leaf, part.first_leaf + part.leaf_count)
            self._columns[part.segment_id][part.column].update(dict.fromkeys(leaves, receipt.time_ms))
            self.leaves += part.leaf_count

    def segment_ids(self) -> tuple[SegmentId, ...]:
        """Return the segments of which anything was read."""
        return tuple(self._columns)

    def tally(self, live: Iterable[tuple[SegmentId, int, int, ColumnIndex | None]]) -> ReaderTally:
        """Return what it comes to.

        Args:
            live: Of segment_ids() those that live: k, leaves of a column, and the reader's own column if it has vouched
                for it.
        """
        found = ReaderTally(questions=self.questions, leaves=self.leaves)
        for segment_id, k, leaves, own in live:
            others = [read for column, read in self._columns[segment_id].items() if column != own]
            if sum(len(read) == leaves for read in others) >= k:
                found.segments_rebuilt += 1
            elif own is not None:
                found.leaves_rebuilt += _rebuilt([read for read in others if len(read) < leaves], k)
        return found


def _rebuilt(columns: Sequence[Mapping[int, Milliseconds]], k: int) -> int:
    """Return at how many positions k columns were read within FETCHED_MS."""
    times: dict[int, list[Milliseconds]] = defaultdict(list)
    for read in columns:
        for position, time_ms in read.items():
            times[position].append(time_ms)
    return sum(_has_burst(sorted(read), k) for read in times.values())


def _has_burst(times: Sequence[Milliseconds], k: int) -> bool:
    return any(times[i + k - 1] - times[i] <= FETCHED_MS for i in range(len(times) - k + 1))


def _sign_bytes(
    genesis_hash: GenesisHash, holder: PublicKey, time_ms: Milliseconds, ranges: tuple[LeafRange, ...]
) -> bytes:
    statement = _Statement(holder=holder, time_ms=time_ms, ranges=ranges)
    return sign_bytes(Domain.READ, genesis_hash, encode(statement))
