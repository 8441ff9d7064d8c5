"""What waits is bounded, in order, and there once; against the simplest model."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import Height, PublicKey, TransactionId
from consensus.messages import RECORDS_MAX
from node import mempool as module
from node.mempool import (
    BLOCK_PAYLOAD_BYTES_MAX,
    ITEM_OVERHEAD_BYTES,
    MEMPOOL_BYTES_MAX,
    RECENT_MAX,
    SENDER_COUNT_MAX,
    Mempool,
    Pending,
    pending_of,
)
from storage.transactions import transaction_id
from tests.node.small_chain import TENANT_KEY, grant, small_genesis

TIP = Height(10)


def waiting(
    number: int, *, sender: int = 0, valid_until: int = 100, byte_count: int = 100, records: int = 0
) -> Pending:
    return Pending(
        transaction_id=TransactionId(number.to_bytes(32, "big")),
        transaction=b"transaction",
        records=(b"",) * records,
        sender=PublicKey(bytes([sender]) * 32),
        sequence=number,
        valid_until_height=Height(valid_until),
        byte_count=byte_count,
    )


def refused(pool: Mempool, pending: Pending, tip: Height = TIP) -> RejectionReason:
    before = (len(pool), pool.byte_count)
    with pytest.raises(RejectionError) as caught:
        pool.add(pending, tip)
    assert (len(pool), pool.byte_count) == before
    return caught.value.reason


def test_a_transaction_is_weighed_with_its_records() -> None:
    transaction = grant(small_genesis(), 3)
    pending = pending_of(transaction, (b"one", b"three"))
    assert pending.byte_count == len(transaction) + 8 + 3 * ITEM_OVERHEAD_BYTES
    assert (pending.sender, pending.sequence, pending.valid_until_height) == (TENANT_KEY.public, 3, 100)
    assert pending.transaction_id == transaction_id(transaction)


def test_what_fits_no_block_or_is_no_transaction_is_refused() -> None:
    with pytest.raises(RejectionError, match=r"oversized: .* do not fit a block"):
        pending_of(grant(small_genesis(), 3), (bytes(BLOCK_PAYLOAD_BYTES_MAX),))
    with pytest.raises(RejectionError) as caught:
        pending_of(b"not a transaction", ())
    assert caught.value.reason is RejectionReason.MALFORMED


def test_one_sender_takes_its_share_and_no_more() -> None:
    pool = Mempool()
    for number in range(SENDER_COUNT_MAX):
        pool.add(waiting(number), TIP)
    assert refused(pool, waiting(1_000)) is RejectionReason.QUEUE_FULL
    pool.add(waiting(1_001, sender=1), TIP)
    pool.committed([waiting(0).transaction_id], TIP)
    pool.add(waiting(1_000), TIP)


def test_all_senders_together_stay_within_the_bytes() -> None:
    pool = Mempool()
    quarter = MEMPOOL_BYTES_MAX // 4
    for number in range(4):
        pool.add(waiting(number, byte_count=quarter), TIP)
    assert refused(pool, waiting(4, byte_count=1)) is RejectionReason.QUEUE_FULL
    pool.drop([waiting(2).transaction_id])
    pool.add(waiting(4, byte_count=quarter), TIP)


def test_a_committed_one_does_not_come_back_and_the_memory_of_it_is_bounded() -> None:
    pool = Mempool()
    pool.committed([waiting(number).transaction_id for number in range(RECENT_MAX)], TIP)
    assert refused(pool, waiting(0)) is RejectionReason.DUPLICATE_TRANSACTION
    pool.committed([waiting(RECENT_MAX).transaction_id], TIP)
    assert not pool.is_known(waiting(0).transaction_id)
    assert pool.is_known(waiting(1).transaction_id)


def test_the_last_valid_height_must_lie_ahead() -> None:
    pool = Mempool()
    assert refused(pool, waiting(0, valid_until=TIP)) is RejectionReason.TOO_LATE
    pool.add(waiting(0, valid_until=TIP + 1), TIP)
    pool.committed([], Height(TIP + 1))
    assert len(pool) == 0


def test_a_block_takes_the_oldest_that_fit_and_leaves_them_waiting() -> None:
    pool = Mempool()
    half = BLOCK_PAYLOAD_BYTES_MAX // 2
    for number, byte_count in enumerate((half, half + 1, half, 1)):
        pool.add(waiting(number, byte_count=byte_count), TIP)
    assert [pending.sequence for pending in pool.take()] == [0, 2]
    assert [pending.sequence for pending in pool.waiting()] == [0, 1, 2, 3]


def test_a_block_takes_no_more_records_and_transactions_than_it_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Mempool()
    for number, records in enumerate((RECORDS_MAX - 1, 2, 1)):
        pool.add(waiting(number, records=records), TIP)
    assert [pending.sequence for pending in pool.take()] == [0, 2]
    monkeypatch.setattr(module, "TRANSACTIONS_MAX", 1)
    assert [pending.sequence for pending in pool.take()] == [0]


class MempoolMachine(RuleBasedStateMachine):
    """A list in order of arrival, and the ids that were committed."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Mempool()
        self.model: list[Pending] = []
        self.gone: set[TransactionId] = set()
        self.tip = 0

    @rule(number=st.integers(0, 30), sender=st.integers(0, 2), ahead=st.integers(-1, 4))
    def add(self, number: int, sender: int, ahead: int) -> None:
        pending = waiting(number, sender=sender, valid_until=max(self.tip + ahead, 0))
        is_known = pending.transaction_id in self.gone or any(
            other.transaction_id == pending.transaction_id for other in self.model
        )
        assert self.pool.is_known(pending.transaction_id) == is_known
        if is_known:
            assert refused(self.pool, pending, Height(self.tip)) is RejectionReason.DUPLICATE_TRANSACTION
        elif pending.valid_until_height <= self.tip:
            assert refused(self.pool, pending, Height(self.tip)) is RejectionReason.TOO_LATE
        else:
            self.pool.add(pending, Height(self.tip))
            self.model.append(pending)

    @rule(numbers=st.sets(st.integers(0, 30), max_size=4))
    def commit(self, numbers: set[int]) -> None:
        self.tip += 1
        ids = [waiting(number).transaction_id for number in sorted(numbers)]
        self.pool.committed(ids, Height(self.tip))
        self.gone |= set(ids)
        self.model = [
            pending
            for pending in self.model
            if pending.transaction_id not in self.gone and pending.valid_until_height > self.tip
        ]

    @rule(number=st.integers(0, 30))
    def drop(self, number: int) -> None:
        wanted = waiting(number).transaction_id
        self.pool.drop([wanted])
        self.model = [pending for pending in self.model if pending.transaction_id != wanted]

    @invariant()
    def is_the_model(self) -> None:
        assert self.pool.waiting() == self.pool.take() == tuple(self.model)
        assert len(self.pool) == len(self.model)
        assert self.pool.byte_count == sum(pending.byte_count for pending in self.model)
        for pending in self.model:
            assert self.pool.get(pending.transaction_id) is pending


TestMempoolMachine = MempoolMachine.TestCase
TestMempoolMachine.settings = settings(max_examples=40, stateful_step_count=30)
