"""Questions of those who keep a tenant's buckets: which there are, which versions, and what blocks have changed.

GET  /v1/buckets?tenant=T&after=B&limit=L
GET  /v1/versions?tenant=T&bucket=B&after=B.N.V&limit=L      versions that are not current
GET  /v1/changes?tenant=T&above=H                            objects named by blocks above H
POST /v1/buckets/find, /v1/versions/find                     up to FOUND_MAX of either at once
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from consensus.identifiers import Height
from node.api.answers import EntriesAnswer, entry_answer, json_answer
from node.api.bucket_answers import (
    BucketsAnswer,
    BucketsQuestion,
    ChangesAnswer,
    FoundBucketsAnswer,
    FoundVersionsAnswer,
    VersionsQuestion,
    bucket_answer,
)
from node.api.questions import (
    FIND_BYTES_MAX,
    HANDLE_BYTES,
    MissingError,
    read_body,
    read_hex,
    read_question,
    whole_number,
)
from storage.identifiers import BucketTag, NameTag, TenantId, VersionId
from storage.ledger_versions import find_version
from storage.state import BucketState, ObjectName, bucket_state_key, read_state
from storage.stores.listings import list_buckets, list_versions
from storage.touched import touched_objects
from storage.transactions import decode_transaction

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from storage.stores.blocks import ChainStore

LISTED_MAX: Final = 4_096
LISTED_AT_ONCE: Final = 64
"""Versions read together: few have more than one of their 10,240 references."""
REFERENCES_MAX: Final = 65_536
"""Of one listing, as of one of entries."""
CHANGES_BLOCKS_MAX: Final = 256
CHANGED_OBJECTS_MAX: Final = 65_536
"""About 80 bytes of JSON each; the blocks of one answer end with the one that passes this."""


class BucketViews:
    """Answers from one chain store; disk work runs in threads."""

    def __init__(self, store: ChainStore) -> None:
        self._store = store

    async def buckets(self, request: Request) -> Response:
        """List buckets of a tenant in order of their tags."""
        query = request.query_params
        tenant = _tenant(query.get("tenant", ""))
        after = BucketTag(read_hex(query["after"], HANDLE_BYTES, "after")) if "after" in query else None
        limit = _limit(request)
        found = await trio.to_thread.run_sync(lambda: list_buckets(self._store, tenant, after=after, limit=limit))
        return json_answer(BucketsAnswer(buckets=[bucket_answer(tag, state) for tag, state in found]))

    async def find_buckets(self, request: Request) -> Response:
        """Return buckets in the order asked."""
        question = read_question(await read_body(request, FIND_BYTES_MAX), BucketsQuestion)
        tenant = _tenant(question.tenant)
        tags = [BucketTag(read_hex(text, HANDLE_BYTES, "bucket")) for text in question.buckets]
        found = await trio.to_thread.run_sync(
            lambda: [read_state(self._store, bucket_state_key(tenant, tag), BucketState) for tag in tags]
        )
        answers = [None if state is None else bucket_answer(tag, state) for tag, state in zip(tags, found, strict=True)]
        return json_answer(FoundBucketsAnswer(buckets=answers))

    async def versions(self, request: Request) -> Response:
        """List versions that are not current, in order of bucket, name and version."""
        query = request.query_params
        tenant = _tenant(query.get("tenant", ""))
        bucket = BucketTag(read_hex(query["bucket"], HANDLE_BYTES, "bucket")) if "bucket" in query else None
        after = _version_place(*query["after"].split(".", 2)) if "after" in query else None
        limit = _limit(request)
        found = await trio.to_thread.run_sync(self._listed, tenant, bucket, after, limit)
        return json_answer(found)

    def _listed(
        self,
        tenant: TenantId,
        bucket: BucketTag | None,
        after: tuple[BucketTag, NameTag, VersionId] | None,
        limit: int,
    ) -> EntriesAnswer:
        """Return versions behind a place, fewer than asked for when they have many references; at least one."""
        answer = EntriesAnswer(entries=[])
        references = 0
        while len(answer.entries) < limit:
            wanted = min(limit - len(answer.entries), LISTED_AT_ONCE)
            page = list_versions(self._store, tenant, bucket, after=after, limit=wanted)
            for listed in page:
                references += len(listed.state.extents)
                if answer.entries and references > REFERENCES_MAX:
                    return answer
                answer.entries.append(entry_answer(listed.bucket_tag, listed.name_tag, listed.state))
            if not page:
                return answer
            after = page[-1].bucket_tag, page[-1].name_tag, page[-1].state.version_name
        return answer

    async def find_versions(self, request: Request) -> Response:
        """Return versions, current ones or older, in the order asked."""
        question = read_question(await read_body(request, FIND_BYTES_MAX), VersionsQuestion)
        tenant = _tenant(question.tenant)
        places = [_version_place(*names) for names in question.names]
        return json_answer(await trio.to_thread.run_sync(self._found, tenant, places))

    def _found(self, tenant: TenantId, places: list[tuple[BucketTag, NameTag, VersionId]]) -> FoundVersionsAnswer:
        """Return the versions of the first places, all unless they have many references; at least one."""
        answer = FoundVersionsAnswer(entries=[])
        references = 0
        for bucket, name, version_name in places:
            state = find_version(self._store, ObjectName(tenant, bucket, name), version_name)
            references += 0 if state is None else len(state.extents)
            if answer.entries and references > REFERENCES_MAX:
                break
            answer.entries.append(None if state is None else entry_answer(bucket, name, state))
        return answer

    async def changes(self, request: Request) -> Response:
        """Name the objects of a tenant that blocks above a height have named."""
        query = request.query_params
        tenant = _tenant(query.get("tenant", ""))
        above = Height(whole_number(query.get("above", "0"), "above"))
        return json_answer(await trio.to_thread.run_sync(self._changes, tenant, above))

    def _changes(self, tenant: TenantId, above: Height) -> ChangesAnswer:
        objects = dict[ObjectName, None]()
        height = above
        last = min(self._store.tip.height, above + CHANGES_BLOCKS_MAX)
        while height < last and len(objects) < CHANGED_OBJECTS_MAX:
            decided = self._store.decided_block(Height(height + 1))
            if decided is None:
                raise MissingError(f"block {height + 1} is pruned here: list what there is, then follow from the tip")
            for encoded in decided.block.transactions:
                touched = touched_objects(decode_transaction(encoded).envelope.body)
                objects.update(dict.fromkeys(name for name in touched if name.tenant == tenant))
            height = Height(height + 1)
        return ChangesAnswer(height=height, objects=[(name.bucket_tag.hex(), name.name_tag.hex()) for name in objects])


def _tenant(text: str) -> TenantId:
    return TenantId(read_hex(text, HANDLE_BYTES, "tenant"))


def _limit(request: Request) -> int:
    wanted = whole_number(request.query_params.get("limit", str(LISTED_MAX)), "limit")
    return max(1, min(wanted, LISTED_MAX))


def _version_place(bucket: str, name: str = "", version_name: str = "") -> tuple[BucketTag, NameTag, VersionId]:
    return (
        BucketTag(read_hex(bucket, HANDLE_BYTES, "bucket")),
        NameTag(read_hex(name, HANDLE_BYTES, "name")),
        VersionId(read_hex(version_name, HANDLE_BYTES, "version")),
    )
