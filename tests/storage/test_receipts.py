"""A receipt binds chain, tenant, seat, exactly the shards held, and its expiry."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import GenesisHash, Height
from consensus.signing import SigningKey
from storage.identifiers import ColumnIndex, SeatIndex, SegmentId, ShardRoot, TenantId
from storage.receipts import Receipt, ReceiptItem, check_receipt, held_bitmap, held_positions, sign_receipt

GENESIS: Final = GenesisHash(b"g" * 32)
TENANT: Final = TenantId(b"t" * 16)
SIGNING_KEY: Final = SigningKey(b"s" * 32)
BATCH: Final = tuple(
    ReceiptItem(
        segment_id=SegmentId(bytes([number]) * 32),
        column=ColumnIndex(number % 9),
        shard_root=ShardRoot(bytes([number + 100]) * 32),
        shard_bytes=1_000 + number,
    )
    for number in range(10)
)


def _receipt(*positions: int) -> Receipt:
    return sign_receipt(
        SIGNING_KEY,
        GENESIS,
        tenant=TENANT,
        seat=SeatIndex(4),
        held=held_bitmap(positions, len(BATCH)),
        items=[BATCH[position] for position in positions],
        expiry_height=Height(50),
    )


def _refused(receipt: Receipt, *, genesis: GenesisHash = GENESIS, tenant: TenantId = TENANT) -> RejectionReason:
    with pytest.raises(RejectionError) as refused:
        check_receipt(receipt, genesis, tenant=tenant, batch=BATCH, public_key=SIGNING_KEY.public)
    return refused.value.reason


def test_a_receipt_names_the_positions_it_vouches_for() -> None:
    receipt = _receipt(0, 3, 9)
    assert check_receipt(receipt, GENESIS, tenant=TENANT, batch=BATCH, public_key=SIGNING_KEY.public) == (0, 3, 9)


def test_bitmaps_are_lowest_bit_first() -> None:
    assert held_bitmap((0, 9), 10) == bytes([0b1, 0b10])
    assert held_positions(bytes([0b1, 0b10]), 10) == (0, 9)


@pytest.mark.parametrize(
    "changed",
    [
        replace(_receipt(0, 3), held=held_bitmap((0, 3, 4), len(BATCH))),
        replace(_receipt(0, 3), held=held_bitmap((0,), len(BATCH))),
        replace(_receipt(0, 3), expiry_height=Height(51)),
        replace(_receipt(0, 3), seat=SeatIndex(5)),
        replace(_receipt(0, 3), held=b"\x09"),
        replace(_receipt(0, 3), held=b"\x09\x80"),
        replace(_receipt(0, 3), held=b"\x00\x00"),
    ],
)
def test_a_changed_receipt_is_refused(changed: Receipt) -> None:
    assert _refused(changed) is RejectionReason.BAD_RECEIPT


def test_a_receipt_is_worth_nothing_for_another_chain_or_tenant() -> None:
    assert _refused(_receipt(1), genesis=GenesisHash(b"h" * 32)) is RejectionReason.BAD_RECEIPT
    assert _refused(_receipt(1), tenant=TenantId(b"u" * 16)) is RejectionReason.BAD_RECEIPT


@given(
    st.integers(1, 200).flatmap(lambda count: st.tuples(st.just(count), st.sets(st.integers(0, count - 1), min_size=1)))
)
def test_bitmap_and_positions_are_inverse(case: tuple[int, set[int]]) -> None:
    count, positions = case
    assert held_positions(held_bitmap(positions, count), count) == tuple(sorted(positions))


@given(st.integers(0, len(BATCH) - 1), st.sampled_from(["segment_id", "shard_root", "column", "shard_bytes"]))
def test_a_receipt_binds_every_field_of_every_item(position: int, field: str) -> None:
    receipt = _receipt(*range(len(BATCH)))
    other = {
        "segment_id": b"x" * 32,
        "shard_root": b"x" * 32,
        "column": (BATCH[position].column + 1) % 9,
        "shard_bytes": 7,
    }
    batch = list(BATCH)
    batch[position] = replace(batch[position], **{field: other[field]})
    with pytest.raises(RejectionError, match="did not sign"):
        check_receipt(receipt, GENESIS, tenant=TENANT, batch=batch, public_key=SIGNING_KEY.public)
