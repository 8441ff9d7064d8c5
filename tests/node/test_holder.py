"""A holder keeps, signs and serves by right; what it cannot vouch for it neither signs nor serves."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import msgspec
import pytest
import trio

from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import GenesisHash, Height, Milliseconds, PublicKey
from consensus.signing import SigningKey
from node.cli.asked_node import parts
from node.clock import now_ms
from node.holder import Holder, HolderIdentity
from node.moved_in import MOVES_WAITING_MAX
from node.network.certificates import make_certificate
from node.network.shard_channel import MemberReads, ShardServer, open_shard_client
from node.network.shard_messages import (
    AskHeld,
    AskReceipt,
    AskVoucher,
    HeldAnswer,
    LeavesAnswer,
    Message,
    PieceAnswer,
    RangesAnswer,
    ReadLeaves,
    ReadPiece,
    ReadRanges,
    ReadRecords,
    ReceiptAnswer,
    RecordsAnswer,
    Request,
    RequestFrame,
    Stored,
    StoreUnits,
    VoucherAnswer,
    ranges_asked,
)
from node.read_book import ReadBook
from storage.errors import ShardCorruptError, ShardMissingError
from storage.identifiers import UNIT_BYTES, ColumnIndex, RecordAddress, SeatIndex, SegmentId, ShardRoot, TenantId
from storage.merkle import check_range, check_shard, leaf_hashes, root_of
from storage.moves import Move, MovedRange, Voucher, sign_move
from storage.read_receipts import LeafRange, ReadReceipt, check_read, decode_read, sign_read
from storage.receipts import ReceiptItem, check_receipt, held_positions
from storage.segments import SegmentShape, code_segment
from storage.state import SegmentState
from storage.stores.memory import MemoryShardStore
from storage.stores.protocols import ShardName
from storage.stores.units import LevelShardStore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from storage.stores.protocols import ShardStore

MEMBER: Final = PublicKey(b"m" * 32)
CLIENT: Final = PublicKey(b"c" * 32)
RIVAL: Final = PublicKey(b"r" * 32)
TENANT: Final = TenantId(b"t" * 16)
RIVALS: Final = TenantId(b"v" * 16)
GENESIS: Final = GenesisHash(b"g" * 32)
SIGNING_KEY: Final = SigningKey(b"s" * 32)
SEAT: Final = SeatIndex(4)
SEATS: Final = tuple(SeatIndex(seat) for seat in range(9))
COLUMN: Final = ColumnIndex(2)
START: Final = Height(10)
SHAPE: Final = SegmentShape(500_000, 6)
SHARD: Final = bytes(position % 253 for position in range(SHAPE.shard_bytes))
ROOT: Final = root_of(leaf_hashes(SHARD))


@dataclass
class Chain:
    """What the ledger would say."""

    members: set[PublicKey] = field(default_factory=lambda: {MEMBER})
    grants: set[tuple[PublicKey, TenantId]] = field(default_factory=lambda: {(CLIENT, TENANT), (RIVAL, RIVALS)})
    live: dict[SegmentId, SegmentState] = field(default_factory=dict[SegmentId, SegmentState])
    freed: set[SegmentId] = field(default_factory=set[SegmentId])
    records: dict[RecordAddress, TenantId] = field(default_factory=dict[RecordAddress, TenantId])
    at: Height = START

    def height(self) -> Height:
        return self.at

    def is_member(self, peer: PublicKey) -> bool:
        return peer in self.members

    def is_granted(self, peer: PublicKey, tenant: TenantId) -> bool:
        return (peer, tenant) in self.grants

    def segment(self, segment_id: SegmentId) -> SegmentState | None:
        return self.live.get(segment_id)

    def is_freed(self, segment_id: SegmentId) -> bool:
        return segment_id in self.freed

    def record_tenant(self, address: RecordAddress) -> TenantId | None:
        return self.records.get(address)


@dataclass
class Records:
    rows: dict[RecordAddress, bytes] = field(default_factory=dict[RecordAddress, bytes])

    def read(self, addresses: Sequence[RecordAddress]) -> dict[RecordAddress, bytes]:
        return {address: self.rows[address] for address in addresses if address in self.rows}


@dataclass
class Place:
    """A holder with all it stands on."""

    shards: ShardStore = field(default_factory=MemoryShardStore)
    chain: Chain = field(default_factory=Chain)
    records: Records = field(default_factory=Records)
    corrupt: list[ShardName] = field(default_factory=list[ShardName])
    holder: Holder = field(init=False)

    def __post_init__(self) -> None:
        self.holder = Holder(
            identity=HolderIdentity(
                seat=SEAT, seats=SEATS, signing_key=SIGNING_KEY, genesis_hash=GENESIS, network_key=SIGNING_KEY.public
            ),
            shards=self.shards,
            records=self.records,
            chain=self.chain,
            on_corrupt=self.corrupt.append,
        )

    async def ask(self, peer: PublicKey, body: Request, bulk: bytes = b"") -> Message:
        return await self.holder.answer(peer, RequestFrame(1, body, memoryview(bulk)))

    async def store(self, segment_id: SegmentId, peer: PublicKey = CLIENT, tenant: TenantId = TENANT) -> None:
        for offset in range(0, len(SHARD), UNIT_BYTES):
            answer = await self.ask(peer, _store(segment_id, offset, tenant), SHARD[offset : offset + UNIT_BYTES])
            assert answer.body == Stored()

    async def receipt(self, *items: ReceiptItem, expiry: int = 20, peer: PublicKey = CLIENT) -> ReceiptAnswer:
        answer = await self.ask(peer, AskReceipt(tenant=TENANT, items=items, expiry_height=Height(expiry)))
        assert isinstance(answer.body, ReceiptAnswer)
        return answer.body


def _segment(number: int) -> SegmentId:
    """Return one of the ids whose column 2 lies at seat 4."""
    return SegmentId((2).to_bytes(8, "big") + bytes([number]) * 24)


def _committed(*, tenant: TenantId = TENANT, k: int = SHAPE.k, root: ShardRoot = ROOT) -> SegmentState:
    return SegmentState(
        tenant=tenant,
        k=k,
        segment_bytes=SHAPE.segment_bytes,
        roots=(root,) * 9,
        columns=(),
        references=1,
        height=Height(1),
        vouched_at=Height(1),
    )


def _store(segment_id: SegmentId, offset: int, tenant: TenantId = TENANT) -> StoreUnits:
    return StoreUnits(
        tenant=tenant, segment_id=segment_id, column=COLUMN, k=SHAPE.k, segment_bytes=SHAPE.segment_bytes, offset=offset
    )


def _item(number: int, root: ShardRoot = ROOT, shard_bytes: int = len(SHARD)) -> ReceiptItem:
    return ReceiptItem(segment_id=_segment(number), column=COLUMN, shard_root=root, shard_bytes=shard_bytes)


async def test_a_receipt_covers_exactly_what_is_held_with_the_root_asked() -> None:
    place = Place()
    for number in (1, 3, 4, 5):
        await place.store(_segment(number))
    await place.ask(CLIENT, _store(_segment(6), 0), SHARD[:UNIT_BYTES])
    batch = (_item(1), _item(2), _item(3), _item(4, ShardRoot(b"x" * 32)), _item(5, shard_bytes=64), _item(6))
    receipt = (await place.receipt(*batch)).receipt
    assert receipt is not None
    assert held_positions(receipt.held, len(batch)) == (0, 2)
    assert check_receipt(receipt, GENESIS, tenant=TENANT, batch=batch, public_key=SIGNING_KEY.public) == (0, 2)
    assert (receipt.seat, receipt.expiry_height) == (SEAT, 20)
    assert (await place.receipt(_item(2), _item(6))).receipt is None


@pytest.mark.parametrize("expiry", [0, 9, 10, 1_011])
async def test_a_receipt_expires_after_now_and_within_the_limit(expiry: int) -> None:
    place = Place()
    await place.store(_segment(1))
    with pytest.raises(RejectionError) as refused:
        await place.receipt(_item(1), expiry=expiry)
    assert refused.value.reason is RejectionReason.TOO_LATE


async def test_a_segment_asked_for_twice_is_refused() -> None:
    place = Place()
    await place.store(_segment(1))
    with pytest.raises(RejectionError, match="twice"):
        await place.receipt(_item(1), _item(1))


async def test_only_who_acts_for_a_tenant_stores_and_asks_receipts() -> None:
    place = Place()
    with pytest.raises(RejectionError) as refused:
        await place.store(_segment(1), RIVAL)
    assert refused.value.reason is RejectionReason.NOT_GRANTED
    await place.store(_segment(1))
    with pytest.raises(RejectionError) as refused:
        await place.receipt(_item(1), peer=RIVAL)
    assert refused.value.reason is RejectionReason.NOT_GRANTED


async def test_a_member_brings_moved_segments_for_any_tenant_but_few_before_the_chain_has_them() -> None:
    place = Place()
    for number in range(1, MOVES_WAITING_MAX + 1):
        await place.store(_segment(number), MEMBER)
    assert (await place.receipt(_item(1), peer=MEMBER)).receipt is not None
    with pytest.raises(RejectionError) as refused:
        await place.store(_segment(9), MEMBER)
    assert refused.value.reason is RejectionReason.QUEUE_FULL
    place.chain.live[_segment(2)] = _committed()
    await place.store(_segment(9), MEMBER)


async def test_members_vouch_for_members_alone() -> None:
    place = Place()
    move = Move(
        tenant=TENANT,
        segment_id=_segment(2),
        k=6,
        segment_bytes=5,
        roots=(ROOT,) * 9,
        ranges=(MovedRange(segment_id=_segment(1), offset=0, range_bytes=5),),
    )
    voucher = sign_move(SIGNING_KEY, GENESIS, SEAT, move)

    async def vouch(asked: Move) -> Voucher:
        assert asked == move
        return voucher

    for peer in (MEMBER, CLIENT):
        with pytest.raises(RejectionError, match="members vouch for members alone"):
            await place.ask(peer, AskVoucher(move=move))
        place.holder.vouch = vouch
    assert (await place.ask(MEMBER, AskVoucher(move=move))).body == VoucherAnswer(voucher=voucher)


@pytest.mark.parametrize("peer", [MEMBER, CLIENT])
async def test_members_and_the_tenant_read_what_proves_itself(peer: PublicKey) -> None:
    place = Place()
    await place.store(_segment(1))
    await place.receipt(_item(1))
    answer = await place.ask(peer, ReadLeaves(segment_id=_segment(1), column=COLUMN, first_leaf=2, leaf_count=3))
    assert isinstance(answer.body, LeavesAnswer)
    leaves = b"".join(bytes(part) for part in answer.bulk)
    check_range(ROOT, leaves, 2, len(SHARD), answer.body.proof)
    answer = await place.ask(
        peer, ReadPiece(segment_id=_segment(1), column=COLUMN, first_leaf=0, leaf_count=SHAPE.leaves)
    )
    assert answer.body == PieceAnswer()
    check_shard(ROOT, b"".join(bytes(part) for part in answer.bulk))
    answer = await place.ask(peer, AskHeld(segment_ids=(_segment(2), _segment(1))))
    assert answer.body == HeldAnswer(columns=(0, 1 << COLUMN))


async def test_another_tenant_is_told_nothing() -> None:
    place = Place()
    await place.store(_segment(1))
    await place.receipt(_item(1))
    answer = await place.ask(RIVAL, AskHeld(segment_ids=(_segment(1),)))
    assert answer.body == HeldAnswer(columns=(0,))
    for segment_id in (_segment(1), _segment(2)):
        for kind in (ReadLeaves, ReadPiece):
            with pytest.raises(ShardMissingError, match=f"column 2 of {segment_id.hex()[:16]} is not here"):
                await place.ask(RIVAL, kind(segment_id=segment_id, column=COLUMN, first_leaf=0, leaf_count=1))


async def test_a_damaged_leaf_is_reported_and_never_served() -> None:
    shards = MemoryShardStore()
    place = Place(shards)
    await place.store(_segment(1))
    await place.receipt(_item(1))
    name = ShardName(_segment(1), COLUMN)
    shards.damage(name, 20_000)
    read = ReadLeaves(segment_id=_segment(1), column=COLUMN, first_leaf=1, leaf_count=1)
    with pytest.raises(ShardCorruptError):
        await place.ask(CLIENT, read)
    assert place.corrupt == [name]
    await place.ask(CLIENT, ReadLeaves(segment_id=_segment(1), column=COLUMN, first_leaf=0, leaf_count=1))
    shards.restore(name, TENANT, SHAPE, ROOT, SHARD)
    await place.ask(CLIENT, read)
    assert place.corrupt == [name]


async def test_of_many_ranges_those_that_are_here_are_served_with_their_proofs() -> None:
    shards = MemoryShardStore()
    place = Place(shards)
    for number in (1, 2):
        await place.store(_segment(number))
        await place.receipt(_item(number))
    shards.damage(ShardName(_segment(2), COLUMN), 5)
    ranges = (_leaves(1, 1, 2), _leaves(2, 0), _leaves(3, 0), _leaves(2, 1), _leaves(1, 5))
    answer = await place.ask(CLIENT, ReadRanges(ranges=ranges))
    assert isinstance(answer.body, RangesAnswer)
    assert [part is None for part in answer.body.found] == [False, True, True, False, False]
    rest = b"".join(bytes(leaf) for leaf in answer.bulk)
    for asked, part in zip(ranges, answer.body.found, strict=True):
        if part is not None:
            check_range(ROOT, rest[: part.range_bytes], asked.first_leaf, len(SHARD), part.proof)
            rest = rest[part.range_bytes :]
    assert rest == b""
    assert place.corrupt == [ShardName(_segment(2), COLUMN)]
    assert (await place.ask(RIVAL, ReadRanges(ranges=ranges))).body == RangesAnswer(found=(None,) * 5)


async def test_ranges_of_more_leaves_than_a_bulk_holds_are_refused() -> None:
    with pytest.raises(RejectionError, match="more than 64 leaves together"):
        await Place().ask(CLIENT, ReadRanges(ranges=(_leaves(1, 0, 33), _leaves(2, 0, 32))))


def _leaves(number: int, first: int, count: int = 1) -> LeafRange:
    return LeafRange(segment_id=_segment(number), column=COLUMN, first_leaf=first, leaf_count=count)


async def test_a_column_that_lies_elsewhere_is_refused() -> None:
    place = Place()
    for column in range(9):
        body = msgspec.structs.replace(_store(_segment(1), 0), column=ColumnIndex(column))
        if column != COLUMN:
            with pytest.raises(RejectionError, match=f"column {column} of .* is not this seat's"):
                await place.ask(CLIENT, body, SHARD[:UNIT_BYTES])
    assert place.shards.uncommitted_bytes(TENANT) == 0


@pytest.mark.parametrize(
    ("committed", "reason"),
    [(_committed(tenant=RIVALS), RejectionReason.NOT_GRANTED), (_committed(k=5), RejectionReason.MALFORMED)],
)
async def test_nothing_else_is_stored_under_a_committed_id(committed: SegmentState, reason: RejectionReason) -> None:
    place = Place()
    place.chain.live[_segment(1)] = committed
    with pytest.raises(RejectionError) as refused:
        await place.store(_segment(1))
    assert refused.value.reason is reason
    assert place.shards.uncommitted_bytes(TENANT) == 0


async def test_nothing_else_is_signed_under_a_committed_id() -> None:
    """Stored before the chain had the segment: of another root, another tenant, another k."""
    place = Place()
    for number in (1, 2, 3, 4):
        await place.store(_segment(number))
    place.chain.live |= {
        _segment(1): _committed(root=ShardRoot(b"x" * 32)),
        _segment(2): _committed(tenant=RIVALS),
        _segment(3): _committed(k=5),
        _segment(4): _committed(),
    }
    receipt = (await place.receipt(_item(1), _item(2), _item(3), _item(4))).receipt
    assert receipt is not None
    assert held_positions(receipt.held, 4) == (3,)


async def test_a_used_up_id_is_neither_stored_nor_signed_for() -> None:
    """Freed before the upload, and between upload and receipt."""
    place = Place()
    await place.store(_segment(1))
    place.chain.freed |= {_segment(1), _segment(2)}
    with pytest.raises(RejectionError) as refused:
        await place.store(_segment(2))
    assert refused.value.reason is RejectionReason.TOO_LATE
    assert (await place.receipt(_item(1))).receipt is None


async def test_what_is_brought_after_its_commit_is_not_charged() -> None:
    place = Place()
    place.chain.live[_segment(1)] = _committed()
    await place.store(_segment(1))
    assert place.shards.uncommitted_bytes(TENANT) == len(SHARD)
    assert (await place.receipt(_item(1))).receipt is not None
    assert (place.shards.uncommitted_bytes(TENANT), place.shards.uncommitted()) == (0, ())


async def test_records_are_served_to_members_and_to_their_tenant_alone() -> None:
    ours, rivals, unreferenced = (RecordAddress(bytes([number]) * 32) for number in (1, 2, 3))
    place = Place(records=Records({ours: b"ours", rivals: b"the rival's", unreferenced: b"proposed"}))
    place.chain.records |= {ours: TENANT, rivals: RIVALS}
    for peer, lengths in ((MEMBER, (4, 11, 8)), (CLIENT, (4, 0, 0)), (RIVAL, (0, 11, 0))):
        answer = await place.ask(peer, ReadRecords(addresses=(ours, rivals, unreferenced)))
        assert answer.body == RecordsAnswer(record_bytes=lengths)


async def test_records_are_served_in_the_order_asked() -> None:
    one, two, three = (RecordAddress(bytes([number]) * 32) for number in (1, 2, 3))
    place = Place(records=Records({one: b"first", three: b"third record"}))
    answer = await place.ask(MEMBER, ReadRecords(addresses=(three, two, one)))
    assert answer.body == RecordsAnswer(record_bytes=(12, 0, 5))
    assert b"".join(bytes(part) for part in answer.bulk) == b"third recordfirst"


async def test_a_member_signs_for_the_leaves_that_it_reads_and_the_holder_keeps_it() -> None:
    place, reader, kept = Place(), SigningKey(b"r" * 32), list[ReadReceipt]()
    place.chain.members.add(reader.public)
    place.holder.keep_read = kept.append
    await place.store(_segment(1))
    body = ReadLeaves(segment_id=_segment(1), column=COLUMN, first_leaf=0, leaf_count=2)
    with pytest.raises(RejectionError, match="bad_receipt: a member signs for the leaves"):
        await place.ask(reader.public, body)
    assert (await place.ask(CLIENT, AskHeld(segment_ids=(_segment(1),)))).body == HeldAnswer(columns=(0,))
    await place.receipt(_item(1))
    assert isinstance((await place.ask(CLIENT, body)).body, LeavesAnswer), "a client holds no column to answer for"
    assert kept == []
    signed = sign_read(reader, GENESIS, holder=SIGNING_KEY.public, time_ms=Milliseconds(5), ranges=ranges_asked(body))
    answer = await place.holder.answer(reader.public, RequestFrame(1, body, memoryview(b""), signed))
    assert isinstance(answer.body, LeavesAnswer)
    (receipt,) = kept
    check_read(receipt, GENESIS)
    assert (receipt.reader, receipt.holder, receipt.ranges) == (reader.public, SIGNING_KEY.public, ranges_asked(body))

    def refuse(_receipt: ReadReceipt) -> None:
        raise RejectionError(RejectionReason.QUEUE_FULL, "no more of this member")

    place.holder.keep_read = refuse
    with pytest.raises(RejectionError, match="queue_full"):
        await place.holder.answer(reader.public, RequestFrame(1, body, memoryview(b""), signed))


async def test_what_a_member_reads_over_the_channel_is_kept_with_its_signature(tmp_path: Path) -> None:
    seat, reader = SigningKey(b"1" * 32), SigningKey(b"2" * 32)
    place = Place(chain=Chain(members={reader.public}))
    book = ReadBook(tmp_path, GENESIS, now_ms, 600_000)
    place.holder.identity = replace(place.holder.identity, network_key=seat.public)
    place.holder.keep_read = book.keep
    await place.store(_segment(1))
    await place.receipt(_item(1))
    server = ShardServer(seat, place.holder)
    server.accept_only([make_certificate(reader)])
    async with trio.open_nursery() as nursery:
        port = await server.listen("127.0.0.1", 0)
        nursery.start_soon(server.serve)
        certificate = make_certificate(seat)
        mute = await open_shard_client(nursery, "127.0.0.1", port, reader, certificate)
        with pytest.raises(RejectionError, match="bad_receipt"):
            await mute.read_leaves(_segment(1), COLUMN, 1, 2)
        reads = MemberReads(GENESIS, now_ms)
        client = await open_shard_client(nursery, "127.0.0.1", port, reader, certificate, reads=reads)
        await client.read_leaves(_segment(1), COLUMN, 1, 2)
        await client.read_piece(_segment(1), COLUMN, 0, SHAPE.leaves)
        asked = LeafRange(segment_id=_segment(1), column=COLUMN, first_leaf=3, leaf_count=1)
        await client.read_ranges([asked, asked])
        nursery.cancel_scope.cancel()
    (file,) = book.files()
    contents = book.read(file.name, 0, file.byte_count)
    assert contents is not None
    receipts = [decode_read(encoded) for encoded in parts(contents)]
    for receipt in receipts:
        check_read(receipt, GENESIS)
    leaves = [[(part.first_leaf, part.leaf_count) for part in receipt.ranges] for receipt in receipts]
    assert leaves == [[(1, 2)], [(0, SHAPE.leaves)], [(3, 1), (3, 1)]]
    book.close()


async def test_the_whole_way_over_the_channel_and_the_disk(tmp_path: Path) -> None:
    """A client codes a segment, stores one column over TLS, has it signed and reads it back."""
    seat, client_key = SigningKey(b"1" * 32), SigningKey(b"2" * 32)
    segment = bytes(position * 31 % 256 for position in range(SHAPE.segment_bytes))
    coded = code_segment(segment, SHAPE.k)
    store = LevelShardStore(tmp_path)
    place = Place(store, Chain(grants={(client_key.public, TENANT)}))
    server = ShardServer(seat, place.holder)
    server.accept_only([make_certificate(client_key)])
    async with trio.open_nursery() as nursery:
        port = await server.listen("127.0.0.1", 0)
        nursery.start_soon(server.serve)
        client = await open_shard_client(nursery, "127.0.0.1", port, client_key, make_certificate(seat))
        shard = coded.shards[COLUMN]
        for offset in range(0, len(shard), UNIT_BYTES):
            await client.store_units(_store(_segment(1), offset), memoryview(shard)[offset : offset + UNIT_BYTES])
        item = _item(1, coded.roots[COLUMN], len(shard))
        receipt = await client.ask_receipt(TENANT, [item], Height(50))
        assert receipt is not None
        check_receipt(receipt, GENESIS, tenant=TENANT, batch=[item], public_key=SIGNING_KEY.public)
        assert await client.ask_held([_segment(1)]) == (frozenset({COLUMN}),)
        leaves, proof = await client.read_leaves(_segment(1), COLUMN, 1, 2)
        check_range(coded.roots[COLUMN], leaves, 1, len(shard), proof)
        check_shard(coded.roots[COLUMN], await client.read_piece(_segment(1), COLUMN, 0, SHAPE.leaves))
        assert await client.read_records([RecordAddress(b"a" * 32)]) == (None,)
        with pytest.raises(ShardMissingError):
            await client.read_leaves(_segment(2), COLUMN, 0, 1)
        nursery.cancel_scope.cancel()
    store.close()
