"""The client: put, get, delete, list and stat over the nine, from one open object.

    async with open_client(read_client_home(Path("HOME/client"))) as client:
        await client.put("photos", "2026/cat.jpg", bytes_source(picture))
        picture = await client.get("photos", "2026/cat.jpg")

Many tasks may use one client at once; their small objects share segments and transactions.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from typing import TYPE_CHECKING, Final

import trio

from consensus.genesis import genesis_hash
from consensus.quorum import fault_budget
from node.buffers import BufferPool
from node.client.buckets import Buckets
from node.client.chain import FOUND_MAX, ListingPlace, VersionPlace
from node.client.commits import Committer, Expiry, TransactionSigner, submit_and_wait
from node.client.completion import Completer
from node.client.download import ObjectReader, OpenObject
from node.client.errors import NotCommittedError, ObjectMissingError
from node.client.frame_proving import FrameProver
from node.client.gathering import Gathering
from node.client.holders import HolderPool
from node.client.new_objects import Description, NewObject
from node.client.proving import prover_of
from node.client.reading import SegmentReader
from node.client.records import Keyring, RecordReader, SealedRecords
from node.client.results import (
    Acknowledgement,
    ColumnStatus,
    Listed,
    ObjectStatus,
    ProvenObject,
    SegmentStatus,
)
from node.client.rewrapping import Rewrapped, Rewrapper
from node.client.seats import genesis_seats
from node.client.shares import SegmentWriter, WriterIdentity
from node.client.spool import Spool
from node.client.trial import trial_of
from node.client.upload import Uploader
from node.client.versions import Versions, VersionsParts
from node.nurseries import open_plain_nursery
from storage.buckets import EntryKind, Versioning
from storage.errors import NotEnoughShardsError, ShardMissingError
from storage.identifiers import COLUMNS_MAX, ColumnIndex, SeatIndex
from storage.membership import placement_of
from storage.segments import SegmentShape
from storage.tags import BucketKeys, bucket_tag, name_tag
from storage.transactions import DeleteEntries, EntryName

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from node.client.chain import Chain, Commit, EntryView, SegmentView
    from node.client.download import Sink
    from node.client.home import ClientHome
    from node.client.links import Connect
    from node.client.new_objects import ReadyObject
    from node.client.upload import Source
    from storage.identifiers import SegmentId, TenantId
    from storage.state import SeatState
    from storage.tags import MasterKey
    from storage.transactions import Body

SEALED_SECONDS: Final = 5.0
"""How long put() waits for the columns of absent holders when asked to."""
SEGMENTS_CACHED_MAX: Final = 4_096
RECEIPTS_SECONDS: Final = 0.1
"""So often at most the chain is asked again whether a segment has more of them: while sites are down none has."""
LISTED_AT_ONCE: Final = 512
PROBES_AT_ONCE: Final = 16
QUESTIONS_IN_FLIGHT: Final = 2
"""Of each kind: one is answered while the next gathers what comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    pool: HolderPool
    chain: Chain
    uploader: Uploader
    buffers: BufferPool
    completer: Completer
    reader: SegmentReader
    entries: Gathering[ListingPlace, EntryView | None]
    segments: Gathering[SegmentId, SegmentView | None]
    records: RecordReader
    keyring: Keyring
    signer: TransactionSigner
    expiry: Expiry
    columns: int


