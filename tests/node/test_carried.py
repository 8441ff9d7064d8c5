"""A block wakes those who wait for its transactions, and nobody else."""

from __future__ import annotations

from consensus.identifiers import TransactionId
from node.carried import CarriedWatch

ONE, OTHER = TransactionId(b"1" * 32), TransactionId(b"2" * 32)


async def test_whoever_waits_for_a_carried_transaction_is_woken_and_nobody_else() -> None:
    watch = CarriedWatch()
    with watch.watching(ONE) as first, watch.watching(ONE) as second, watch.watching(OTHER) as other:
        watch.announce([ONE])
        assert first.is_set()
        assert second.is_set()
        assert not other.is_set()
    with watch.watching(ONE) as late:
        assert not late.is_set()


async def test_nothing_is_kept_of_those_who_left() -> None:
    watch = CarriedWatch()
    with watch.watching(ONE), watch.watching(ONE):
        pass
    assert watch._waiting == {}
    watch.announce([ONE])
