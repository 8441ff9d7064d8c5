"""What blocks may say about storage: the envelope, its bodies, and their bounds.

Envelope: version, sender, sequence, last height, body; the body's tag is its kind. The signature covers domain tag,
genesis hash and envelope. Replay: the ledger keeps a sender's last SEQUENCES_KEPT sequence numbers; a new one must be
none of them and, once that many are kept, above the lowest. So one sender may have that many in flight, in any order.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta

from consensus.blocks import TRANSACTION_BYTES_MAX
from consensus.encoding import Record, decode, encode
from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import (
    HASH,
    HEIGHT,
    SIGNATURE,
    GenesisHash,
    Height,
    PublicKey,
    Signature,
    TransactionId,
)
from consensus.signing import Domain, SignatureMaker, domain_hash, sign_bytes
from storage.audits import SeatDuty
from storage.broken_codes import CodeDuty
from storage.buckets import BucketChange, EntryDetails, NewBucket
from storage.identifiers import (
    CERTIFICATE_BYTES_MAX,
    COLUMNS_MAX,
    ROOT,
    SEGMENT,
    SEGMENT_BYTES,
    SEGMENT_BYTES_MAX,
    TAG,
    TENANT,
    VERSION,
    BucketTag,
    NameTag,
    RecordAddress,
    SegmentId,
    ShardRoot,
    TenantId,
    VersionId,
)
from storage.moves import ReplaceSegment
from storage.receipts import Receipt
from storage.seat_changes import SeatChange
from storage.tenant_changes import TenantChange, TenantRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

TRANSACTION_VERSION: Final = 1
SEQUENCES_KEPT: Final = 64
SEGMENTS_MAX: Final = 2_048
"""Per transaction: 2,048 x about 340 bytes stay under TRANSACTION_BYTES_MAX with their receipts."""
ENTRIES_MAX: Final = 8_192
"""Per transaction and over all its buckets: 8,192 x 80 bytes."""
REFERENCES_MAX: Final = 10_240
"""Of one entry: 10,000 parts of up to a segment each, 460 KB; an object of up to 160 GiB."""
NEW_BUCKETS_MAX: Final = 64
SMALL_BYTES_MAX: Final = 4 * 1024
SMALL_REMEMBERED_MAX: Final = 1_024
LARGE_REMEMBERED_MAX: Final = 4
"""Read transactions that are kept: 4 MiB of small ones, 4 MiB of large ones at most, times what Python adds."""

Sequence = Annotated[int, Meta(ge=0, le=2**53 - 1)]


class Extent(Record, tag=0):
    """Part of an entry: the next `extent_bytes` of this transaction's segment `segment`.

    Extents of one segment follow each other in the order of the transaction's entries, so that no offset is written.
    """

    segment: Annotated[int, Meta(ge=0, le=SEGMENTS_MAX - 1)]
    extent_bytes: Annotated[int, Meta(ge=1, le=SEGMENT_BYTES_MAX)]


class StoredExtent(Record, tag=1):
    """Part of an entry in a segment committed earlier, by the same tenant."""

    segment_id: Annotated[SegmentId, SEGMENT]
    offset: Annotated[int, Meta(ge=0, le=SEGMENT_BYTES_MAX)]
    extent_bytes: Annotated[int, Meta(ge=1, le=SEGMENT_BYTES_MAX)]


class SegmentCommit(Record):
    """A segment as it is committed: its coding and one root per column, in column order."""

    segment_id: Annotated[SegmentId, SEGMENT]
    k: Annotated[int, Meta(ge=1, le=COLUMNS_MAX)]
    segment_bytes: Annotated[int, SEGMENT_BYTES]
    roots: Annotated[tuple[Annotated[ShardRoot, ROOT], ...], Meta(min_length=1, max_length=COLUMNS_MAX)]


class EntryCommit(Record):
    """An object version, or a marker that says that there is none, as it is committed.

    Condition: None for any, empty for must be absent, 16 bytes for the version that is replaced. A marker is absence.
    Details: None for an object that its bucket's default retains, or nothing.
    """

    name_tag: Annotated[NameTag, TAG]
    version_id: Annotated[VersionId, VERSION]
    record_address: Annotated[RecordAddress, HASH]
    extents: Annotated[tuple[Extent | StoredExtent, ...], Meta(max_length=REFERENCES_MAX)]
    condition: Annotated[bytes, Meta(max_length=16)] | None
    details: EntryDetails | None = None


class BucketEntries(Record):
    """Entries of one bucket."""

    bucket_tag: Annotated[BucketTag, TAG]
    entries: Annotated[tuple[EntryCommit, ...], Meta(min_length=1, max_length=ENTRIES_MAX)]


class CommitObjects(Record, tag=1):
    """A batch of segments and entries of one tenant, with the holders' receipts for all its segments.

    New buckets are made before the entries, those that are there already left as they are.
    """

    tenant: Annotated[TenantId, TENANT]
    segments: Annotated[tuple[SegmentCommit, ...], Meta(max_length=SEGMENTS_MAX)]
    buckets: Annotated[tuple[BucketEntries, ...], Meta(max_length=ENTRIES_MAX)]
    receipts: Annotated[tuple[Receipt, ...], Meta(max_length=64)]
    new_buckets: Annotated[tuple[NewBucket, ...], Meta(max_length=NEW_BUCKETS_MAX)] = ()


class EntryName(Record):
    """An entry to delete.

    With a version (NULL_VERSION for the null one) that version goes, wherever it lies. Without one, whatever is there:
    only where versioning is off; elsewhere a marker is committed instead.
    """

    bucket_tag: Annotated[BucketTag, TAG]
    name_tag: Annotated[NameTag, TAG]
    version_id: Annotated[VersionId, VERSION] | None


class DeleteEntries(Record, tag=2):
    """Entries of one tenant leave the chain's state; segments that nothing references any more are freed."""

    tenant: Annotated[TenantId, TENANT]
    entries: Annotated[tuple[EntryName, ...], Meta(min_length=1, max_length=ENTRIES_MAX)]
    bypass_governance: bool = False


