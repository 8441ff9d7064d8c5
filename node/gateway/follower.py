"""Follows the ledger for one tenant: which names its blocks have named, so that index and cache know what is stale.

first walk    an index without rows asks for every version of the tenant, page by page
follow        GET /v1/changes, held by the node until there is a block
open          names that blocks have named are asked for: when a listing needs them, or when nothing else happens
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

import trio

from consensus.errors import GrandestError
from consensus.identifiers import Height
from node.client.chain import FOUND_MAX, ListingPlace, VersionPlace
from node.client.errors import ChangesForgottenError
from node.errors import PeerUnreachableError
from node.gateway.index import Dirty, Indexed, VersionRow
from node.nurseries import open_plain_nursery
from storage.buckets import EntryKind
from storage.errors import ShardMissingError
from storage.identifiers import NameTag, VersionId
from storage.records import ChecksumKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from node.client.chain import Changes, EntryView
    from node.client.client import Client
    from node.client.tenant_chain import TenantChain
    from node.gateway.index import Index
    from storage.identifiers import BucketTag, TenantId
    from storage.records import ObjectRecord

LOGGER: Final = logging.getLogger(__name__)
HELD_SECONDS: Final = 10.0
"""How long a node holds the question for the next block."""
RETRY_SECONDS: Final = 0.5
WALKED_AT_ONCE: Final = 512
VERSIONS_AT_ONCE: Final = 1_024
LOOK_SECONDS: Final = 1.0
QUIET_SECONDS: Final = 5.0
"""Names are opened in the background once no block has named any and no listing has asked for so long."""
TOLD_SECONDS: Final = 2.0
BAR_CHARACTERS: Final = 40
LAG_SECONDS: Final = 0.3
"""A node that is behind the others by more is not waited for: another is asked."""
LAST_VERSION: Final = VersionId(b"\xff" * 16)


class FollowedChain(Protocol):
    """The chain, which believes no node below a height."""

    at_least: Height

    async def tip_height(self) -> Height:
        """Return the height of a live node's chain."""
        ...

    async def changes(self, above: Height, held_seconds: float = 0.0) -> Changes:
        """Return which objects blocks above a height have named."""
        ...

    async def find_entries(self, places: Sequence[ListingPlace]) -> tuple[EntryView | None, ...]:
        """Return entries, None where there is none."""
        ...

    async def entries(
        self, bucket_tag: BucketTag | None, after: ListingPlace | None, entries_max: int
    ) -> tuple[EntryView, ...]:
        """Return entries in order of tags."""
        ...

    async def versions(
        self, bucket_tag: BucketTag | None, after: VersionPlace | None, versions_max: int
    ) -> tuple[EntryView, ...]:
        """Return versions that are not current, in order of tags."""
        ...


class Walk(Protocol):
    """A first walk over the ledger, and how far it is."""

    walked: int

    @property
    def is_whole(self) -> bool:
        """Tell whether it is over."""
        ...


async def tell_of_walk(walk: Walk, tenant: TenantId, chain: TenantChain) -> None:
    """Log every TOLD_SECONDS how far a walk is, until it is over."""
    while not walk.is_whole:
        await trio.sleep(TOLD_SECONDS)
        with suppress(GrandestError):
            view = await chain.tenant(tenant)
            if view is not None and not walk.is_whole:
                share = min(1.0, walk.walked / max(1, view.entry_count))
                bar = ("#" * round(BAR_CHARACTERS * share)).ljust(BAR_CHARACTERS, ".")
                name, counts = tenant.hex()[:8], (walk.walked, view.entry_count)
                LOGGER.info("index of tenant %s is being made: %s %d of %d versions", name, bar, *counts)


class StillWalkingError(PeerUnreachableError):
    """The index does not have every name yet: ask again."""


