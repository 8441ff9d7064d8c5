"""What the ledger's state is made of: its keys, their values, and a view that changes may be tried on.

Every value is authenticated by the state tree under its state key:

    "c"                                chain: genesis hash, limits                         ChainState
    "s" seat (1)                       a seat: signing key, operator, addresses            SeatState
    "t" tenant (16)                    a tenant: its key and what it uses                  TenantState
    "g" tenant (16) public key (32)    a client that acts for a tenant                     GrantState
    "n" public key (32)                the sequence numbers a sender has used              SenderState
    "b" tenant bucket (16 each)        a bucket: versioning, lock, its settings record     BucketState
    "k" tenant (16)                    where its S3 access keys are                        AccessState
    "r" tenant (16)                    its keys in escrow, and recoveries                  EscrowState
    "e" tenant bucket name (16 each)   an entry: the current version of an object          EntryState
    "v" tenant bucket name version     an older version of an object                       EntryState
    "x" segment id (32)                a segment: coding, roots, columns vouched for       SegmentState
    "o"                                outcomes of the last block that had transactions    OutcomesState
    "f" member kind height round       a proven fault (faults.py)                          FaultState
    "m", "mh", "m" seat (1)            changes of the seats (membership.py)
    "z" segment id (32)                a segment that was freed: its id is used up         FreedState
    "u" "w" "a" "p"                    epochs, findings, verdicts, purge reports           audits.py

Nothing else here is older than its subject: what is deleted leaves the state, and with it the disk.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final, Protocol

from msgspec import Meta

from consensus.encoding import Record, RecordT, decode, encode
from consensus.genesis import ConsensusParameters
from consensus.identifiers import (
    HASH,
    HEIGHT,
    MEMBERS_MAX,
    TIME,
    GenesisHash,
    Height,
    MerkleRoot,
    Milliseconds,
    PublicKey,
)
from storage.buckets import NULL_VERSION, EntryKind, ObjectLock, Versioning, VersionLock
from storage.genesis import ByteCount, Certificate, Seat, StorageParameters
from storage.identifiers import (
    COLUMN,
    COLUMNS_MAX,
    GRANTS_MAX,
    ROOT,
    SEAT,
    SEGMENT_BYTES,
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
from storage.tenant_changes import ShareCommitment, TenantRecord
from storage.transactions import REFERENCES_MAX, SEQUENCES_KEPT, Sequence, StoredExtent

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

STATE_VALUE_BYTES_MAX: Final = 512 * 1024
"""An entry of REFERENCES_MAX extents of at most 46 bytes is the largest value."""
BUCKETS_MAX: Final = 10_000
"""Of one tenant, those that hold uploads included."""
BUCKET_PREFIX: Final = b"b"
ACCESS_PREFIX: Final = b"k"
ESCROW_PREFIX: Final = b"r"
ENTRY_PREFIX: Final = b"e"
VERSION_PREFIX: Final = b"v"
SEGMENT_PREFIX: Final = b"x"
TENANT_PREFIX: Final = b"t"
GRANT_PREFIX: Final = b"g"
FAULT_PREFIX: Final = b"f"
CHAIN_KEY: Final = b"c"
OUTCOMES_KEY: Final = b"o"

Count = ByteCount
"""Counts and byte sums stay exact in readers that use doubles."""
EntryOrder = Annotated[int, Meta(ge=0, le=2**31)]


class ChainState(Record, tag=1):
    """What the whole chain shares."""

    genesis_hash: Annotated[GenesisHash, HASH]
    parameters: StorageParameters
    agreement: ConsensusParameters


class SeatState(Record, tag=2):
    """A seat's occupant: the key that signs votes and receipts, and the rest of its record.

    Attributes:
        opened: The first height of the seat; 0 for those of genesis.
        joined: The first height of its present occupant.
        closed: The first height without it; None while it exists. Its number is never used again.
    """

    signing_key: Annotated[PublicKey, HASH]
    seat: Seat
    opened: Annotated[Height, HEIGHT]
    joined: Annotated[Height, HEIGHT]
    closed: Annotated[Height, HEIGHT] | None


class TenantState(Record, tag=3):
    """A tenant's own key, its home operator, and what it may use and uses now.

    Entries are versions and markers; their bytes are sealed bytes, those of segments before parity. The quota bounds
    the bytes of segments.
    """

    public_key: Annotated[PublicKey, HASH]
    home: Annotated[SeatIndex, SEAT]
    quota_bytes: Count
    grant_count: Annotated[int, Meta(ge=0, le=GRANTS_MAX)]
    bucket_count: Annotated[int, Meta(ge=0, le=BUCKETS_MAX)]
    entry_count: Count
    entry_bytes: Count
    segment_count: Count
    segment_bytes: Count


class GrantState(Record, tag=4):
    """A client that acts for a tenant, and the certificate it shows on the shard channel.

    `keys` names the record that holds the tenant's master keys, sealed to the client's own key; None: it has them from
    the tenant itself.
    """

    certificate: Certificate
    keys: TenantRecord | None = None


class SenderState(Record, tag=5):
    """The greatest sequence numbers a sender has used, ascending."""

    sequences: Annotated[tuple[Sequence, ...], Meta(min_length=1, max_length=SEQUENCES_KEPT)]


class EntryState(Record, tag=6):
    """A version of an object, or a marker: its records, and where its sealed bytes lie, in order.

    Versions of one name are a list, newest first: `older` and `newer` are names of versions (NULL_VERSION for the null
    one). The current version, under "e", has nothing newer.
    """

    version_id: Annotated[VersionId, VERSION]
    record_address: Annotated[RecordAddress, HASH]
    extents: Annotated[tuple[StoredExtent, ...], Meta(max_length=REFERENCES_MAX)]
    height: Annotated[Height, HEIGHT]
    order: EntryOrder
    """Among those that its block wrote; with the height, versions of a name in order of time."""
    kind: EntryKind
    is_null: bool
    lock: VersionLock | None
    tags_address: Annotated[RecordAddress, HASH] | None
    older: Annotated[VersionId, VERSION] | None
    newer: Annotated[VersionId, VERSION] | None

    @property
    def version_name(self) -> VersionId:
        """Return what names this version among those of its object."""
        return NULL_VERSION if self.is_null else self.version_id


class SegmentState(Record, tag=7):
    """A live segment; `references` counts extents of entries.

    `columns` are those with a holder's receipt when they were last noted, at `vouched_at`; whoever has taken a seat
    since holds nothing yet (placement.counted_columns).
    """

    tenant: Annotated[TenantId, TENANT]
    k: Annotated[int, Meta(ge=1, le=COLUMNS_MAX)]
    segment_bytes: Annotated[int, SEGMENT_BYTES]
    roots: Annotated[tuple[Annotated[ShardRoot, ROOT], ...], Meta(min_length=1, max_length=COLUMNS_MAX)]
    columns: Annotated[tuple[Annotated[int, COLUMN], ...], Meta(max_length=COLUMNS_MAX)]
    references: Count
    height: Annotated[Height, HEIGHT]
    vouched_at: Annotated[Height, HEIGHT]


class OutcomesState(Record, tag=8):
    """Merkle list root over the outcomes of the last block with transactions, and its height."""

    height: Annotated[Height, HEIGHT]
    root: Annotated[MerkleRoot, HASH]


class FreedState(Record, tag=10):
    """A segment was freed at this height. Its id names no other coding, nor the same one again (rule T8)."""

    height: Annotated[Height, HEIGHT]


class BucketState(Record, tag=11):
    """A bucket: its sealed settings record, what the chain enforces, and how many versions and markers it has."""

    version_id: Annotated[VersionId, VERSION]
    record_address: Annotated[RecordAddress, HASH]
    versioning: Versioning
    lock: ObjectLock | None
    entry_count: Count
    height: Annotated[Height, HEIGHT]
    """At which it was made."""


class AccessState(Record, tag=12):
    """Where the sealed S3 access keys of a tenant are."""

    access: TenantRecord


class Approval(Record):
    """A seat's approval of a recovery, with its share sealed to the announced key."""

    seat: Annotated[SeatIndex, SEAT]
    share: TenantRecord


