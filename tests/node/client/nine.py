"""Holders and a chain in memory, with the real receipts, roots and transactions; seats can die, stick or lie."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from consensus.blocks import NO_CERTIFICATE, Header, header_hash
from consensus.certificates import commit_certificate
from consensus.encoding import encode
from consensus.errors import RejectionError, RejectionReason
from consensus.genesis import ConsensusParameters, Genesis, genesis_hash
from consensus.identifiers import (
    BlockHash,
    CertificateHash,
    Height,
    MemberIndex,
    MerkleRoot,
    Milliseconds,
    PublicKey,
    Round,
    TransactionId,
)
from consensus.signing import SigningKey
from consensus.votes import Precommit, SignedVote, vote_sign_bytes
from node.client.chain import (
    BucketView,
    Changes,
    Commit,
    EntryView,
    ListingPlace,
    SegmentView,
    VersionPlace,
    entry_view,
)
from node.client.client import Client, client_over
from node.client.home import ClientHome, read_client_home, write_client_home
from node.client.links import LeafPlace, LeavesAnswer, ShardName
from node.errors import PeerUnreachableError
from storage.errors import ShardMissingError
from storage.genesis import GenesisTenant, Grant, Seat, StorageGenesis, StorageParameters, encode_storage_genesis
from storage.identifiers import (
    LEAF_BYTES,
    BucketTag,
    ColumnIndex,
    NameTag,
    RecordAddress,
    SeatIndex,
    SegmentId,
    TenantId,
)
from storage.ledger import apply_transactions, check_transactions, genesis_state, ledger_context
from storage.ledger_versions import find_version
from storage.merkle import leaf_hashes, prove, root_of
from storage.moments import Moment
from storage.moves import Move, Voucher
from storage.proofs import CertifiedHeader, StateProof
from storage.receipts import Receipt, ReceiptItem, held_bitmap, sign_receipt
from storage.state import (
    BucketState,
    EntryState,
    MemoryState,
    ObjectName,
    SegmentState,
    bucket_state_key,
    decode_state,
    entry_key,
    read_state,
    segment_key,
)
from storage.state_tree import prove as prove_state
from storage.state_tree import root_of_tree
from storage.stores.listings import list_buckets, list_versions
from tests.node.jumps import pause
from tests.storage.ledger_world import record_addresses

SEATS = 9
GENESIS_HEIGHT = Height(0)


@dataclass
class MemoryHolder:
    """One seat's store."""

    seat: SeatIndex
    nine: Nine
    signing_key: SigningKey
    shards: dict[tuple[SegmentId, ColumnIndex], bytearray] = field(
        default_factory=dict[tuple[SegmentId, ColumnIndex], bytearray]
    )
    links: list[MemoryLink] = field(default_factory=list["MemoryLink"])
    alive: bool = True
    back_after_dials: int | None = None
    """Refused this often, it is alive again."""
    stuck: bool = False
    hangs_at_writes: bool = False
    """Takes connections and answers reads."""
    lying: bool = False
    full: bool = False
    dies_after_pieces: int | None = None
    dies_when_asked: bool = False
    """For a receipt."""
    vouch: Callable[[Move], Awaitable[Voucher]] | None = None
    """Gives its word for moves."""
    bytes_read: int = 0
    places_asked: list[int] = field(default_factory=list[int])
    """How many places each request for small reads named."""

    def kill(self) -> None:
        self.alive = False
        for link in self.links:
            link.gone.set()
        self.links.clear()

    def burn(self) -> None:
        self.kill()
        self.shards.clear()

    def start(self) -> None:
        self.alive = True