class Follower:
    """Keeps one tenant's index at the height of the ledger."""

    def __init__(
        self,
        client: Client,
        chain: FollowedChain,
        index: Index,
        forget: Callable[[Sequence[ListingPlace], Height], None],
    ) -> None:
        """Follow a chain.

        Args:
            client: Opens records.
            chain: Answers no question below its at_least.
            index: Of the same tenant.
            forget: Told which names blocks up to a height have named, before anybody may believe to have seen them.
        """
        self._client = client
        self._chain = chain
        self._index = index
        self._forget = forget
        self._moved = trio.Event()
        self._question: trio.CancelScope | None = None
        self._opening = trio.Lock()
        self._asked = 0.0
        self.walked = 0
        """Versions seen by the first walk, for a progress bar."""

    @property
    def height(self) -> Height:
        """Return the height up to which every named object is known as such."""
        return self._index.height

    @property
    def is_whole(self) -> bool:
        """Tell whether the index holds every name."""
        return self._index.is_whole

    async def run(self) -> None:
        """Follow until cancelled."""
        async with open_plain_nursery() as nursery:
            nursery.start_soon(self._follow)
            nursery.start_soon(self._open_in_background)

    async def reached(self, height: Height, seconds: float) -> bool:
        """Wait until blocks up to a height are known, at most so long."""
        self._chain.at_least = Height(max(self._chain.at_least, height))
        deadline = trio.current_time() + seconds
        while self._index.height < height:
            with trio.move_on_at(min(deadline, trio.current_time() + LAG_SECONDS)) as scope:
                await self._moved.wait()
            if trio.current_time() >= deadline:
                return self._index.height >= height
            if scope.cancelled_caught and self._question is not None:
                self._question.cancel()  # the node that holds it is behind
        return True

    async def whole(self, seconds: float) -> None:
        """Wait for the first walk over the ledger.

        Raises:
            StillWalkingError: It takes longer.
        """
        with trio.move_on_after(seconds):
            while not self._index.is_whole:
                await self._moved.wait()
        if not self._index.is_whole:
            raise StillWalkingError(f"the index is being made: {self.walked} versions so far")

    async def opened(self, bucket_tag: BucketTag) -> None:
        """Open every name of a bucket that blocks have named since it was last opened."""
        self._asked = trio.current_time()
        async with self._opening:
            while dirty := await trio.to_thread.run_sync(self._index.dirty, bucket_tag, FOUND_MAX):
                if await self._open(dirty) == 0:
                    raise ShardMissingError(f"no live holder has the records of {len(dirty)} names")

    async def _follow(self) -> None:
        while True:
            try:
                if not self._index.is_whole:
                    await self._walk()
                with trio.CancelScope() as self._question:
                    await self._step()
            except ChangesForgottenError as error:
                LOGGER.warning("following the ledger: %s; the index is made anew", error)
                await trio.to_thread.run_sync(self._index.distrust)
            except GrandestError as error:
                LOGGER.warning("following the ledger: %s", error)
                await trio.sleep(RETRY_SECONDS)
            finally:
                self._question = None

    async def _step(self) -> None:
        changes = await self._chain.changes(self._index.height, HELD_SECONDS)
        if changes.objects:
            self._asked = trio.current_time()
            self._forget(changes.objects, changes.height)
            places = [(place.bucket_tag, place.name_tag) for place in changes.objects]
            await trio.to_thread.run_sync(self._index.mark, places, changes.height)
        elif changes.height > self._index.height:
            self._index.advance(changes.height)
        self._announce()

    def _announce(self) -> None:
        self._moved.set()
        self._moved = trio.Event()

    async def _walk(self) -> None:
        """Ask for every version once; what changes meanwhile is named by the blocks that follow."""
        height = await self._chain.tip_height()
        await trio.to_thread.run_sync(self._index.begin_walk, height)
        after: ListingPlace | None = None
        while entries := await self._chain.entries(None, after, WALKED_AT_ONCE):
            dirty = [Dirty(entry.bucket_tag, entry.name_tag, bytes(8)) for entry in entries]
            await self._open(dirty, entries)
            self.walked += len(entries)
            after = ListingPlace(entries[-1].bucket_tag, entries[-1].name_tag)
        await trio.to_thread.run_sync(self._index.end_walk)
        self._announce()

    async def _open_in_background(self) -> None:
        while True:
            await trio.sleep(LOOK_SECONDS)
            if not self._index.is_whole or trio.current_time() - self._asked < QUIET_SECONDS:
                continue
            try:
                async with self._opening:
                    dirty = await trio.to_thread.run_sync(self._index.dirty, None, FOUND_MAX)
                    if dirty:
                        await self._open(dirty)
            except GrandestError as error:
                LOGGER.warning("opening names: %s", error)

    async def _open(self, dirty: Sequence[Dirty], known: Sequence[EntryView] | None = None) -> int:
        """Ask what names have now, write it into the index, and return how many there were."""
        entries: Sequence[EntryView | None]
        if known is None:
            entries = await self._chain.find_entries([ListingPlace(one.bucket_tag, one.name_tag) for one in dirty])
        else:
            entries = known
        versions = {place: list(found) for place, found in zip(dirty, await self._all_versions(entries), strict=True)}
        everything = [entry for found in versions.values() for entry in found]
        sealed = await self._client.records.fetch(everything)
        found: list[Indexed] = []
        for one, listed in versions.items():
            rows: list[VersionRow] = []
            name: str | None = None
            for entry in listed:
                if entry.record_address not in sealed:
                    continue  # erased meanwhile: a later block says so
                record = self._client.records.unseal(entry, sealed[entry.record_address]).object_record
                name = record.name
                rows.append(version_row(entry, record))
            if listed and not rows:
                continue
            found.append(Indexed(one, name, tuple(rows)))
        await trio.to_thread.run_sync(self._index.put, found)
        return len(found)

    async def _all_versions(self, entries: Sequence[EntryView | None]) -> list[list[EntryView]]:
        """Return the versions of names, newest first."""
        return [[] if entry is None else [entry, *await self._older(entry)] for entry in entries]

    async def _older(self, entry: EntryView) -> list[EntryView]:
        if entry.older is None:
            return []
        found: list[EntryView] = []
        # Versions are listed behind a place: the last possible one of the name before.
        before = (
            NameTag((int.from_bytes(entry.name_tag, "big") - 1).to_bytes(16, "big")) if any(entry.name_tag) else None
        )
        after = None if before is None else VersionPlace(entry.bucket_tag, before, LAST_VERSION)
        while page := await self._chain.versions(entry.bucket_tag, after, VERSIONS_AT_ONCE):
            found += [one for one in page if one.name_tag == entry.name_tag]
            if page[-1].name_tag != entry.name_tag:
                break
            after = VersionPlace(entry.bucket_tag, entry.name_tag, page[-1].version_name)
        return sorted(found, key=lambda one: (one.height, one.order), reverse=True)


def version_row(entry: EntryView, record: ObjectRecord) -> VersionRow:
    """Return what a listing shows of a version."""
    checksum = record.checksums[0] if record.checksums else None
    return VersionRow(
        version_id=entry.version_id,
        is_null=entry.is_null,
        is_marker=entry.kind is EntryKind.MARKER,
        plain_bytes=record.plain_bytes,
        etag=record.etag,
        modified_ms=record.modified_ms,
        checksum_algorithm="" if checksum is None else checksum.algorithm,
        is_composite=checksum is not None and checksum.kind is ChecksumKind.COMPOSITE,
    )