class Client:
    """An open client; made by open_client()."""

    def __init__(self, home: ClientHome, parts: _Parts) -> None:
        self._tenant = home.tenant
        self._genesis = home.genesis
        self._parts = parts
        self._objects = ObjectReader(parts.reader, self.segment, parts.buffers)
        self._segments: OrderedDict[SegmentId, SegmentView] = OrderedDict()
        self._receipts_until = 0.0
        self.frames = FrameProver(self.chain, home.genesis, parts.reader, self.segment, self._looked_up_again)
        """Proven, one by one, to whoever knows the members' keys alone."""
        self.buckets = Buckets(home.tenant, parts.chain, parts.records, parts.keyring, self.transact)
        """Made, listed, changed and deleted."""
        self.versions = Versions(
            VersionsParts(
                tenant=home.tenant,
                chain=parts.chain,
                records=parts.records,
                keyring=parts.keyring,
                buckets=self.buckets,
                uploader=parts.uploader,
                transact=self.transact,
            )
        )
        """Markers, deletion by version, retention, tags, parts, copies."""

    @property
    def pool(self) -> HolderPool:
        """Which holders are live, and the faults they were caught at."""
        return self._parts.pool

    @property
    def chain(self) -> Chain:
        """The chain, for raw questions."""
        return self._parts.chain

    @property
    def tenant(self) -> TenantId:
        """Whose objects these are."""
        return self._tenant

    @property
    def records(self) -> RecordReader:
        """Sealed records, fetched and opened."""
        return self._parts.records

    def renew_keys(self, master_keys: Sequence[MasterKey]) -> None:
        """Take over the tenant's master keys after a revocation: the same and later ones."""
        self._parts.keyring.renew(master_keys)

    async def entry(self, place: ListingPlace) -> EntryView | None:
        """Return the current version or marker of a name; asked together with what others ask now."""
        return await self._parts.entries.ask(place)

    async def put(
        self, bucket: str, name: str, source: Source, *, content_type: str = "", condition: bytes | None = None
    ) -> Acknowledgement:
        """Store an object; returns once every live holder has signed for it, k + r at least, and it is on chain.

        Args:
            bucket: Made by its first object.
            name: Of the object, UTF-8.
            source: Its bytes.
            content_type: Kept in its record.
            condition: Empty: only when nothing has this name; 16 bytes: only when that version has it.

        Raises:
            TooFewHoldersError: Fewer live holders than any write may use; nothing was written.
            NotCommittedError: The chain refused, for example by the condition.
            PeerUnreachableError: No node answers.
            RejectionError: A name or metadata beyond the limits.
        """
        new = NewObject(
            name=name,
            keys=self._keys(bucket),
            describe=lambda: Description(content_type=content_type),
            condition=condition,
            bucket=await self.buckets.made_by_need(bucket),
        )
        return await self.store(new, source)

    async def store(self, new: NewObject, source: Source) -> Acknowledgement:
        """Store a version as put() does, with everything that its record may say; its bucket is there, or in `new`.

        Raises:
            NotCommittedError: condition_failed, bucket_unknown, quota_exceeded, lock_off.
            Others as put() does, and what `source` and `new.describe` raise.
        """
        return self.acknowledged(await self._parts.uploader.put(new, source))

    def acknowledged(self, ready: ReadyObject) -> Acknowledgement:
        """Return what a committed write has."""
        assert ready.commit is not None, "what was not committed is raised"
        self._parts.completer.wake()
        segments = tuple({id(segment): segment for segment, _ in ready.extents}.values())
        return Acknowledgement(
            version_id=ready.version_id,
            transaction_id=ready.commit.transaction_id,
            height=ready.commit.height,
            receipts=min((len(segment.stored) for segment in segments), default=self._parts.columns),
            columns=self._parts.columns,
            segment_ids=tuple(segment.segment_id for segment in segments),
        )

    async def wait_sealed(self, segment_ids: Sequence[SegmentId], seconds: float = SEALED_SECONDS) -> bool:
        """Wait until no column of these segments waits in the spool; False when it still does after that time."""
        with trio.move_on_after(seconds) as scope:
            await self._parts.completer.wait_sealed(segment_ids)
        return not scope.cancelled_caught

    async def open(self, bucket: str, name: str) -> OpenObject:
        """Find an object and open its record.

        Raises:
            ObjectMissingError: There is none of this name.
        """
        keys = self._keys(bucket)
        entry = await self._parts.entries.ask(ListingPlace(keys.tag, name_tag(keys.tag_key, name)))
        if entry is None or entry.kind is EntryKind.MARKER:
            raise ObjectMissingError(f"no object {bucket}/{name}")
        return await self.open_entry(entry)

    async def open_entry(self, entry: EntryView) -> OpenObject:
        """Open the record of a version or marker, and its part list if it has one."""
        opened = OpenObject(entry=entry, record=await self._parts.records.open(entry))
        return await self._objects.with_part_list(opened)

    async def read(self, opened: OpenObject, sink: Sink, first: int = 0, byte_count: int | None = None) -> None:
        """Give a range of an object to the sink, in order; memory stays flat.

        Segments that were replaced meanwhile are looked up again, and the read goes on where it was.
        """
        given = 0

        async def give(piece: memoryview) -> None:
            nonlocal given
            await sink(piece)
            given += len(piece)

        while True:
            left = None if byte_count is None else byte_count - given
            try:
                return await self._objects.stream(opened, give, first + given, left)
            except (NotEnoughShardsError, ShardMissingError):
                moved = await self._looked_up_again(opened)
                if moved.entry.references == opened.entry.references:
                    raise
                opened = moved

    async def _looked_up_again(self, opened: OpenObject) -> OpenObject:
        """Return an object with its references of now: members may have moved its bytes (rule T72)."""
        entry = opened.entry
        place = VersionPlace(entry.bucket_tag, entry.name_tag, entry.version_name)
        (found,) = await self.chain.find_versions((place,))
        is_same = found is not None and found.record_address == entry.record_address
        return replace(opened, entry=found) if found is not None and is_same else opened

    async def get(self, bucket: str, name: str, first: int = 0, byte_count: int | None = None) -> bytes:
        """Return an object's bytes, or a range of them; for large ones open() and read()."""
        opened = await self.open(bucket, name)
        kept = BytesIO()

        async def keep(piece: memoryview) -> None:
            kept.write(piece)

        await self.read(opened, keep, first, byte_count)
        return kept.getvalue()

    async def delete(self, bucket: str, names: Sequence[str]) -> Commit:
        """Delete objects in one transaction; names that are not there are left out by the chain.

        Raises:
            NotCommittedError: The chain refused all of it.
        """
        keys = self._keys(bucket)
        (view,) = await self.chain.find_buckets((keys.tag,))
        if view is not None and view.versioning is not Versioning.OFF:
            return await self._mark(bucket, names)
        entries = tuple(
            EntryName(bucket_tag=keys.tag, name_tag=name_tag(keys.tag_key, name), version_id=None) for name in names
        )
        return await self.transact(DeleteEntries(tenant=self._tenant, entries=entries))

    async def _mark(self, bucket: str, names: Sequence[str]) -> Commit:
        """Put a marker above each of these names; they share transactions."""
        commits: list[Commit] = []

        async def mark(name: str) -> None:
            ready = await self.versions.mark(bucket, name)
            commits.extend([] if ready.commit is None else [ready.commit])

        async with open_plain_nursery() as nursery:
            for name in names:
                nursery.start_soon(mark, name)
        return max(commits, key=lambda commit: commit.height)

    async def transact(self, body: Body, records: Sequence[bytes] = ()) -> Commit:
        """Sign, submit and wait for a transaction of this client.

        Raises:
            NotCommittedError: The chain carried it and refused it.
        """
        transaction = self._parts.signer.sign(body, await self._parts.expiry.height())
        commit = await submit_and_wait(self.chain, transaction, records)
        self._parts.expiry.seen(commit.height)
        if commit.refusal is not None:
            raise NotCommittedError(commit.refusal)
        return commit

    async def listing(self, bucket: str | None = None, prefix: str = "") -> AsyncGenerator[Listed, None]:
        """Give the objects of a bucket, or of all, whose names begin with the prefix; in order of tags."""
        names = [found.settings.name for found in await self.buckets.listing()] if bucket is None else [bucket]
        for name in names:
            async for listed in self._listing(name, prefix):
                yield listed

    async def _listing(self, bucket: str, prefix: str) -> AsyncGenerator[Listed, None]:
        tag = self._keys(bucket).tag
        after: ListingPlace | None = None
        while entries := await self.chain.entries(tag, after, LISTED_AT_ONCE):
            for listed in await self._opened(bucket, entries):
                if listed.object_record.name.startswith(prefix):
                    yield listed
            after = ListingPlace(entries[-1].bucket_tag, entries[-1].name_tag)

    async def rewrap(self) -> Rewrapped:
        """Seal every record again that is not under the latest master key; for a tenant after a revocation."""
        parts = self._parts
        again = Rewrapper(self._tenant, parts.chain, parts.records, parts.keyring, self.buckets, self.transact)
        return await again.run()

    async def stat(self, opened: OpenObject) -> ObjectStatus:
        """Ask every holder of an object for one random leaf with its path, and check it against the chain's roots."""
        ids = tuple(dict.fromkeys(reference.segment_id for reference in opened.entry.references))
        self._segments.clear()  # what the chain says now
        return await self._status(opened, [await self.segment(segment_id) for segment_id in ids])

    async def _status(self, opened: OpenObject, segments: Sequence[SegmentView]) -> ObjectStatus:
        statuses: dict[tuple[int, int], ColumnStatus] = {}
        probes = trio.CapacityLimiter(PROBES_AT_ONCE)

        async def probe(position: int, column: ColumnIndex) -> None:
            async with probes:
                statuses[position, column] = await self._probe(segments[position], column)

        async with trio.open_nursery() as nursery:
            for position, segment in enumerate(segments):
                for column in range(len(segment.roots)):
                    nursery.start_soon(probe, position, ColumnIndex(column))
        return ObjectStatus(
            opened,
            tuple(
                SegmentStatus(segment, tuple(statuses[position, column] for column in range(len(segment.roots))))
                for position, segment in enumerate(segments)
            ),
            self._parts.columns,
        )

    async def verify(self, bucket: str, name: str) -> ProvenObject:
        """Fetch the proofs of an object's entry and segments, and check them against the members' signatures alone.

        Nothing that a node says is believed: keys come from the genesis, every root from a header that a quorum signed,
        the record from its address, and one random leaf of every column from the proven roots.

        Raises:
            ObjectMissingError: Its absence is proven.
            RejectionError: A node lied: BAD_PROOF, NO_QUORUM, BAD_SIGNATURE and others, with what was wrong.
        """
        keys = self._keys(bucket)
        tag = name_tag(keys.tag_key, name)
        prover = await prover_of(self.chain, self._genesis)
        proven = await prover.entry(self._tenant, keys.tag, tag)
        if proven is None or proven.value.kind is EntryKind.MARKER:
            raise ObjectMissingError(f"no object {bucket}/{name}: its absence is proven")
        opened = await self.open_entry(proven.value)
        ids = tuple(dict.fromkeys(reference.segment_id for reference in proven.value.references))
        segments = [await prover.segment(segment_id) for segment_id in ids]
        for segment in segments:
            self._segments[segment.value.segment_id] = segment.value
        status = await self._status(opened, [segment.value for segment in segments])
        return ProvenObject(proven.height, proven.signers, status)

    async def receipts(self, segment_id: SegmentId) -> tuple[int, int]:
        """Return how many columns of a segment have receipts, and how many there are; raises ShardMissingError."""
        segment = await self.segment(segment_id)
        if len(segment.receipted) < self._parts.columns and trio.current_time() >= self._receipts_until:
            self._receipts_until = trio.current_time() + RECEIPTS_SECONDS
            self._segments.pop(segment_id, None)
            segment = await self.segment(segment_id)
        return len(segment.receipted), self._parts.columns

    async def segment(self, segment_id: SegmentId) -> SegmentView:
        """Return a segment of the chain; remembered, since its coding never changes.

        Raises:
            ShardMissingError: The chain has none.
        """
        known = self._segments.get(segment_id)
        if known is not None:
            return known
        segment = await self._parts.segments.ask(segment_id)
        if segment is None:
            raise ShardMissingError(f"segment {segment_id.hex()[:16]} is not on chain")
        self._segments[segment_id] = segment
        if len(self._segments) > SEGMENTS_CACHED_MAX:
            self._segments.popitem(last=False)
        return segment

    async def _opened(self, bucket: str, entries: Sequence[EntryView]) -> list[Listed]:
        objects = [entry for entry in entries if entry.kind is EntryKind.OBJECT]
        sealed = await self._parts.records.fetch(objects)
        listed: list[Listed] = []
        for entry in objects:
            if entry.record_address in sealed:
                record = self._parts.records.unseal(entry, sealed[entry.record_address])
                opened = await self._objects.with_part_list(OpenObject(entry=entry, record=record))
                listed.append(Listed(bucket, opened))
        return listed

    async def _probe(self, segment: SegmentView, column: ColumnIndex) -> ColumnStatus:
        seat = self._parts.reader.seats(segment)[column]
        if not self._parts.reader.is_live(segment, column):
            return ColumnStatus(seat, "down")
        shape = SegmentShape(segment.segment_bytes, segment.k, self._parts.columns)
        leaf = secrets.randbelow(shape.leaves)
        found = await self._parts.reader.fetch_column(segment, column, range(leaf, leaf + 1))
        return ColumnStatus(seat, "missing" if found is None else "stored")

    def _keys(self, bucket: str) -> BucketKeys:
        return self._parts.keyring.bucket(bucket_tag(self._parts.keyring.tag_key, bucket))