class Recovery(Record):
    """A key that a seat has announced for a tenant, and who approves it."""

    public_key: Annotated[PublicKey, HASH]
    announced_by: Annotated[SeatIndex, SEAT]
    announced_ms: Annotated[Milliseconds, TIME]
    approvals: Annotated[tuple[Approval, ...], Meta(max_length=MEMBERS_MAX)]


class EscrowState(Record, tag=13):
    """A tenant's keys in escrow: the record of sealed shares, what each hashes to, and recoveries of now."""

    shares: TenantRecord
    commitments: Annotated[tuple[ShareCommitment, ...], Meta(max_length=MEMBERS_MAX)]
    recoveries: Annotated[tuple[Recovery, ...], Meta(max_length=MEMBERS_MAX)]


class StateReader(Protocol):
    """Where values and pages of the tree are read; both after the same block."""

    def value(self, state_key: bytes) -> bytes | None:
        """Return the value of a state key, None when it has none."""
        ...

    def page(self, page_name: bytes) -> bytes | None:
        """Return a page of the state tree."""
        ...


def seat_key(seat: SeatIndex) -> bytes:
    """Return the state key of a seat."""
    return b"s" + bytes((seat,))


def tenant_key(tenant: TenantId) -> bytes:
    """Return the state key of a tenant."""
    return TENANT_PREFIX + tenant


