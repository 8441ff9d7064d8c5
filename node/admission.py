"""The door of the mempool: what clients post and what members pass on.

A posted transaction goes straight to the next three proposers. If it is not on chain soon (GOSSIP_AFTER_S), it is
gossiped too: they may be dead, and everybody must know that something waits. On an idle network nothing is gossiped.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import Height, Round
from consensus.messages import TransactionItem, TransactionsMessage, encode_message
from node.mempool import pending_of
from node.node_chain import match_records

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.identifiers import TransactionId
    from node.mempool import Mempool, Pending
    from node.node_chain import NodeChain
    from node.outbox import Outbox
    from node.submission import Submission
    from node.telemetry import NodeCounters

LOGGER = logging.getLogger(__name__)

GOSSIP_AFTER_S: Final = 0.25
PROPOSERS: Final = 3
"""Straight to the proposers of rounds 0 to 2: one of them is live while at most u = 3 others than the poster fail."""
WATCHED_MAX: Final = 1_024


class Admission:
    """Lets transactions wait in the mempool, and passes on those posted here."""

    def __init__(self, *, chain: NodeChain, mempool: Mempool, outbox: Outbox, counters: NodeCounters) -> None:
        self._chain = chain
        self._mempool = mempool
        self._outbox = outbox
        self._counters = counters
        self._watched_send, self._watched = trio.open_memory_channel[tuple[float, "Pending"]](WATCHED_MAX)
        self.on_waiting: Callable[[], None] = lambda: None
        """Called when a transaction begins to wait: there is a reason for a block."""

    def submit(self, submission: Submission) -> TransactionId:
        """Take a posted transaction; it is passed on at once.

        Raises:
            RejectionError: Why no block could hold it, or BAD_RECORD when its records are not all there.
        """
        pending = self._admit(submission.transaction, submission.records)
        height = Height(self._chain.tip.height + 1)
        frame = _frame(pending)
        for member in {self._chain.turns.proposer(height, Round(r)) for r in range(PROPOSERS)}:
            self._outbox.send(member, frame)
        try:
            self._watched_send.send_nowait((trio.current_time() + GOSSIP_AFTER_S, pending))
        except trio.WouldBlock:
            self._counters.inputs_dropped += 1
        return pending.transaction_id

    def take(self, message: TransactionsMessage) -> None:
        """Take what a member passes on; what cannot wait is counted, not punished: views of the chain differ."""
        for item in message.items:
            try:
                self._admit(item.transaction, item.records)
            except RejectionError as error:
                if error.reason is not RejectionReason.DUPLICATE_TRANSACTION:
                    self._counters.refused[error.reason] += 1

    async def gossip_overdue(self, publish: Callable[[bytes], None]) -> None:
        """Gossip what still waits some time after it was posted; runs until cancelled."""
        async for due_at, pending in self._watched:
            await trio.sleep_until(due_at)
            if self._mempool.get(pending.transaction_id) is not None:
                publish(_frame(pending))

    def _admit(self, transaction: bytes, records: tuple[bytes, ...]) -> Pending:
        pending = pending_of(transaction, records)
        if self._mempool.is_known(pending.transaction_id):
            raise RejectionError(RejectionReason.DUPLICATE_TRANSACTION, "this transaction is known already")
        self._chain.check_admissible(transaction)
        claims = self._chain.record_claims(transaction)
        found = match_records(claims, records)
        if len(found) != len(claims) or len(records) != len(claims):
            detail = f"{len(found)} of {len(claims)} records fit their addresses, {len(records)} were sent"
            raise RejectionError(RejectionReason.BAD_RECORD, detail)
        self._mempool.add(pending, self._chain.tip.height)
        self.on_waiting()
        return pending


def _frame(pending: Pending) -> bytes:
    item = TransactionItem(transaction=pending.transaction, records=pending.records)
    return encode_message(TransactionsMessage(items=(item,)))