@asynccontextmanager
async def client_over(
    home: ClientHome, chain: Chain, connect: Connect, seats: Sequence[SeatState] | None = None
) -> AsyncGenerator[Client, None]:
    """Run a client on a given chain and given links; open_client() gives it the real ones.

    Args:
        home: Of the client.
        chain: Asked for everything that is on chain.
        connect: Opens links to holders.
        seats: Every seat that ever was, by number; those of genesis when None.
    """
    async with open_plain_nursery() as nursery:
        yield await _start(home, chain, connect, seats or genesis_seats(home), nursery)
        nursery.cancel_scope.cancel()


async def _start(
    home: ClientHome, chain: Chain, connect: Connect, seats: Sequence[SeatState], nursery: trio.Nursery
) -> Client:
    seat_keys = {SeatIndex(number): seat.signing_key for number, seat in enumerate(seats) if seat.closed is None}
    columns = min(len(seat_keys), COLUMNS_MAX)
    identity = WriterIdentity(
        tenant=home.tenant,
        genesis_hash=genesis_hash(home.genesis),
        seat_keys=seat_keys,
        budget=fault_budget(columns),
        columns=columns,
    )
    expiry = Expiry(chain)
    pool = HolderPool(tuple(identity.seat_keys), connect, identity.budget.quorum, trial=trial_of(identity, expiry))
    keyring = Keyring(home.master_keys)
    signer = TransactionSigner(home.signing_key, identity.genesis_hash)
    spool = await trio.to_thread.run_sync(Spool, home.spool, columns)
    reader = SegmentReader(pool, placement_of(seats), columns)
    writer = SegmentWriter(pool, identity, reader, spool)
    committer = Committer(chain, writer, signer, expiry, home.tenant)
    completer = Completer(
        pool=pool, chain=chain, spool=spool, identity=identity, reader=reader, signer=signer, expiry=expiry
    )
    entries = Gathering(chain.find_entries, together_max=FOUND_MAX, in_flight_max=QUESTIONS_IN_FLIGHT)
    segments = Gathering(chain.find_segments, together_max=FOUND_MAX, in_flight_max=QUESTIONS_IN_FLIGHT)
    sealed_records = SealedRecords(pool, home.tenant)
    records = RecordReader(sealed_records, keyring)
    for task in (pool.run, committer.run, completer.run, entries.run, segments.run, sealed_records.run, reader.run):
        nursery.start_soon(task)
    await pool.settle()
    buffers = BufferPool()
    parts = _Parts(
        pool=pool,
        chain=chain,
        uploader=Uploader(writer, committer, home.tenant, nursery, buffers),
        buffers=buffers,
        completer=completer,
        reader=reader,
        entries=entries,
        segments=segments,
        records=records,
        keyring=keyring,
        signer=signer,
        expiry=expiry,
        columns=columns,
    )
    return Client(home, parts)
