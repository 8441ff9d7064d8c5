"""The door of the mempool: what clients post and what members pass on.

What is posted here goes to the next three proposers, all of one moment in one frame, and while it waits to the
proposers that every new block brings near: whoever's turn it is has heard of it. When blocks do not come
(STALLED_S without one), those proposers may be dead, and everybody must know that something waits: all members are told
over their links, once. After LOST_S it is gossiped too, once, for those whose links are broken: gossip passes every
transaction through every pair of members, so that at blocks of a quarter of a second it was half of a node's CPU. What
waits patiently (rule A68) is told to the next proposers alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import Height, Round
from consensus.messages import TRANSACTION_ITEMS_MAX, TransactionItem, TransactionsMessage, encode_message
from node.mempool import pending_of
from node.node_chain import match_records
from storage.transactions import transaction_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from consensus.identifiers import MemberIndex, TransactionId
    from node.mempool import Mempool, Pending
    from node.node_chain import NodeChain
    from node.outbox import Outbox
    from node.submission import Submission
    from node.telemetry import NodeCounters

STALLED_S: Final = 0.25
LOST_S: Final = 1.0
PROPOSERS: Final = 3
"""Straight to the proposers of rounds 0 to 2: one of them is live while at most u = 3 others than the poster fail."""
POSTED_MAX: Final = 8_192
"""Of 256 bytes each, seconds of the highest rate; what exceeds it waits here and in three mempools, no more."""
FRAME_PAYLOAD_BYTES_MAX: Final = 1024 * 1024
"""Of transactions in one frame; one that is larger goes alone."""


@dataclass(slots=True)
class _Posted:
    """A transaction that was posted here, and who was told of it."""

    pending: Pending
    posted_at: float
    told: set[MemberIndex] = field(default_factory=set["MemberIndex"])
    is_broadcast: bool = False
    is_gossiped: bool = False


class Admission:
    """Lets transactions wait in the mempool, and passes on those posted here."""

    def __init__(
        self,
        *,
        chain: NodeChain,
        mempool: Mempool,
        outbox: Outbox,
        counters: NodeCounters,
        now: Callable[[], float] = trio.current_time,
    ) -> None:
        self._chain = chain
        self._now = now
        self._mempool = mempool
        self._outbox = outbox
        self._counters = counters
        self._posted: dict[TransactionId, _Posted] = {}
        self._news = trio.Event()
        self._block_at = 0.0
        self.on_waiting: Callable[[], None] = lambda: None
        """Called when a transaction begins to wait: there is a reason for a block."""

    def submit(self, submission: Submission) -> TransactionId:
        """Check and take a transaction at once; raises as check() and post() do."""
        return self.post(self.check(submission))

    def check(self, submission: Submission) -> Pending:
        """Return a transaction that may wait (blocks; changes nothing, so that a worker thread may do it).

        Raises:
            RejectionError: Why no block could hold it, or BAD_RECORD when its records are not all there.
        """
        return self._check(submission.transaction, submission.records)

    def post(self, pending: Pending) -> TransactionId:
        """Take a checked transaction; it is passed on in this turn of the loop.

        Raises:
            RejectionError: The mempool has no room, or took it meanwhile.
        """
        self._add(pending)
        if len(self._posted) < POSTED_MAX:
            self._posted[pending.transaction_id] = _Posted(pending, self._now())
        else:
            self._counters.inputs_dropped += 1
        self._news.set()
        return pending.transaction_id

    @property
    def has_posted(self) -> bool:
        """Say whether something that was posted here may still have to be passed on."""
        return bool(self._posted)

    def on_appended(self) -> None:
        """Tell the proposers that come next of what the last block left waiting."""
        self._block_at = self._now()
        if self._posted:
            self._news.set()

    async def run(self, publish: Callable[[bytes], None]) -> None:
        """Pass on what is posted here, and gossip it when no blocks come, until cancelled."""
        while True:
            if any(not posted.pending.is_patient for posted in self._posted.values()):
                with trio.move_on_after(STALLED_S):
                    await self._news.wait()
            else:
                await self._news.wait()
            self._news = trio.Event()
            await trio.lowlevel.checkpoint()  # what is posted in this turn of the loop shares a frame
            self.pass_on(publish)

    def pass_on(self, publish: Callable[[bytes], None]) -> None:
        """Tell the next proposers what they have not heard, and everybody what waits for too long."""
        if not self._posted:
            return
        self._forget_committed()
        self._tell_proposers()
        self._tell_everybody()
        self._gossip(publish)

    def _forget_committed(self) -> None:
        for known in [known for known in self._posted if self._mempool.get(known) is None]:
            del self._posted[known]

    def _tell_proposers(self) -> None:
        height = Height(self._chain.tip.height + 1)
        for member in {self._chain.turns.proposer(height, Round(r)) for r in range(PROPOSERS)}:
            untold = [posted for posted in self._posted.values() if member not in posted.told]
            for posted in untold:
                posted.told.add(member)
            for frame in _frames([posted.pending for posted in untold]):
                self._outbox.send(member, frame)

    def _tell_everybody(self) -> None:
        stalled = [posted for posted in self._waiting_for(STALLED_S) if not posted.is_broadcast]
        for posted in stalled:
            posted.is_broadcast = True
        for frame in _frames([posted.pending for posted in stalled]):
            self._outbox.broadcast(frame)

    def _gossip(self, publish: Callable[[bytes], None]) -> None:
        lost = [posted for posted in self._waiting_for(LOST_S) if not posted.is_gossiped]
        for posted in lost:
            posted.is_gossiped = True
        for frame in _frames([posted.pending for posted in lost]):
            publish(frame)

    def _waiting_for(self, span_s: float) -> list[_Posted]:
        """Return what has seen no block for this long, and is a reason for one."""
        now = self._now()
        urgent = [posted for posted in self._posted.values() if not posted.pending.is_patient]
        return [posted for posted in urgent if now - max(posted.posted_at, self._block_at) >= span_s]

    def take(self, message: TransactionsMessage) -> None:
        """Take what a member passes on; what cannot wait is counted, not punished: views of the chain differ."""
        for item in message.items:
            try:
                self._add(self._check(item.transaction, item.records))
            except RejectionError as error:
                if error.reason is not RejectionReason.DUPLICATE_TRANSACTION:
                    self._counters.refused[error.reason] += 1

    def _check(self, transaction: bytes, records: tuple[bytes, ...]) -> Pending:
        # Members tell each other the same transactions: what is known is refused before it is read.
        if self._mempool.is_known(transaction_id(transaction)):
            raise RejectionError(RejectionReason.DUPLICATE_TRANSACTION, "this transaction is known already")
        pending = pending_of(transaction, records)
        self._chain.check_admissible(transaction)
        claims = self._chain.record_claims(transaction)
        found = match_records(claims, records)
        if len(found) != len(claims) or len(records) != len(claims):
            detail = f"{len(found)} of {len(claims)} records fit their addresses, {len(records)} were sent"
            raise RejectionError(RejectionReason.BAD_RECORD, detail)
        return pending

    def _add(self, pending: Pending) -> None:
        self._mempool.add(pending, self._chain.tip.height)
        self.on_waiting()


def _frames(waiting: Sequence[Pending]) -> Iterator[bytes]:
    """Give frames that together hold all of these, in order."""
    items: list[TransactionItem] = []
    byte_count = 0
    for pending in waiting:
        is_full = byte_count + pending.byte_count > FRAME_PAYLOAD_BYTES_MAX or len(items) == TRANSACTION_ITEMS_MAX
        if items and is_full:
            yield encode_message(TransactionsMessage(items=tuple(items)))
            items, byte_count = [], 0
        items.append(TransactionItem(transaction=pending.transaction, records=pending.records))
        byte_count += pending.byte_count
    if items:
        yield encode_message(TransactionsMessage(items=tuple(items)))
