"""The shell of the consensus core: one task that feeds it, in an order that is law, and does what it asks.

Order (CONSENSUS, "Never sign twice"): an event is appended to the log, then applied; before a signature of this seat
is released the log is flushed and the signer record is on disk; own messages come back as events after they left.

Everything enters through receive() (frames), offer_decided() (catch-up) and wake() (there may be a reason for a
block); all three only queue. Queues, buffers of the next height and blocks of this one are bounded; what does not fit
is dropped and counted, since stuck members repeat themselves.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar, assert_never

import trio

from consensus.blocks import Block, DecidedBlock, header_hash
from consensus.certificates import PolkaCertificate, RoundCertificate
from consensus.driver import apply
from consensus.effects import (
    AskForValue,
    BroadcastCertificate,
    BroadcastProposal,
    BroadcastVote,
    Decide,
    Effect,
    ReportEvidence,
    ScheduleTimeout,
)
from consensus.errors import RejectionError
from consensus.events import (
    CommitReceived,
    Event,
    HeightStarted,
    PolkaReceived,
    ProposalReceived,
    RoundReceived,
    TimeoutElapsed,
    Validity,
    ValueReady,
    VoteReceived,
)
from consensus.height_state import HeightContext, HeightState, decided_commit, decided_polkas, own_messages, start_state
from consensus.identifiers import NO_ROUND, Height, MemberIndex, Round
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
    decode_message,
    encode_message,
)
from consensus.round_machine import Step
from consensus.timeouts import rebroadcast_ms, timeout_ms
from node.errors import WriteAheadLogError
from node.message_gate import AgreementMessage, MessageGate, height_of
from node.node_chain import match_records
from node.peer_help import PeerHeights
from node.proposal_intake import ProposalIntake, now_ms
from node.proposal_pool import KnownBlock, ProposalPool
from node.signer import SigningRefusedError
from node.start_rule import StartFacts, start_moment
from node.timers import Timers
from storage.identifiers import RecordAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from consensus.evidence import Evidence
    from consensus.genesis import ConsensusParameters
    from consensus.members import MemberSet
    from consensus.turns import ProposerOrder
    from consensus.votes import Vote
    from node.mempool import Mempool
    from node.node_chain import Appended, NodeChain
    from node.outbox import Outbox
    from node.signer import Signer
    from node.telemetry import NodeCounters
    from node.write_ahead_log import LogContents, WriteAheadLog

LOGGER = logging.getLogger(__name__)

INBOX_MAX: Final = 4_096
NEXT_HEIGHT_MAX: Final = 64
"""Messages of the next height kept for one member; a round needs four of them."""
EVIDENCE_MAX: Final = 16
PULL_S: Final = 0.3
"""How often a decided block that is not here is asked for."""
REPEAT_BYTES_MAX: Final = 1024 * 1024
IDLE_STATUS_S: Final = 5.0
"""How often a member without anything to do says where it stands."""
LISTEN_S: Final = 1.0
"""How long a starting member only listens: a second copy of its seat would be heard."""


@dataclass(slots=True, kw_only=True)
class OfferedBlock:
    """A decided block from catch-up, and what became of it."""

    decided: DecidedBlock
    done: trio.Event = field(default_factory=trio.Event)
    refusal: RejectionError | None = None


WantedT = TypeVar("WantedT")
SignedT = TypeVar("SignedT")
Queued: TypeAlias = tuple[MemberIndex, Message] | OfferedBlock


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsensusParts:
    """What the task is built from."""

    seat: MemberIndex
    members: MemberSet
    turns: ProposerOrder
    parameters: ConsensusParameters
    chain: NodeChain
    signer: Signer
    log: WriteAheadLog
    mempool: Mempool
    outbox: Outbox
    counters: NodeCounters
    take_transactions: Callable[[TransactionsMessage], None]
    """Lets transactions of another member wait in the mempool."""
    on_appended: Callable[[Appended], None]
    """Told of every block, after it is durable."""
    listen_s: float = LISTEN_S


class ConsensusTask:
    """One member's part in the agreement."""

    def __init__(self, parts: ConsensusParts) -> None:
        self._parts = parts
        self._chain = parts.chain
        self._gate = MessageGate(parts.members, parts.turns, parts.seat, parts.signer)
        self._intake = ProposalIntake(
            chain=parts.chain,
            mempool=parts.mempool,
            outbox=parts.outbox,
            counters=parts.counters,
            pool=ProposalPool(),
        )
        self.peers = PeerHeights()
        self.peer_ahead = trio.Event()
        self.appended = trio.Event()
        self._timers = Timers()
        self._inbox: deque[Queued] = deque()
        self._next_height: dict[MemberIndex, list[AgreementMessage]] = {}
        self._own_events: deque[Event] = deque()
        self._evidence: dict[Evidence, None] = {}
        self._wake = trio.Event()
        self._senders: set[MemberIndex] = set()
        self._proposal_heard = False
        self._pending_since = math.inf
        self._begun_at = 0.0
        self._repeat_at = math.inf
        self._state = self._new_state()

    @property
    def height(self) -> Height:
        """The height this member votes at: one above its chain."""
        return self._state.context.height

    @property
    def is_voting(self) -> bool:
        """Say whether this seat signs at its height."""
        return self._state.context.me is not None

    # --- what enters -------------------------------------------------------------------------------------------------

    def receive(self, member: MemberIndex, frame: bytes) -> None:
        """Decode, prove and queue one frame of another member; never waits.

        Raises:
            RejectionError: It breaks a rule; the network closes the connection.
            SecondCopyError: This seat signs elsewhere too; the node stops.
        """
        message = decode_message(frame)
        match message:
            case VoteMessage() | ProposalMessage() | PolkaMessage() | CommitMessage() | RoundMessage():
                self._receive_agreement(member, message)
            case StatusMessage(height=height):
                self._receive_status(member, height)
            case DecidedMessage(decided=decided):
                if decided.block.header.height == self.height:
                    self._queue((member, message))
            case TransactionsMessage():
                self._parts.take_transactions(message)
            case RecordsMissing() | RecordsMessage():
                self._queue((member, message))
            case _:
                assert_never(message)

    async def offer_decided(self, decided: DecidedBlock) -> None:
        """Append a block from catch-up if it follows the tip and is proven; older ones are ignored.

        Raises:
            RejectionError: It is not what it claims to be.
        """
        offered = OfferedBlock(decided=decided)
        self._inbox.append(offered)
        self.wake()
        await offered.done.wait()
        if offered.refusal is not None:
            raise offered.refusal

    def wake(self) -> None:
        """Something happened that may be a reason for a block, or a reason to vote."""
        self._wake.set()

    def say_status(self, member: MemberIndex) -> None:
        """Tell a member where this one stands, as when its link comes up."""
        self._parts.outbox.send(member, self._status())

    def _receive_agreement(self, member: MemberIndex, message: AgreementMessage) -> None:
        height = height_of(message)
        if height > self.height:
            self._note_ahead(member, height)
        if not self.height <= height <= self.height + 1 or not self._gate.admit(message):
            return
        if height == self.height:
            self._queue((member, message))
            return
        waiting = self._next_height.setdefault(member, [])
        if len(waiting) < NEXT_HEIGHT_MAX:
            waiting.append(message)
        else:
            self._parts.counters.inputs_dropped += 1

    def _receive_status(self, member: MemberIndex, height: Height) -> None:
        if height > self.height:
            self._note_ahead(member, height)
        elif height < self.height and self.peers.may_answer(member, height, trio.current_time()):
            self._queue((member, StatusMessage(height=height, round=self._state.machine.round)))

    def _note_ahead(self, member: MemberIndex, height: Height) -> None:
        self.peers.note(member, height)
        self.peer_ahead.set()

    def _queue(self, queued: tuple[MemberIndex, Message]) -> None:
        if len(self._inbox) >= INBOX_MAX:
            self._parts.counters.inputs_dropped += 1
            return
        self._inbox.append(queued)
        self._wake.set()

    # --- the loop ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Listen, recover, then take part until cancelled.

        Raises:
            WriteAheadLogError, StorageError: The disk refuses; the process must stop.
        """
        await trio.sleep(self._parts.listen_s)
        await self._recover()
        while True:
            await self._consider_start()
            await self._wait()
            while self._inbox:
                await self._take_queued(self._inbox.popleft())
                await trio.lowlevel.checkpoint()
            now = trio.current_time()
            for timeout in self._timers.take_due(now):
                await self._feed(TimeoutElapsed(timeout=timeout))
            if now >= self._repeat_at:
                await self._repeat()

    async def _wait(self) -> None:
        if not self._inbox:
            moment = min(self._timers.next_due(), self._repeat_at, self._start_moment())
            with trio.move_on_at(moment):
                await self._wake.wait()
        self._wake = trio.Event()

    async def _take_queued(self, queued: Queued) -> None:
        if isinstance(queued, OfferedBlock):
            await self._take_offered(queued)
            return
        member, message = queued
        match message:
            case VoteMessage() | ProposalMessage() | PolkaMessage() | CommitMessage() | RoundMessage():
                if height_of(message) == self.height:
                    await self._take_agreement(member, message)
            case StatusMessage(height=height):
                await self._help(member, height)
            case DecidedMessage(decided=decided):
                offered = OfferedBlock(decided=decided)
                await self._take_offered(offered)
                if offered.refusal is not None:
                    self._parts.counters.refused[offered.refusal.reason] += 1
            case RecordsMissing():
                await self._send_records(member, message)
            case RecordsMessage(block_hash=block_hash):
                waiting = self._intake.message_of(block_hash)
                known = await self._intake.take_records(message)
                if waiting is not None and known is not None:
                    await self._feed_proposal(waiting, known)
            case TransactionsMessage():
                raise AssertionError("transactions are not queued here")
            case _:
                assert_never(message)

    async def _take_agreement(self, member: MemberIndex, message: AgreementMessage) -> None:
        match message:
            case VoteMessage(signed=signed):
                self._senders.add(signed.vote.member)
                await self._feed(VoteReceived(signed=signed))
            case ProposalMessage():
                self._proposal_heard = True
                await self._consider_start()
                known = await self._intake.take(message)
                if known is not None and height_of(message) == self.height:
                    await self._feed_proposal(message, known)
            case PolkaMessage(certificate=certificate):
                await self._feed(PolkaReceived(certificate=certificate))
            case CommitMessage(certificate=certificate):
                await self._feed(CommitReceived(certificate=certificate))
            case RoundMessage(certificate=certificate):
                self._senders.add(member)
                await self._feed(RoundReceived(certificate=certificate))
            case _:
                assert_never(message)

    async def _feed_proposal(self, message: ProposalMessage, known: KnownBlock) -> None:
        if message.polka is not None:
            await self._feed(PolkaReceived(certificate=message.polka))
        if height_of(message) != self.height:
            return
        if known.validity is Validity.VALID:
            self._parts.log.append_block(known.block)
        await self._feed(ProposalReceived(signed=message.signed, validity=known.validity))

    async def _feed(self, event: Event) -> None:
        """Log, apply, carry out; then the same for every message of our own that came of it."""
        self._own_events.append(event)
        while self._own_events:
            following = self._own_events.popleft()
            self._parts.log.append_event(following)
            for effect in self._apply(following):
                await self._carry_out(effect)
        if self._state.decision is not None:
            await self._try_append()

    def _apply(self, event: Event) -> tuple[Effect, ...]:
        round_before = self._state.machine.round
        try:
            self._state, effects = apply(self._state, event)
        except RejectionError as error:
            self._parts.counters.refused[error.reason] += 1
            return ()
        if self._state.machine.round != round_before:
            self._parts.counters.rounds_above_zero += 1
            self._schedule_repeat()
        return effects

    # --- what the core asks for --------------------------------------------------------------------------------------

    async def _carry_out(self, effect: Effect) -> None:
        match effect:
            case AskForValue():
                await self._make_block(effect)
            case BroadcastProposal():
                await self._propose(effect)
            case BroadcastVote(vote=vote):
                await self._vote(vote)
            case BroadcastCertificate(certificate=certificate):
                self._parts.outbox.broadcast(encode_message(_certificate_message(certificate)))
            case ScheduleTimeout(timeout=timeout):
                span_ms = timeout_ms(timeout.kind, timeout.round, self._parts.parameters)
                self._timers.start(timeout, trio.current_time() + span_ms / 1000)
            case ReportEvidence(evidence=evidence):
                self._parts.counters.evidence_seen += 1
                if len(self._evidence) < EVIDENCE_MAX:
                    self._evidence[evidence] = None
            case Decide():
                LOGGER.debug("height %d decided in round %d", self.height, effect.certificate.round)
            case _:
                assert_never(effect)

    async def _make_block(self, asked: AskForValue) -> None:
        pending = self._parts.mempool.take()
        block = self._chain.make_block([waiting.transaction for waiting in pending], tuple(self._evidence), now_ms())
        records: dict[RecordAddress, bytes] = {}
        for waiting in pending:
            records |= match_records(self._chain.record_claims(waiting.transaction), waiting.records)
        block_hash = header_hash(block.header)
        await self._intake.keep_own(block_hash, block, records)
        self._parts.log.append_block(block)
        self._parts.counters.proposals_made += 1
        self._own_events.append(ValueReady(height=asked.height, round=asked.round, block_hash=block_hash))

    async def _propose(self, effect: BroadcastProposal) -> None:
        known = self._intake.pool.get(effect.proposal.block_hash)
        if known is None:
            LOGGER.warning("the block to propose again is not here any more")
            return
        try:
            signed = await trio.to_thread.run_sync(
                self._sign_flushed, self._parts.signer.sign_proposal, effect.proposal
            )
        except SigningRefusedError as error:
            LOGGER.info("%s", error)
            return
        records = await self._intake.records_of(known.addresses)
        message = ProposalMessage(signed=signed, block=known.block, records=records, polka=effect.polka)
        self._parts.outbox.broadcast(encode_message(message))
        self._own_events.append(ProposalReceived(signed=signed, validity=Validity.VALID))

    async def _vote(self, vote: Vote) -> None:
        try:
            signed = await trio.to_thread.run_sync(self._sign_flushed, self._parts.signer.sign_vote, vote)
        except SigningRefusedError as error:
            LOGGER.info("%s", error)
            return
        self._parts.outbox.broadcast(encode_message(VoteMessage(signed=signed)))
        self._parts.counters.votes_sent += 1
        self._own_events.append(VoteReceived(signed=signed))

    def _sign_flushed(self, sign: Callable[[WantedT], SignedT], wanted: WantedT) -> SignedT:
        """In a worker thread: what led to a signature is durable before the signature exists."""
        self._parts.log.flush()
        return sign(wanted)

    # --- one height after the other ----------------------------------------------------------------------------------

    def _new_state(self) -> HeightState:
        height = Height(self._chain.tip.height + 1)
        parts = self._parts
        return start_state(
            HeightContext(
                height=height,
                budget=parts.members.budget,
                turns=parts.turns,
                me=parts.seat if parts.signer.may_sign(height) else None,
            )
        )

    async def _recover(self) -> None:
        """Start at the tip; bring the core to where the log left it and do again what was not finished."""
        contents = await trio.to_thread.run_sync(self._parts.log.read)
        if contents is not None and contents.height > self.height:
            raise WriteAheadLogError(
                f"the log is of height {contents.height}, the chain ends at {self.height - 1}: chain/ was replaced by"
                " an older copy; move chain/ away and start again, the node catches up"
            )
        self._begin_height()
        if contents is not None and contents.height == self.height:
            await self._replay(contents)
        else:
            await trio.to_thread.run_sync(self._parts.log.begin, self.height)

    async def _replay(self, contents: LogContents) -> None:
        effects: list[Effect] = []
        for entry in contents.entries:
            if isinstance(entry, Block):
                claims = [claim for encoded in entry.transactions for claim in self._chain.record_claims(encoded)]
                known = KnownBlock(
                    block=entry, validity=Validity.VALID, addresses=tuple(claim.address for claim in claims)
                )
                self._intake.pool.add(header_hash(entry.header), known)
            else:
                effects += self._apply(entry)
        events = [entry for entry in contents.entries if not isinstance(entry, Block)]
        LOGGER.info("height %d: %d events replayed from the log", self.height, len(events))
        self._schedule_repeat()
        for effect in effects:
            if not _is_done(effect, events):
                await self._carry_out(effect)
        while self._own_events:
            await self._feed(self._own_events.popleft())
        if self._state.decision is not None:
            await self._try_append()

    def _begin_height(self) -> None:
        self._state = self._new_state()
        self._timers.clear()
        self._own_events.clear()
        self._gate.forget()
        self._intake.pool.clear()
        self._senders.clear()
        self._proposal_heard = False
        self._pending_since = math.inf
        self._begun_at = trio.current_time()
        self._schedule_repeat()
        for member, messages in self._next_height.items():
            self._inbox.extend((member, message) for message in messages)
        self._next_height.clear()

    def _facts(self) -> StartFacts:
        tip = self._chain.tip
        if math.isinf(self._pending_since) and (len(self._parts.mempool) or self._evidence):
            self._pending_since = trio.current_time()
        return StartFacts(
            begun_at=self._begun_at,
            pending_since=self._pending_since,
            is_proposer=self._parts.turns.proposer(self.height, Round(0)) == self._state.context.me,
            root_changed=tip.last is not None and tip.last.block.header.state_root != tip.state_root,
            others_started=self._proposal_heard or len(self._senders) >= self._parts.members.budget.weak_quorum,
        )

    def _start_moment(self) -> float:
        if self._state.machine.step is not Step.NEW or self._state.decision is not None:
            return math.inf
        return start_moment(self._facts(), self._parts.parameters)

    async def _consider_start(self) -> None:
        if self._start_moment() <= trio.current_time():
            await self._feed(HeightStarted(height=self.height))
            self._schedule_repeat()

    async def _try_append(self) -> None:
        """Append the decided block if it and its polkas are here; otherwise they are pulled by repeat()."""
        decision = self._state.decision
        assert decision is not None, "nothing was decided"
        known = self._intake.pool.get(decision.block_hash)
        polkas = decided_polkas(self._state)
        if known is None or polkas is None:
            self._repeat_at = min(self._repeat_at, trio.current_time() + PULL_S)
            return
        await self._append(DecidedBlock(block=known.block, commit=decided_commit(self._state), polkas=polkas))

    async def _take_offered(self, offered: OfferedBlock) -> None:
        try:
            height = offered.decided.block.header.height
            if height >= self.height:
                await trio.to_thread.run_sync(self._chain.check_decided, offered.decided)
                self._gate.check_own(offered.decided.commit)
                self._parts.counters.blocks_caught_up += 1
                await self._append(offered.decided)
        except RejectionError as error:
            offered.refusal = error
        finally:
            offered.done.set()

    async def _append(self, decided: DecidedBlock) -> None:
        appended = await trio.to_thread.run_sync(self._append_and_log, decided)
        self._parts.counters.blocks_decided += 1
        self._parts.mempool.committed(appended.transaction_ids, appended.height)
        for evidence in decided.block.evidence:
            self._evidence.pop(evidence, None)
        unused = self._intake.pool.addresses() - {
            claim.address for encoded in decided.block.transactions for claim in self._chain.record_claims(encoded)
        }
        if unused:
            await trio.to_thread.run_sync(self._chain.erase_records, tuple(unused))
        self._begin_height()
        self._parts.on_appended(appended)
        self.appended.set()
        self.appended = trio.Event()

    def _append_and_log(self, decided: DecidedBlock) -> Appended:
        """In a worker thread: the block is durable before its height's log is forgotten."""
        appended = self._chain.append(decided)
        self._parts.log.begin(Height(appended.height + 1))
        return appended

    # --- helping and being helped ------------------------------------------------------------------------------------

    def _schedule_repeat(self) -> None:
        is_idle = self._state.machine.step is Step.NEW and self._state.decision is None
        span_s = IDLE_STATUS_S if is_idle else rebroadcast_ms(self._state.machine.round, self._parts.parameters) / 1000
        self._repeat_at = trio.current_time() + span_s

    async def _repeat(self) -> None:
        """Say again where this member stands and, once the height has started, what it said and why."""
        self._schedule_repeat()
        outbox = self._parts.outbox
        outbox.broadcast(self._status())
        for block_hash, waiting in self._intake.pool.all_waiting():
            self._intake.ask_missing(block_hash, waiting)
        if self._state.decision is not None:
            self._repeat_at = trio.current_time() + PULL_S
            outbox.broadcast(encode_message(CommitMessage(certificate=self._state.decision.certificate)))
            return
        if self._state.machine.step is Step.NEW:
            return
        for message in await self._own_messages():
            outbox.broadcast(encode_message(message))
        self._repeat_transactions()

    async def _own_messages(self) -> list[Message]:
        own = own_messages(self._state)
        messages: list[Message] = [PolkaMessage(certificate=polka) for polka in own.polkas]
        if own.entry is not None:
            messages.append(RoundMessage(certificate=own.entry))
        if own.proposal is not None:
            known = self._intake.pool.get(own.proposal.proposal.block_hash)
            if known is not None:
                polka = next((p for p in own.polkas if p.round == own.proposal.proposal.valid_round), None)
                records = await self._intake.records_of(known.addresses)
                if own.proposal.proposal.valid_round == NO_ROUND or polka is not None:
                    messages.append(
                        ProposalMessage(signed=own.proposal, block=known.block, records=records, polka=polka)
                    )
        messages += [VoteMessage(signed=signed) for signed in own.votes]
        if own.commit is not None:
            messages.append(CommitMessage(certificate=own.commit))
        return messages

    def _repeat_transactions(self) -> None:
        """Hand what waits to the next proposers once more: they may have been away."""
        items: list[TransactionItem] = []
        free_bytes = REPEAT_BYTES_MAX
        for pending in self._parts.mempool.waiting()[:TRANSACTION_ITEMS_MAX]:
            free_bytes -= pending.byte_count
            if items and free_bytes < 0:
                break
            items.append(TransactionItem(transaction=pending.transaction, records=pending.records))
        if not items:
            return
        frame = encode_message(TransactionsMessage(items=tuple(items)))
        following = self._state.machine.round + 1
        for round_ in (following, following + 1):
            self._parts.outbox.send(self._parts.turns.proposer(self.height, Round(round_)), frame)

    def _status(self) -> bytes:
        round_ = max(self._state.machine.round, 0)
        return encode_message(StatusMessage(height=self.height, round=Round(round_)))

    async def _help(self, member: MemberIndex, height: Height) -> None:
        decided = await trio.to_thread.run_sync(self._chain.decided_block, height)
        if decided is not None:
            self._parts.outbox.send(member, encode_message(DecidedMessage(decided=decided)))
        self._parts.outbox.send(member, self._status())

    async def _send_records(self, member: MemberIndex, asked: RecordsMissing) -> None:
        records = await self._intake.records_of([RecordAddress(address) for address in asked.addresses])
        if records:
            answer = RecordsMessage(block_hash=asked.block_hash, records=records)
            self._parts.outbox.send(member, encode_message(answer))


def _certificate_message(certificate: PolkaCertificate | RoundCertificate) -> PolkaMessage | RoundMessage:
    if isinstance(certificate, PolkaCertificate):
        return PolkaMessage(certificate=certificate)
    return RoundMessage(certificate=certificate)


def _is_done(effect: Effect, events: Sequence[Event]) -> bool:
    """Say whether the log holds the event that follows from an effect: it was carried out before the crash."""
    match effect:
        case AskForValue(round=round_):
            return any(isinstance(event, ValueReady) and event.round == round_ for event in events)
        case BroadcastProposal(proposal=proposal):
            return any(isinstance(event, ProposalReceived) and event.signed.proposal == proposal for event in events)
        case BroadcastVote(vote=vote):
            return any(isinstance(event, VoteReceived) and event.signed.vote == vote for event in events)
        case ScheduleTimeout(timeout=timeout):
            return any(isinstance(event, TimeoutElapsed) and event.timeout == timeout for event in events)
        case BroadcastCertificate() | Decide():
            return True  # certificates are repeated while stuck; a decision is appended after the replay
        case ReportEvidence():
            return False
        case _:
            assert_never(effect)
