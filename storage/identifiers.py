"""Scalars of storage, and the bounds their encodings obey."""

from __future__ import annotations

from typing import Final, NewType

from msgspec import Meta

TenantId = NewType("TenantId", bytes)
"""16 random bytes: a legal person's handle on chain."""
BucketTag = NewType("BucketTag", bytes)
"""16 bytes: HMAC of a bucket's name under the tenant's tag key."""
NameTag = NewType("NameTag", bytes)
"""16 bytes: HMAC of an object's name under the bucket's tag key."""
VersionId = NewType("VersionId", bytes)
"""16 random bytes: one upload of an object."""
SegmentId = NewType("SegmentId", bytes)
"""32 random bytes, drawn before the segment's first unit leaves; names one coding for ever."""
SeatIndex = NewType("SeatIndex", int)
"""A place among the nine, from 0."""
ColumnIndex = NewType("ColumnIndex", int)
"""Which shard of a segment, from 0; data columns first."""
ShardRoot = NewType("ShardRoot", bytes)
"""32 bytes: Merkle root over a shard's 16 KiB leaves."""
RecordAddress = NewType("RecordAddress", bytes)
"""32 bytes: SHA-256 of domain, tenant, version id and sealed record."""

FRAME_BYTES: Final = 65_536
"""A frame of ciphertext, tag included."""
FRAME_TAG_BYTES: Final = 16
FRAME_PLAIN_BYTES: Final = FRAME_BYTES - FRAME_TAG_BYTES
UNIT_BYTES: Final = 65_536
"""A unit of a full stripe; equal to a frame, so that a small read moves one unit."""
UNIT_ALIGNMENT_BYTES: Final = 64
"""Units of a last stripe are multiples of this."""
LEAF_BYTES: Final = 16_384
"""What a shard's Merkle tree hashes."""
SEGMENT_BYTES_MAX: Final = 16 * 1024 * 1024
"""256 full frames."""
PACK_OBJECT_BYTES_MAX: Final = 1024 * 1024
"""Objects below this share a segment."""
COLUMNS_MAX: Final = 9
"""A segment has min(n, 9) columns."""
CERTIFICATE_BYTES_MAX: Final = 1_024
GRANTS_MAX: Final = 64

TENANT = Meta(min_length=16, max_length=16)
TAG = Meta(min_length=16, max_length=16)
VERSION = Meta(min_length=16, max_length=16)
SEGMENT = Meta(min_length=32, max_length=32)
ROOT = Meta(min_length=32, max_length=32)
SEAT = Meta(ge=0, le=63)
COLUMN = Meta(ge=0, le=COLUMNS_MAX - 1)
SEGMENT_BYTES = Meta(ge=1, le=SEGMENT_BYTES_MAX)
