"""Which objects a transaction may have changed, told from its body alone: for indexes that follow the blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage.buckets import ChangeRecords, ChangeTags, SetRetention
from storage.moves import ReplaceSegment
from storage.state import ObjectName
from storage.transactions import CommitObjects, DeleteEntries, entries_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from storage.transactions import Body


def touched_objects(body: Body) -> Iterator[ObjectName]:
    """Give the objects that a body names, those whose entries failed too; what became of them, the state tells."""
    match body:
        case CommitObjects():
            for bucket_tag, entry in entries_of(body):
                yield ObjectName(body.tenant, bucket_tag, entry.name_tag)
        case DeleteEntries():
            for name in body.entries:
                yield ObjectName(body.tenant, name.bucket_tag, name.name_tag)
        case ReplaceSegment():
            for moved in body.entries:
                yield ObjectName(body.tenant, moved.bucket_tag, moved.name_tag)
        case SetRetention() | ChangeTags() | ChangeRecords():
            for change in body.changes:
                yield ObjectName(body.tenant, change.bucket_tag, change.name_tag)
        case _:
            return