@dataclass
class MemoryLink:
    """Implements HolderLink."""

    holder: MemoryHolder
    gone: trio.Event = field(default_factory=trio.Event)

    async def _arrive(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.holder.stuck:
            await trio.sleep_forever()
        if self.gone.is_set():
            raise PeerUnreachableError(f"seat {self.holder.seat} is gone")

    async def store_units(self, shard: ShardName, offset: int, units: memoryview) -> None:
        await self._arrive()
        if self.holder.hangs_at_writes:
            await trio.sleep_forever()
        if self.holder.full:
            raise RejectionError(RejectionReason.QUEUE_FULL, "no more of this tenant")
        if self.holder.dies_after_pieces is not None:
            self.holder.dies_after_pieces -= 1
            if self.holder.dies_after_pieces < 0:
                self.holder.kill()
                raise PeerUnreachableError(f"seat {self.holder.seat} died")
        kept = self.holder.shards.setdefault((shard.segment_id, shard.column), bytearray())
        assert offset <= len(kept), "pieces come in order"
        kept[offset:] = units

    async def ask_receipt(
        self, tenant: TenantId, items: Sequence[ReceiptItem], expiry_height: Height
    ) -> Receipt | None:
        await self._arrive()
        if self.holder.dies_when_asked:
            self.holder.kill()
            raise PeerUnreachableError(f"seat {self.holder.seat} died")
        held = [position for position, item in enumerate(items) if self._holds(item)]
        if not held:
            return None
        return sign_receipt(
            self.holder.signing_key,
            self.holder.nine.genesis_hash,
            tenant=tenant,
            seat=self.holder.seat,
            held=held_bitmap(held, len(items)),
            items=[items[position] for position in held],
            expiry_height=expiry_height,
        )

    def _holds(self, item: ReceiptItem) -> bool:
        shard = self.holder.shards.get((item.segment_id, item.column))
        return shard is not None and root_of(leaf_hashes(shard)) == item.shard_root

    async def read_leaves(
        self, segment_id: SegmentId, column: ColumnIndex, first_leaf: int, leaf_count: int
    ) -> LeavesAnswer:
        shard = self._shard(segment_id, column)
        leaves = await self.read_piece(segment_id, column, first_leaf, leaf_count)
        return LeavesAnswer(leaves, prove(leaf_hashes(shard), first_leaf, leaf_count))

    async def read_piece(
        self, segment_id: SegmentId, column: ColumnIndex, first_leaf: int, leaf_count: int
    ) -> memoryview:
        await self._arrive()
        start = first_leaf * LEAF_BYTES
        leaves = bytearray(self._shard(segment_id, column)[start : start + leaf_count * LEAF_BYTES])
        if self.holder.lying:
            leaves[len(leaves) // 2] ^= 1
        self.holder.bytes_read += len(leaves)
        return memoryview(leaves)

    async def read_places(self, places: Sequence[LeafPlace]) -> tuple[LeavesAnswer | None, ...]:
        self.holder.places_asked.append(len(places))
        found: list[LeavesAnswer | None] = []
        for place in places:
            try:
                found.append(await self.read_leaves(place.segment_id, place.column, place.first_leaf, place.leaf_count))
            except ShardMissingError:
                found.append(None)
        return tuple(found)

    async def ask_voucher(self, move: Move) -> Voucher:
        await self._arrive()
        if self.holder.vouch is None:
            raise RejectionError(RejectionReason.NOT_GRANTED, "vouches for nobody")
        return await self.holder.vouch(move)

    async def read_piece_into(
        self, segment_id: SegmentId, column: ColumnIndex, first_leaf: int, into: Sequence[memoryview]
    ) -> None:
        leaves = -(-sum(view.nbytes for view in into) // LEAF_BYTES)
        rest = await self.read_piece(segment_id, column, first_leaf, leaves)
        for view in into:
            view[:], rest = rest[: view.nbytes], rest[view.nbytes :]

    def _shard(self, segment_id: SegmentId, column: ColumnIndex) -> bytearray:
        shard = self.holder.shards.get((segment_id, column))
        if shard is None:
            raise ShardMissingError(f"no column {column}")
        return shard

    async def ask_height(self) -> Height:
        return Height(0)

    async def read_records(self, addresses: Sequence[RecordAddress]) -> tuple[bytes | None, ...]:
        await self._arrive()
        return tuple(self.holder.nine.chain.records.get(address) for address in addresses)

    async def wait_gone(self) -> None:
        await self.gone.wait()

    async def aclose(self) -> None:
        self.gone.set()


@dataclass
class MemoryChain:
    """Implements Chain: each transaction is the next block, run by the ledger; there is no agreement to wait for."""

    nine: Nine
    state: MemoryState = field(default_factory=MemoryState)
    height: Height = GENESIS_HEIGHT
    records: dict[RecordAddress, bytes] = field(default_factory=dict[RecordAddress, bytes])
    commits: dict[TransactionId, Commit] = field(default_factory=dict[TransactionId, Commit])
    block_seconds: float = 0.0
    """How long a transaction waits for its block."""
    segments_committed: list[SegmentId] = field(default_factory=list[SegmentId])
    changed: list[tuple[Height, tuple[ObjectName, ...]]] = field(
        default_factory=list[tuple[Height, tuple[ObjectName, ...]]]
    )

    async def tip_height(self) -> Height:
        await trio.lowlevel.checkpoint()
        return self.height

    async def submit(self, transaction: bytes, records: Sequence[bytes]) -> TransactionId:
        await trio.lowlevel.checkpoint()
        check_transactions(self.nine.context, [transaction])
        claims = dict(zip(record_addresses(transaction), records, strict=True))
        self.height = Height(self.height + 1)
        moment = Moment(height=self.height, time_ms=Milliseconds(1_000 * self.height), certificate=NO_CERTIFICATE)
        change = apply_transactions(self.nine.context, self.state, moment, [transaction])
        self.state.commit(change.values, change.pages)
        self.records |= {address: claims[address] for address in change.added_records}
        for address in change.erased_records:
            self.records.pop(address, None)
        self.segments_committed += change.committed_segments
        self.changed.append((self.height, change.changed_objects))
        (outcome,) = change.outcomes
        self.commits[outcome.transaction] = Commit(
            transaction_id=outcome.transaction,
            height=self.height,
            refusal=None if outcome.reason is None else outcome.reason.value,
            failed_entries=tuple((failed.index, failed.reason.value) for failed in outcome.failed_entries),
        )
        return outcome.transaction

    async def wait(self, transaction_id: TransactionId) -> Commit:
        await pause(self.block_seconds)
        return self.commits[transaction_id]

    async def find_entries(self, places: Sequence[ListingPlace]) -> tuple[EntryView | None, ...]:
        await trio.lowlevel.checkpoint()
        return tuple(self.entry_now(place.bucket_tag, place.name_tag) for place in places)

    def entry_now(self, bucket_tag: BucketTag, name_tag: NameTag) -> EntryView | None:
        state = read_state(self.state, entry_key(self.nine.home.tenant, bucket_tag, name_tag), EntryState)
        return None if state is None else entry_view(bucket_tag, name_tag, state)

    async def entries(
        self, bucket_tag: BucketTag | None, after: ListingPlace | None, entries_max: int
    ) -> tuple[EntryView, ...]:
        await trio.lowlevel.checkpoint()
        prefix = b"e" + self.nine.home.tenant + (bucket_tag or b"")
        start = b"" if after is None else b"e" + self.nine.home.tenant + after.bucket_tag + after.name_tag
        rows = sorted(row for row in self.state.values if row.startswith(prefix) and row > start)[:entries_max]
        return tuple(
            entry_view(BucketTag(row[17:33]), NameTag(row[33:]), decode_state(self.state.values[row], EntryState))
            for row in rows
        )

    async def find_versions(self, places: Sequence[VersionPlace]) -> tuple[EntryView | None, ...]:
        await trio.lowlevel.checkpoint()
        found: list[EntryView | None] = []
        for place in places:
            name = ObjectName(self.nine.home.tenant, place.bucket_tag, place.name_tag)
            state = find_version(self.state, name, place.version_name)
            found.append(None if state is None else entry_view(place.bucket_tag, place.name_tag, state))
        return tuple(found)

    async def versions(
        self, bucket_tag: BucketTag | None, after: VersionPlace | None, versions_max: int
    ) -> tuple[EntryView, ...]:
        await trio.lowlevel.checkpoint()
        place = None if after is None else (after.bucket_tag, after.name_tag, after.version_name)
        found = list_versions(self, self.nine.home.tenant, bucket_tag, after=place, limit=versions_max)
        return tuple(entry_view(listed.bucket_tag, listed.name_tag, listed.state) for listed in found)

    async def find_buckets(self, bucket_tags: Sequence[BucketTag]) -> tuple[BucketView | None, ...]:
        await trio.lowlevel.checkpoint()
        keys = [bucket_state_key(self.nine.home.tenant, tag) for tag in bucket_tags]
        states = [read_state(self.state, state_key, BucketState) for state_key in keys]
        found = zip(bucket_tags, states, strict=True)
        return tuple(None if state is None else bucket_view(tag, state) for tag, state in found)

    async def buckets(self, after: BucketTag | None, buckets_max: int) -> tuple[BucketView, ...]:
        await trio.lowlevel.checkpoint()
        found = list_buckets(self, self.nine.home.tenant, after=after, limit=buckets_max)
        return tuple(bucket_view(tag, state) for tag, state in found)

    def rows(self, prefix: bytes, after: bytes, limit: int) -> Sequence[tuple[bytes, bytes]]:
        names = sorted(row for row in self.state.values if row.startswith(prefix) and (row > after or after == prefix))
        return [(name, self.state.values[name]) for name in names[:limit]]

    async def changes(self, above: Height, held_seconds: float = 0.0) -> Changes:
        await trio.lowlevel.checkpoint()
        blocks = [(height, names) for height, names in self.changed if height > above]
        objects = {ListingPlace(name.bucket_tag, name.name_tag): None for _, names in blocks for name in names}
        return Changes(self.height, tuple(objects))

    async def find_segments(self, segment_ids: Sequence[SegmentId]) -> tuple[SegmentView | None, ...]:
        await trio.lowlevel.checkpoint()
        return tuple(self.segment_now(segment_id) for segment_id in segment_ids)

    async def member_changes(self) -> tuple[bytes, ...]:
        await trio.lowlevel.checkpoint()
        return ()

    async def proof(self, state_key: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        header = Header(
            protocol_version=1,
            chain_id="test",
            height=Height(self.height + 1),
            parent_hash=BlockHash(bytes(32)),
            parent_commit_hash=CertificateHash(bytes(32)),
            transactions_root=MerkleRoot(bytes(32)),
            state_root=root_of_tree(self.state),
            evidence_root=MerkleRoot(bytes(32)),
            proposer=MemberIndex(0),
            time_ms=Milliseconds(0),
        )
        votes = [self._precommit(header, MemberIndex(member)) for member in range(6)]
        certified = CertifiedHeader(header=header, commit=commit_certificate(votes))
        value = self.state.value(state_key)
        return encode(StateProof(certified=certified, value=value, tree=prove_state(self.state, state_key)))

    def _precommit(self, header: Header, member: MemberIndex) -> SignedVote:
        vote = Precommit(height=header.height, round=Round(0), block_hash=header_hash(header), member=member)
        signing_key = self.nine.holders[member].signing_key
        return SignedVote(vote=vote, signature=signing_key.sign(vote_sign_bytes(vote, self.nine.genesis_hash)))

    def segment_now(self, segment_id: SegmentId) -> SegmentView | None:
        state = read_state(self.state, segment_key(segment_id), SegmentState)
        if state is None:
            return None
        return SegmentView(
            segment_id=segment_id,
            k=state.k,
            segment_bytes=state.segment_bytes,
            roots=state.roots,
            receipted=frozenset(ColumnIndex(column) for column in state.columns),
        )

    def live_segments(self) -> tuple[SegmentView, ...]:
        found = (self.segment_now(SegmentId(row[1:])) for row in self.state.values if row[:1] == b"x")
        return tuple(segment for segment in found if segment is not None)


class Nine:
    """Nine holders and their chain."""

    def __init__(self, folder: Path, parameters: StorageParameters | None = None) -> None:
        keys = [SigningKey(secrets.token_bytes(32)) for _ in range(SEATS)]
        client_key = SigningKey(secrets.token_bytes(32))
        self.owner_key = SigningKey(secrets.token_bytes(32))
        tenant = TenantId(secrets.token_bytes(16))
        self.genesis = Genesis(
            chain_id="test",
            time_ms=Milliseconds(0),
            members=tuple(signing_key.public for signing_key in keys),
            parameters=ConsensusParameters(),
            application=encode_storage_genesis(
                _application(
                    keys, tenant, (client_key.public, self.owner_key.public), parameters or StorageParameters()
                )
            ),
        )
        self.genesis_hash = genesis_hash(self.genesis)
        self.context = ledger_context(self.genesis)
        self.holders = [MemoryHolder(SeatIndex(seat), self, keys[seat]) for seat in range(SEATS)]
        self.chain = MemoryChain(self)
        start = genesis_state(self.genesis)
        self.chain.state.commit(start.values, start.pages)
        self.folder = folder / "client"
        write_client_home(
            self.folder,
            signing_seed=client_key.seed(),
            master_seed=secrets.token_bytes(32),
            tenant=tenant,
            genesis=encode(self.genesis),
        )
        self.home: ClientHome = read_client_home(self.folder)

    async def connect(self, seat: SeatIndex) -> MemoryLink:
        await trio.lowlevel.checkpoint()
        holder = self.holders[seat]
        if holder.stuck:
            await trio.sleep_forever()
        if holder.back_after_dials is not None:
            holder.back_after_dials -= 1
            if holder.back_after_dials == 0:
                holder.start()
        if not holder.alive:
            raise PeerUnreachableError(f"seat {seat}: connection refused")
        link = MemoryLink(holder)
        holder.links.append(link)
        return link

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[Client, None]:
        async with client_over(self.home, self.chain, self.connect) as client:
            yield client


def _application(
    keys: Sequence[SigningKey], tenant: TenantId, clients: tuple[PublicKey, PublicKey], parameters: StorageParameters
) -> StorageGenesis:
    seats = tuple(
        Seat(
            operator=f"operator {seat}",
            site=f"site {seat}",
            network_key=signing_key.public,
            certificate=b"certificate",
            host="127.0.0.1",
            libp2p_port=1,
            shard_port=1,
            api_port=1,
        )
        for seat, signing_key in enumerate(keys)
    )
    client, owner_key = clients
    grant = Grant(public_key=client, certificate=b"certificate")
    owner = GenesisTenant(tenant=tenant, public_key=owner_key, grants=(grant,))
    return StorageGenesis(seats=seats, tenants=(owner,), parameters=parameters)


def bucket_view(bucket_tag: BucketTag, state: BucketState) -> BucketView:
    """Return the view of a bucket of the ledger's state."""
    return BucketView(
        bucket_tag=bucket_tag,
        version_id=state.version_id,
        record_address=state.record_address,
        versioning=state.versioning,
        lock=state.lock,
        entry_count=state.entry_count,
        height=state.height,
    )
