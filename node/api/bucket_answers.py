"""What the API says of buckets, versions and what blocks changed: one struct an answer, as in answers.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec

from node.api.answers import EntryAnswer
from node.client.chain import FOUND_MAX

if TYPE_CHECKING:
    from storage.identifiers import BucketTag
    from storage.state import BucketState


class DefaultRetentionAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What new versions of a bucket get."""

    mode: str
    days: int


class BucketAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One of GET /v1/buckets."""

    bucket: str
    version_id: str
    record_address: str
    versioning: str
    has_lock: bool
    default_retention: DefaultRetentionAnswer | None
    entry_count: int
    height: int


class BucketsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/buckets."""

    buckets: list[BucketAnswer]


class BucketsQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """Body of POST /v1/buckets/find."""

    tenant: str
    buckets: Annotated[list[str], msgspec.Meta(max_length=FOUND_MAX)]


class FoundBucketsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """POST /v1/buckets/find: in the order asked, null where there is none."""

    buckets: list[BucketAnswer | None]


class VersionsQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """Body of POST /v1/versions/find: names are [bucket tag, name tag, version]."""

    tenant: str
    names: Annotated[list[tuple[str, str, str]], msgspec.Meta(max_length=FOUND_MAX)]


class FoundVersionsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """POST /v1/versions/find: in the order asked, null where there is none."""

    entries: list[EntryAnswer | None]


class ChangesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/changes: the objects that blocks up to `height` have named, each once, as [bucket tag, name tag]."""

    height: int
    objects: list[tuple[str, str]]


def bucket_answer(bucket_tag: BucketTag, state: BucketState) -> BucketAnswer:
    """Return a bucket as the API shows it."""
    default = None if state.lock is None else state.lock.default
    retention = None if default is None else DefaultRetentionAnswer(mode=default.mode.value, days=default.days)
    return BucketAnswer(
        bucket=bucket_tag.hex(),
        version_id=state.version_id.hex(),
        record_address=state.record_address.hex(),
        versioning=state.versioning.value,
        has_lock=state.lock is not None,
        default_retention=retention,
        entry_count=state.entry_count,
        height=state.height,
    )