class CompleteColumns(Record, tag=3):
    """Receipts, of one or more seats, for columns stored after their segments were committed."""

    tenant: Annotated[TenantId, TENANT]
    segment_ids: Annotated[tuple[Annotated[SegmentId, SEGMENT], ...], Meta(min_length=1, max_length=SEGMENTS_MAX)]
    receipts: Annotated[tuple[Receipt, ...], Meta(min_length=1, max_length=64)]


class GrantClient(Record, tag=4):
    """The tenant lets a gateway or native client act for it, or gives one that does other keys.

    `keys` names a record: the tenant's master keys, sealed to the client's own key.
    """

    tenant: Annotated[TenantId, TENANT]
    public_key: Annotated[PublicKey, HASH]
    certificate: Annotated[bytes, Meta(min_length=1, max_length=CERTIFICATE_BYTES_MAX)]
    keys: TenantRecord | None = None


class RevokeClient(Record, tag=5):
    """The tenant takes a grant back."""

    tenant: Annotated[TenantId, TENANT]
    public_key: Annotated[PublicKey, HASH]


Body = (
    CommitObjects
    | DeleteEntries
    | CompleteColumns
    | GrantClient
    | RevokeClient
    | BucketChange
    | TenantChange
    | SeatDuty
    | CodeDuty
    | SeatChange
    | ReplaceSegment
)


class Envelope(Record):
    """What a sender signs."""

    transaction_version: Annotated[int, Meta(ge=TRANSACTION_VERSION, le=TRANSACTION_VERSION)]
    sender: Annotated[PublicKey, HASH]
    sequence: Sequence
    valid_until_height: Annotated[Height, HEIGHT]
    body: Body


class SignedTransaction(Record):
    """An envelope and its sender's signature."""

    envelope: Envelope
    signature: Annotated[Signature, SIGNATURE]


def entries_of(body: CommitObjects) -> Iterator[tuple[BucketTag, EntryCommit]]:
    """Give a commit's entries in order, each with its bucket."""
    for bucket in body.buckets:
        for entry in bucket.entries:
            yield bucket.bucket_tag, entry


def transaction_sign_bytes(envelope: Envelope, genesis_hash: GenesisHash) -> bytes:
    """Return the bytes that the sender signs."""
    return sign_bytes(Domain.TRANSACTION, genesis_hash, encode(envelope))


def sign_transaction(envelope: Envelope, signing_key: SignatureMaker, genesis_hash: GenesisHash) -> bytes:
    """Return an encoded, signed transaction; the key must be the envelope's sender."""
    assert envelope.sender == signing_key.public, "signed by another than the sender"
    signature = signing_key.sign(transaction_sign_bytes(envelope, genesis_hash))
    return encode(SignedTransaction(envelope=envelope, signature=signature))


def decode_transaction(encoded: bytes) -> SignedTransaction:
    """Read a transaction or raise RejectionError; the signature is checked by the ledger.

    The last ones read are remembered: the door, the proposal's check, the ledger and those who keep records each read
    a transaction, some of them twice.
    """
    return _read_small(encoded) if len(encoded) <= SMALL_BYTES_MAX else _read_large(encoded)


def _read(encoded: bytes) -> SignedTransaction:
    signed = decode(encoded, SignedTransaction, bytes_max=TRANSACTION_BYTES_MAX)
    body = signed.envelope.body
    entry_count = sum(len(bucket.entries) for bucket in body.buckets) if isinstance(body, CommitObjects) else 0
    if entry_count > ENTRIES_MAX:
        raise RejectionError(
            RejectionReason.MALFORMED, f"{entry_count} entries over all buckets, at most {ENTRIES_MAX}"
        )
    return signed


_read_small: Final = lru_cache(SMALL_REMEMBERED_MAX)(_read)
_read_large: Final = lru_cache(LARGE_REMEMBERED_MAX)(_read)


def transaction_id(encoded: bytes) -> TransactionId:
    """Return the 32 bytes that name a transaction."""
    return TransactionId(domain_hash(Domain.TRANSACTION_ID, encoded))
