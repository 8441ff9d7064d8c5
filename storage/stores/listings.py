"""Listings of the latest state in order of its keys: buckets of a tenant, older versions of its objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from storage.identifiers import BucketTag, NameTag
from storage.state import BUCKET_PREFIX, VERSION_PREFIX, BucketState, EntryState, decode_state, version_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.identifiers import TenantId, VersionId


class StateRows(Protocol):
    """Where the state's rows are listed; storage.stores.blocks.ChainStore."""

    def rows(self, prefix: bytes, after: bytes, limit: int) -> Sequence[tuple[bytes, bytes]]:
        """Return state keys under a prefix and their values, strictly behind `after` unless that is a prefix itself."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedVersion:
    """A version that is not the current one, and its place in the order of a listing."""

    bucket_tag: BucketTag
    name_tag: NameTag
    state: EntryState


def list_buckets(
    store: StateRows, tenant: TenantId, *, after: BucketTag | None, limit: int
) -> tuple[tuple[BucketTag, BucketState], ...]:
    """Return buckets of a tenant in order of their tags, behind `after`."""
    prefix = BUCKET_PREFIX + tenant
    rows = store.rows(prefix, prefix + (after or b""), limit)
    return tuple((BucketTag(state_key[17:]), decode_state(encoded, BucketState)) for state_key, encoded in rows)


def list_versions(
    store: StateRows,
    tenant: TenantId,
    bucket_tag: BucketTag | None,
    *,
    after: tuple[BucketTag, NameTag, VersionId] | None,
    limit: int,
) -> tuple[ListedVersion, ...]:
    """Return older versions of a tenant, or of one bucket, in order of bucket, name and version, behind `after`."""
    prefix = VERSION_PREFIX + tenant + (bucket_tag or b"")
    rows = store.rows(prefix, prefix if after is None else version_key(tenant, *after), limit)
    return tuple(
        ListedVersion(
            bucket_tag=BucketTag(state_key[17:33]),
            name_tag=NameTag(state_key[33:49]),
            state=decode_state(encoded, EntryState),
        )
        for state_key, encoded in rows
    )