def grant_key(tenant: TenantId, public_key: PublicKey) -> bytes:
    """Return the state key of a grant."""
    return GRANT_PREFIX + tenant + public_key


def sender_key(public_key: PublicKey) -> bytes:
    """Return the state key of a sender's sequence numbers."""
    return b"n" + public_key


def entry_key(tenant: TenantId, bucket_tag: BucketTag, name_tag: NameTag) -> bytes:
    """Return the state key of an entry."""
    return ENTRY_PREFIX + tenant + bucket_tag + name_tag


def access_key(tenant: TenantId) -> bytes:
    """Return the state key of a tenant's access keys."""
    return ACCESS_PREFIX + tenant


def escrow_key(tenant: TenantId) -> bytes:
    """Return the state key of a tenant's escrow."""
    return ESCROW_PREFIX + tenant


def bucket_state_key(tenant: TenantId, bucket_tag: BucketTag) -> bytes:
    """Return the state key of a bucket."""
    return BUCKET_PREFIX + tenant + bucket_tag


def version_key(tenant: TenantId, bucket_tag: BucketTag, name_tag: NameTag, version_name: VersionId) -> bytes:
    """Return the state key of a version that is not the current one."""
    return VERSION_PREFIX + tenant + bucket_tag + name_tag + version_name


def segment_key(segment_id: SegmentId) -> bytes:
    """Return the state key of a segment."""
    return SEGMENT_PREFIX + segment_id


def freed_key(segment_id: SegmentId) -> bytes:
    """Return the state key that tells that a segment was freed."""
    return b"z" + segment_id


def decode_state(encoded: bytes, record_type: type[RecordT]) -> RecordT:
    """Read a state value or raise RejectionError."""
    return decode(encoded, record_type, bytes_max=STATE_VALUE_BYTES_MAX)


def read_state(reader: StateReader, state_key: bytes, record_type: type[RecordT]) -> RecordT | None:
    """Return the record under a state key, None when there is none."""
    encoded = reader.value(state_key)
    return None if encoded is None else decode_state(encoded, record_type)


@dataclass(frozen=True, slots=True)
class ObjectName:
    """Whose object, in which bucket, under which name."""

    tenant: TenantId
    bucket_tag: BucketTag
    name_tag: NameTag


def changed_objects(state_keys: Iterable[bytes]) -> tuple[ObjectName, ...]:
    """Return the objects of which some version stands under these state keys, each once."""
    names = dict.fromkeys(
        state_key[1:49] for state_key in state_keys if state_key[:1] in {ENTRY_PREFIX, VERSION_PREFIX}
    )
    return tuple(ObjectName(TenantId(name[:16]), BucketTag(name[16:32]), NameTag(name[32:])) for name in names)


@dataclass(slots=True)
class StateOverlay:
    """Changes tried on top of a state; dropped, or merged into the overlay below."""

    below: StateReader
    changes: dict[bytes, bytes | None] = field(default_factory=dict[bytes, bytes | None])

    def value(self, state_key: bytes) -> bytes | None:
        """Return the changed value, or the one below."""
        return self.changes[state_key] if state_key in self.changes else self.below.value(state_key)

    def page(self, page_name: bytes) -> bytes | None:
        """Return a page as it was before any change."""
        return self.below.page(page_name)

    def put(self, state_key: bytes, record: Record) -> None:
        """Set a value."""
        encoded = encode(record)
        assert len(encoded) <= STATE_VALUE_BYTES_MAX, f"a state value of {len(encoded)} bytes"
        self.changes[state_key] = encoded

    def delete(self, state_key: bytes) -> None:
        """Remove a value."""
        self.changes[state_key] = None


@dataclass(slots=True)
class MemoryState:
    """A whole state in memory, for replays and tests."""

    values: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    pages: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])

    def value(self, state_key: bytes) -> bytes | None:
        """Return the value of a state key."""
        return self.values.get(state_key)

    def page(self, page_name: bytes) -> bytes | None:
        """Return a page of the state tree."""
        return self.pages.get(page_name)

    def commit(self, values: Mapping[bytes, bytes | None], pages: Mapping[bytes, bytes | None]) -> None:
        """Write the changes of one block."""
        _merge(self.values, values)
        _merge(self.pages, pages)


def _merge(rows: dict[bytes, bytes], changes: Mapping[bytes, bytes | None]) -> None:
    for row_key, value in changes.items():
        if value is None:
            rows.pop(row_key, None)
        else:
            rows[row_key] = value
