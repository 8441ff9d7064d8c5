"""From stored segments to a committed transaction: receipts, one signature, one answer for every object in it."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import trio

from consensus.errors import GrandestError, RejectionError, RejectionReason
from consensus.identifiers import Height
from node.client.errors import NotCommittedError
from storage.transactions import (
    NEW_BUCKETS_MAX,
    TRANSACTION_VERSION,
    BucketEntries,
    CommitObjects,
    EntryCommit,
    Envelope,
    Extent,
    SegmentCommit,
    sign_transaction,
    transaction_id,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from consensus.identifiers import GenesisHash
    from consensus.signing import SigningKey
    from node.client.chain import Chain, Commit
    from node.client.new_objects import ReadyBucket, ReadyObject
    from node.client.shares import SegmentWriter, StoredSegment
    from storage.identifiers import BucketTag, TenantId
    from storage.receipts import Receipt
    from storage.transactions import Body

EXPIRY_HEIGHTS: Final = 500
"""How far ahead receipts and transactions reach; half of what genesis allows, so that a node behind accepts it."""
HEIGHT_FRESH_SECONDS: Final = 10.0
BATCH_ENTRIES_MAX: Final = 4_096
BATCH_TRANSACTION_BYTES_MAX: Final = 768 * 1024
"""Of the 1 MiB that a transaction may have; receipts and rounding stay within the rest."""
BATCH_RECORD_BYTES_MAX: Final = 1_792 * 1024
"""Of the 2 MiB that may travel beside it."""
RETURN_SECONDS: Final = 0.005
"""Who was just answered has brought the next object by then, if it writes one after the other."""
GATHER_SECONDS_MAX: Final = 0.05
"""What is ready waits no longer for packs that are on their way to the holders."""
ENTRY_BYTES: Final = 128
EXTENT_BYTES: Final = 10
STORED_EXTENT_BYTES: Final = 48
BUCKET_RECORD_BYTES: Final = 512
SEGMENT_BYTES: Final = 360
"""Upper bounds of what each costs in a transaction."""


class TransactionSigner:
    """Signs a client's transactions with sequence numbers that never repeat: microseconds since 1970, growing."""

    def __init__(self, signing_key: SigningKey, genesis_hash: GenesisHash) -> None:
        self._signing_key = signing_key
        self._genesis_hash = genesis_hash
        self._last_sequence = 0

    def sign(self, body: Body, valid_until_height: Height) -> bytes:
        """Return an encoded transaction of this client."""
        self._last_sequence = max(self._last_sequence + 1, time.time_ns() // 1_000)
        envelope = Envelope(
            transaction_version=TRANSACTION_VERSION,
            sender=self._signing_key.public,
            sequence=self._last_sequence,
            valid_until_height=valid_until_height,
            body=body,
        )
        return sign_transaction(envelope, self._signing_key, self._genesis_hash)


class Expiry:
    """The height up to which what is signed now is valid; asks the chain when its last answer is old."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._height = Height(0)
        self._asked = float("-inf")

    async def height(self) -> Height:
        """Return the expiry height for a new receipt or transaction."""
        if trio.current_time() - self._asked > HEIGHT_FRESH_SECONDS:
            self.seen(await self._chain.tip_height())
        return Height(self._height + EXPIRY_HEIGHTS)

    def seen(self, height: Height) -> None:
        """Learn a height of the chain."""
        self._height = max(self._height, height)
        self._asked = trio.current_time()


def take_batch(waiting: list[tuple[ReadyObject, ...]]) -> list[ReadyObject]:
    """Take groups from the front that fit one transaction together; a group (a pack's objects) is never split.

    No two objects of one name share a batch: the later one replaces the earlier in the next.
    """
    batch: list[ReadyObject] = []
    names: set[tuple[bytes, bytes]] = set()
    segments: set[int] = set()
    buckets: set[bytes] = set()
    transaction_bytes = record_bytes = 0
    while waiting:
        group = waiting[0]
        group_names = {(ready.bucket_tag, ready.name_tag) for ready in group}
        new_segments = {id(segment) for ready in group for segment, _ in ready.extents} - segments
        transaction_bytes += len(new_segments) * SEGMENT_BYTES
        new_buckets = {ready.bucket_tag for ready in group if ready.bucket is not None} - buckets
        transaction_bytes += sum(_entry_bytes(ready) for ready in group) + len(new_buckets) * ENTRY_BYTES
        record_bytes += sum(len(ready.sealed_record) + 4 for ready in group) + len(new_buckets) * BUCKET_RECORD_BYTES
        is_full = (
            len(batch) + len(group) > BATCH_ENTRIES_MAX
            or transaction_bytes > BATCH_TRANSACTION_BYTES_MAX
            or record_bytes > BATCH_RECORD_BYTES_MAX
            or bool(names & group_names)
            or len(buckets | new_buckets) > NEW_BUCKETS_MAX
        )
        if batch and is_full:
            break
        batch.extend(waiting.pop(0))
        names |= group_names
        segments |= new_segments
        buckets |= new_buckets
    return batch


def _entry_bytes(ready: ReadyObject) -> int:
    return ENTRY_BYTES + EXTENT_BYTES * len(ready.extents) + STORED_EXTENT_BYTES * len(ready.earlier)


def new_buckets(objects: Sequence[ReadyObject]) -> tuple[ReadyBucket, ...]:
    """Return the buckets that objects may need to be made, each once."""
    return tuple({ready.bucket_tag: ready.bucket for ready in objects if ready.bucket is not None}.values())


def commit_body(
    tenant: TenantId, objects: Sequence[ReadyObject], segments: Sequence[StoredSegment], receipts: Sequence[Receipt]
) -> CommitObjects:
    """Return the transaction's body; `objects` in order of bucket, in each segment in order of its bytes."""
    places = {id(segment): position for position, segment in enumerate(segments)}
    buckets: dict[BucketTag, list[EntryCommit]] = {}
    for ready in objects:
        entry = EntryCommit(
            name_tag=ready.name_tag,
            version_id=ready.version_id,
            record_address=ready.record_address,
            extents=(
                *(Extent(segment=places[id(segment)], extent_bytes=count) for segment, count in ready.extents),
                *ready.earlier,
            ),
            condition=ready.condition,
            details=ready.details,
        )
        buckets.setdefault(ready.bucket_tag, []).append(entry)
    return CommitObjects(
        tenant=tenant,
        segments=tuple(
            SegmentCommit(
                segment_id=segment.segment_id,
                k=segment.shape.k,
                segment_bytes=segment.shape.segment_bytes,
                roots=segment.roots,
            )
            for segment in segments
        ),
        buckets=tuple(BucketEntries(bucket_tag=tag, entries=tuple(entries)) for tag, entries in buckets.items()),
        receipts=tuple(receipts),
        new_buckets=tuple(bucket.new_bucket for bucket in new_buckets(objects)),
    )


class Committer:
    """Commits ready objects, all that wait at once in one transaction, one transaction at a time.

    A block costs nine members the same for one object as for a hundred. So writers that were answered together are
    committed together again: what is ready waits, briefly, for the packs that are being stored. With two transactions
    under way the writers split into two halves that paid for twice the blocks.
    """

    def __init__(
        self, chain: Chain, writer: SegmentWriter, signer: TransactionSigner, expiry: Expiry, tenant: TenantId
    ) -> None:
        self._chain = chain
        self._writer = writer
        self._signer = signer
        self._expiry = expiry
        self._tenant = tenant
        self._waiting: list[tuple[ReadyObject, ...]] = []
        self._packs_coming = 0
        self._wakeup = trio.Event()

    @contextmanager
    def pack_coming(self) -> Generator[None]:
        """Say that a pack is being stored, which add() will bring within the block, or never."""
        self._packs_coming += 1
        try:
            yield
        finally:
            self._packs_coming -= 1
            self._wakeup.set()

    def add(self, group: tuple[ReadyObject, ...]) -> None:
        """Queue objects that share a segment, in order of its bytes; the uploads' window bounds the queue."""
        self._waiting.append(group)
        self._wakeup.set()

    async def run(self) -> None:
        """Commit until cancelled."""
        while True:
            if self._waiting:
                await trio.sleep(RETURN_SECONDS)
            while not self._waiting:
                await self._news()
            with trio.move_on_after(GATHER_SECONDS_MAX):
                while self._packs_coming:
                    await self._news()
            await self._commit_or_fail(take_batch(self._waiting))

    async def _news(self) -> None:
        self._wakeup = trio.Event()
        await self._wakeup.wait()

    async def _commit_or_fail(self, batch: list[ReadyObject]) -> None:
        try:
            await self._commit(sorted(batch, key=lambda ready: ready.bucket_tag))
        except GrandestError as error:
            for ready in batch:
                ready.finish(None, error)

    async def _commit(self, batch: list[ReadyObject]) -> None:
        segments = tuple({id(segment): segment for ready in batch for segment, _ in ready.extents}.values())
        expiry_height = await self._expiry.height()
        receipts = await self._writer.certify(segments, expiry_height) if segments else ()
        body = commit_body(self._tenant, batch, segments, receipts)
        transaction = self._signer.sign(body, expiry_height)
        made = tuple(bucket.sealed_record for bucket in new_buckets(batch))
        records = (*made, *(ready.sealed_record for ready in batch))
        commit = await submit_and_wait(self._chain, transaction, records)
        self._expiry.seen(commit.height)
        await self._writer.finish(segments)
        failed = dict(commit.failed_entries)
        for position, ready in enumerate(batch):
            reason = commit.refusal or failed.get(position)
            ready.finish(commit, None if reason is None else NotCommittedError(reason))


async def submit_and_wait(chain: Chain, transaction: bytes, records: Sequence[bytes]) -> Commit:
    """Submit a transaction and wait until the chain carries it; a copy that a node knows already is no error."""
    try:
        submitted = await chain.submit(transaction, records)
    except RejectionError as error:
        if error.reason is not RejectionReason.DUPLICATE_TRANSACTION:
            raise
        submitted = transaction_id(transaction)
    return await chain.wait(submitted)
