"""What a member says for the sake of others: where it stands, what they miss, and what it said when they were away.

While stuck it repeats its last messages and the certificates that explain them (rule A62), and hands what waits for a
block to the next proposers. A member that is behind gets the decided block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from consensus.height_state import own_messages
from consensus.identifiers import NO_ROUND, Round
from consensus.messages import (
    TRANSACTION_ITEMS_MAX,
    CommitMessage,
    DecidedMessage,
    Message,
    PolkaMessage,
    ProposalMessage,
    RecordsMessage,
    RecordsMissing,
    RoundMessage,
    StatusMessage,
    TransactionItem,
    TransactionsMessage,
    VoteMessage,
    encode_message,
)
from storage.identifiers import RecordAddress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consensus.height_state import HeightState, OwnMessages
    from consensus.identifiers import Height, MemberIndex
    from node.blocking import RunBlocking
    from node.mempool import Mempool
    from node.node_chain import NodeChain
    from node.outbox import Outbox
    from node.proposal_intake import ProposalIntake

RECORDS_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of one answer: what may stand beside one block."""
REPEAT_BYTES_MAX: Final = 1024 * 1024
"""Of transactions handed on once more; the proposers have most of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Helper:
    """Speaks for one member; signs nothing."""

    chain: NodeChain
    mempool: Mempool
    intake: ProposalIntake
    outbox: Outbox
    run_blocking: RunBlocking

    def say_status(self, state: HeightState, member: MemberIndex | None = None) -> None:
        """Tell a member, or all, where this one stands."""
        round_ = Round(max(state.machine.round, 0))
        frame = encode_message(StatusMessage(height=state.context.height, round=round_))
        if member is None:
            self.outbox.broadcast(frame)
        else:
            self.outbox.send(member, frame)

    def ask_missing(self) -> None:
        """Ask again for the records that proposals wait for."""
        for block_hash, waiting in self.intake.pool.all_waiting():
            self.intake.ask_missing(block_hash, waiting)

    async def repeat(self, state: HeightState) -> None:
        """Say again what this member said at this height, and why."""
        own = own_messages(state)
        messages: list[Message] = [PolkaMessage(certificate=polka) for polka in own.polkas]
        if own.entry is not None:
            messages.append(RoundMessage(certificate=own.entry))
        proposal = await self._own_proposal(own)
        if proposal is not None:
            messages.append(proposal)
        messages += [VoteMessage(signed=signed) for signed in own.votes]
        if own.commit is not None:
            messages.append(CommitMessage(certificate=own.commit))
        for message in messages:
            self.outbox.broadcast(encode_message(message))

    def repeat_transactions(self, state: HeightState) -> None:
        """Hand the oldest waiting transactions to the proposers of the next two rounds."""
        message = oldest_waiting(self.mempool)
        if message is None:
            return
        frame = encode_message(message)
        following = state.machine.round + 1
        for round_ in (following, following + 1):
            self.outbox.send(self.chain.turns.proposer(state.context.height, Round(round_)), frame)

    async def send_decided(self, member: MemberIndex, height: Height) -> None:
        """Give a member that votes at a decided height the block of it."""
        decided = await self.run_blocking(self.chain.decided_block, height)
        if decided is not None:
            self.outbox.send(member, encode_message(DecidedMessage(decided=decided)))

    async def send_records(self, member: MemberIndex, asked: RecordsMissing) -> None:
        """Give a member those of the records that are here."""
        found = await self.intake.records_of([RecordAddress(address) for address in asked.addresses])
        records = within_bytes(found, RECORDS_BYTES_MAX)
        if records:
            answer = RecordsMessage(block_hash=asked.block_hash, records=records)
            self.outbox.send(member, encode_message(answer))

    async def _own_proposal(self, own: OwnMessages) -> ProposalMessage | None:
        if own.proposal is None:
            return None
        proposal = own.proposal.proposal
        known = self.intake.pool.get(proposal.block_hash)
        polka = next((p for p in own.polkas if p.round == proposal.valid_round), None)
        if known is None or (proposal.valid_round != NO_ROUND and polka is None):
            return None
        records = await self.intake.records_of(known.addresses)
        return ProposalMessage(signed=own.proposal, block=known.block, records=records, polka=polka)


def within_bytes(records: Sequence[bytes], bytes_max: int) -> tuple[bytes, ...]:
    """Return the first records that fit together; the asker asks again for the rest."""
    chosen: list[bytes] = []
    for record in records:
        bytes_max -= len(record)
        if bytes_max < 0:
            break
        chosen.append(record)
    return tuple(chosen)


def oldest_waiting(mempool: Mempool) -> TransactionsMessage | None:
    """Return the oldest waiting transactions that fit REPEAT_BYTES_MAX, at least one if any waits."""
    items: list[TransactionItem] = []
    free_bytes = REPEAT_BYTES_MAX
    for pending in mempool.waiting()[:TRANSACTION_ITEMS_MAX]:
        free_bytes -= pending.byte_count
        if items and free_bytes < 0:
            break
        items.append(TransactionItem(transaction=pending.transaction, records=pending.records))
    return TransactionsMessage(items=tuple(items)) if items else None
