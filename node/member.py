"""One member's part in the agreement: what feeds the consensus core, in an order that is law, and does what it asks.

Order (rules D1, D2, A64): an event is appended to the log, then applied; before a signature of this seat
is released the log is flushed and the signer record is on disk; own messages come back as events after they left.

No clock, thread or socket of its own: consensus_task.py drives it in a node, testnet/simulation under virtual time.
Everything enters through receive() (frames) and offer() (catch-up), which only queue; advance() does the work. Queues,
buffers of the next height and blocks of this one are bounded; what does not fit is dropped and counted.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from typing import TYPE_CHECKING, Final, assert_never

from consensus.blocks import DecidedBlock
from consensus.certificates import PolkaCertificate, RoundCertificate
from consensus.driver import apply, wants_proposal
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
    ValueReady,
    VoteReceived,
)
from consensus.height_state import (
    HeightContext,
    HeightState,
    block_hashes,
    decided_commit,
    decided_polkas,
    start_state,
)
from consensus.identifiers import Height, MemberIndex, Round
from consensus.messages import (
    CommitMessage,
    DecidedMessage,
    EvidenceMessage,
    PolkaMessage,
    ProposalMessage,
    RecordsMessage,
    RecordsMissing,
    RoundMessage,
    StatusMessage,
    TransactionsMessage,
    VoteMessage,
    encode_message,
)
from consensus.round_machine import Step
from consensus.timeouts import rebroadcast_ms
from consensus.vote_keeper import tally
from consensus.votes import Precommit
from node.block_keeper import BlockKeeper
from node.errors import WriteAheadLogError
from node.evidence_pool import EvidencePool
from node.helping import Helper
from node.high_water import Unsaid
from node.inbox import Inbox, OfferedBlock, Received
from node.log_replay import replay_log
from node.message_gate import AgreementMessage, MessageGate, height_of
from node.peer_help import PeerHeights
from node.proposal_intake import ProposalIntake
from node.proposal_pool import KnownBlock, ProposalPool
from node.propose_pace import ProposePace
from node.reception import Reception
from node.record_check import Remembered
from node.speaker import Speaker
from node.start_rule import StartWatch, start_moment, watch_after
from node.timers import Timers

if TYPE_CHECKING:
    from node.member_parts import MemberParts

LOGGER = logging.getLogger(__name__)

PULL_S: Final = 0.3
"""How often a decided block that is not here is asked for."""
IDLE_STATUS_S: Final = 5.0
"""How often a member without anything to do says where it stands."""


class Member:
    """The shell of one height after the other."""

    def __init__(self, parts: MemberParts) -> None:
        self._parts = parts
        self._chain = parts.chain
        self._gate = MessageGate(parts.chain, parts.seat, parts.signer, parts.check)
        self._intake = ProposalIntake(
            chain=parts.chain,
            mempool=parts.mempool,
            outbox=parts.outbox,
            counters=parts.counters,
            pool=ProposalPool(),
            run_blocking=parts.run_blocking,
            wall_ms=parts.wall_ms,
        )
        self._evidence = EvidencePool(parts=parts)
        self._blocks = BlockKeeper(parts=parts, intake=self._intake, evidence=self._evidence)
        self._speaker = Speaker(
            signer=parts.signer,
            log=parts.log,
            intake=self._intake,
            outbox=parts.outbox,
            counters=parts.counters,
            run_flush=parts.run_flush,
        )
        self._helper = Helper(
            chain=parts.chain,
            mempool=parts.mempool,
            intake=self._intake,
            outbox=parts.outbox,
            run_blocking=parts.run_blocking,
        )
        self.peers = PeerHeights()
        self._inbox = Inbox()
        self._reception = Reception(
            state=lambda: self._state,
            gate=self._gate,
            evidence=self._evidence,
            inbox=self._inbox,
            peers=self.peers,
            events=parts.events,
            counters=parts.counters,
            monotonic_s=parts.monotonic_s,
        )
        self._timers = Timers()
        self._pace = ProposePace(parts.monotonic_s())
        self._own_events: deque[Event] = deque()
        self._unsaid = Unsaid(mark=parts.high_water)
        self._start = StartWatch(begun_at=parts.monotonic_s())
        self._wants_certificate = False
        self._repeat_at = math.inf
        self._rules = parts.chain.rules
        self._state = self._new_state()

    @property
    def height(self) -> Height:
        """The height this member votes at: one above its chain."""
        return self._state.context.height

    @property
    def state(self) -> HeightState:
        """What the core knows of this height."""
        return self._state

    @property
    def is_voting(self) -> bool:
        """Say whether this seat signs at its height."""
        return self._state.context.me is not None

    @property
    def has_queued(self) -> bool:
        """Say whether advance() has something to take."""
        return len(self._inbox) > 0

    # --- what enters -------------------------------------------------------------------------------------------------

    def receive(self, member: MemberIndex, frame: bytes) -> None:
        """Queue one frame of another member; never waits. Raises RejectionError, SecondCopyError (reception.py)."""
        self._reception.receive(member, frame)
        self._pace.hear(member, self._parts.monotonic_s())

    def offer(self, offered: OfferedBlock) -> None:
        """Queue a decided block of catch-up: appended if it follows the tip and is proven, ignored if older."""
        self._inbox.offer(offered)

    def say_status(self, member: MemberIndex) -> None:
        """Tell a member where this one stands, as when its link comes up."""
        self._helper.say_status(self._state, member)

    # --- the work ----------------------------------------------------------------------------------------------------

    async def recover(self) -> None:
        """Start at the tip; bring the core to where the log left it and do again what was not finished.

        Raises:
            WriteAheadLogError: The log does not fit the chain, or is damaged.
        """
        log = self._parts.log
        contents = await self._parts.run_blocking(log.read)
        if contents is not None and contents.height > self.height:
            raise WriteAheadLogError(
                f"the log is of height {contents.height}, the chain ends at {self.height - 1}: chain/ was replaced by"
                " an older copy; move chain/, signer and wal/log away and start again: the node catches up and rejoins"
            )
        self._begin_height()
        await self._evidence.restore()
        if contents is None or contents.height < self.height:
            self._check_record(Remembered())
            await self._parts.run_blocking(log.begin, self.height)
            return
        replayed = replay_log(self._state, contents)
        self._check_record(Remembered(contents.entries, replayed.asked))
        LOGGER.info("height %d: %d entries replayed from the log", self.height, len(contents.entries))
        self._state = replayed.state
        self._blocks.restore(replayed.blocks)
        self._schedule_repeat()
        await self._carry_out_all(replayed.unfinished)

    def _check_record(self, remembered: Remembered) -> None:
        parts, chain = self._parts, self._chain
        parts.check_record(parts.signer, parts.seat, chain.tip, chain.rules.schedule, remembered)

    async def advance(self) -> None:
        """Take what is due: a reason for a block, one queued message, timeouts, a repetition."""
        if unsaid := self._unsaid.take(self._chain.tip.height):
            await self._carry_out_all(unsaid)
        await self._consider_start()
        if self._inbox:
            await self._take(self._inbox.take())
        now = self._parts.monotonic_s()
        for timeout in self._timers.take_due(now):
            await self._feed(TimeoutElapsed(timeout=timeout))
        if now >= self._repeat_at:
            await self._repeat()

    def next_moment(self) -> float:
        """Return when advance() has something to do even if nothing arrives (seconds of the monotonic clock)."""
        return min(self._timers.next_due(), self._repeat_at, self._start_moment())

    async def _take(self, queued: Received | OfferedBlock) -> None:
        if isinstance(queued, OfferedBlock):
            queued.answer(await self._take_decided(queued.decided))
            return
        member, message = queued.member, queued.message
        match message:
            case VoteMessage() | ProposalMessage() | PolkaMessage() | CommitMessage() | RoundMessage():
                await self._take_agreement(member, message)
            case StatusMessage(height=height):
                await self._helper.send_decided(member, height)
                self._helper.say_status(self._state, member)
            case DecidedMessage(decided=decided):
                refusal = await self._take_decided(decided)
                if refusal is not None:
                    self._parts.counters.refused[refusal.reason] += 1
            case RecordsMissing():
                await self._helper.send_records(member, message)
            case RecordsMessage(block_hash=block_hash):
                waiting = self._intake.message_of(block_hash)
                known = await self._intake.take_records(message)
                if waiting is not None and known is not None:
                    await self._feed_proposal(waiting, known)
            case EvidenceMessage(evidence=evidence):
                await self._evidence.add(evidence)
            case TransactionsMessage():
                raise AssertionError("transactions are not queued here")
            case _:
                assert_never(message)

    async def _take_agreement(self, member: MemberIndex, message: AgreementMessage) -> None:
        height = height_of(message)
        if height == self.height - 1 and isinstance(message, VoteMessage):
            await self._blocks.count_late(message.signed)
        if height != self.height:
            return
        match message:
            case VoteMessage(signed=signed):
                self._start.senders.add(signed.vote.member)
                await self._feed(VoteReceived(signed=signed))
            case ProposalMessage():
                await self._take_proposal(message)
            case PolkaMessage(certificate=certificate):
                await self._feed(PolkaReceived(certificate=certificate))
            case CommitMessage(certificate=certificate):
                await self._feed(CommitReceived(certificate=certificate))
            case RoundMessage(certificate=certificate):
                self._start.senders.add(member)
                await self._feed(RoundReceived(certificate=certificate))
            case _:
                assert_never(message)

    async def _take_proposal(self, message: ProposalMessage) -> None:
        proposal = message.signed.proposal
        try:
            if not wants_proposal(self._state, proposal):
                return
        except RejectionError as error:
            self._parts.counters.refused[error.reason] += 1
            return
        self._pace.note_proposal(proposal.round, self._parts.monotonic_s())
        if proposal.round == max(self._state.machine.round, 0):
            self._start.proposal_heard = True
            await self._consider_start()
        known = await self._intake.take(message)
        if known is not None:
            await self._feed_proposal(message, known)

    async def _feed_proposal(self, message: ProposalMessage, known: KnownBlock) -> None:
        if height_of(message) == self.height and message.polka is not None:
            await self._feed(PolkaReceived(certificate=message.polka))
        if height_of(message) != self.height:
            return
        await self._feed(ProposalReceived(signed=message.signed, validity=known.validity))

    async def _feed(self, event: Event) -> None:
        """Log, apply, carry out; then the same for every message of our own that came of it."""
        self._own_events.append(event)
        await self._feed_own()

    async def _feed_own(self) -> None:
        while self._own_events:
            for effect in _votes_first(self._apply(self._own_events.popleft())):
                await self._carry_out(effect)
        if self._state.decision is not None:
            await self._try_append()

    def _apply(self, event: Event) -> tuple[Effect, ...]:
        """Apply and log; what is refused or changes nothing is not logged, so that no flood fills the log."""
        before = self._state
        try:
            state, effects = apply(before, event)
        except RejectionError as error:
            self._parts.counters.refused[error.reason] += 1
            return ()
        if state is before and not effects:
            return ()
        self._parts.log.append_event(event)
        self._state = state
        if state.machine.round != before.machine.round:
            self._parts.counters.rounds_above_zero += state.machine.round > 0
            self._intake.pool.keep_only(block_hashes(state))
            self._schedule_repeat()
        return effects

    # --- what the core asks for --------------------------------------------------------------------------------------

    async def _carry_out_all(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            await self._carry_out(effect)
        await self._feed_own()

    async def _carry_out(self, effect: Effect) -> None:
        if self._unsaid.holds(effect, self._chain.tip.height):
            return
        match effect:
            case AskForValue():
                block_hash = await self._blocks.make()
                self._own_events.append(ValueReady(height=effect.height, round=effect.round, block_hash=block_hash))
            case BroadcastProposal(proposal=proposal):
                self._blocks.log(proposal.block_hash)
                self._hear_own(await self._speaker.propose(effect))
            case BroadcastVote(vote=vote):
                if isinstance(vote, Precommit) and vote.block_hash is not None:
                    self._blocks.log(vote.block_hash)
                self._hear_own(await self._speaker.vote(vote))
            case BroadcastCertificate(certificate=certificate):
                self._show(certificate)
            case ScheduleTimeout(timeout=timeout):
                now, proposer = self._parts.monotonic_s(), self._chain.turns.proposer(self.height, timeout.round)
                self._timers.start(timeout, now + self._pace.wait_s(timeout, proposer, self._rules.parameters, now))
            case ReportEvidence(evidence=evidence):
                await self._evidence.add(evidence)
            case Decide():
                LOGGER.debug("height %d decided in round %d", self.height, effect.certificate.round)
            case _:
                assert_never(effect)

    def _show(self, certificate: PolkaCertificate | RoundCertificate) -> None:
        """Send a certificate to all; a polka to whoever has not precommitted its block, since those have it."""
        if isinstance(certificate, RoundCertificate):
            self._parts.outbox.broadcast(encode_message(RoundMessage(certificate=certificate)))
            return
        frame = encode_message(PolkaMessage(certificate=certificate))
        precommits = tally(self._state.keeper, certificate.round).precommits
        for member in self._rules.members.indices:
            precommit = precommits.get(member)
            if precommit is None or precommit.vote.block_hash != certificate.block_hash:
                self._parts.outbox.send(member, frame)

    def _hear_own(self, said: ProposalReceived | VoteReceived | None) -> None:
        """Own messages count when they come back (rule A64)."""
        if said is not None:
            self._own_events.append(said)

    # --- one height after the other ----------------------------------------------------------------------------------

    def _new_state(self) -> HeightState:
        height, members, signer = Height(self._chain.tip.height + 1), self._rules.members, self._parts.signer
        is_seated = members.index_of(signer.public) == self._parts.seat
        return start_state(
            HeightContext(
                height=height,
                budget=members.budget,
                voters=frozenset(members.indices),
                turns=self._chain.turns,
                me=self._parts.seat if is_seated and signer.may_sign(height) else None,
            )
        )

    def _begin_height(self) -> None:
        self._rules = self._chain.rules
        self._state = self._new_state()
        self._timers.clear()
        self._pace.begin_height()
        self._own_events.clear()
        self._unsaid.clear()
        self._intake.pool.clear()
        self._start = watch_after(self._chain.tip.last, len(self._parts.mempool), self._parts.monotonic_s())
        self._wants_certificate = self._chain.wants_certificate()
        self._schedule_repeat()
        self._reception.begin_height()

    def _start_moment(self) -> float:
        if self._state.machine.step is not Step.NEW or self._state.decision is not None:
            return math.inf
        if self._parts.mempool.has_urgent or self._evidence.is_reason():
            self._start.notice_pending(self._parts.monotonic_s())
        elif len(self._parts.mempool):
            self._start.notice_pending(self._parts.monotonic_s() + self._chain.patience_s())
        facts = self._start.facts(
            is_proposer=self._chain.turns.proposer(self.height, Round(0)) == self._state.context.me,
            root_changed=self._wants_certificate,
            weak_quorum=self._rules.members.budget.weak_quorum,
            waiting=(len(self._parts.mempool), self._parts.mempool.byte_count),
        )
        return start_moment(facts, self._rules.parameters)

    async def _consider_start(self) -> None:
        if self._state.machine.step is Step.NEW and self._start_moment() <= self._parts.monotonic_s():
            await self._feed(HeightStarted(height=self.height))
            self._schedule_repeat()

    async def _try_append(self) -> None:
        """Append the decided block if it and its polkas are here; otherwise they are pulled by repeat()."""
        decision = self._state.decision
        assert decision is not None, "nothing was decided"
        known = self._intake.pool.get(decision.block_hash)
        polkas = decided_polkas(self._state)
        if known is None or polkas is None:
            self._repeat_at = min(self._repeat_at, self._parts.monotonic_s() + PULL_S)
            return
        decided = DecidedBlock(block=known.block, commit=decided_commit(self._state), polkas=polkas)
        await self._append(decided, self._state)

    async def _take_decided(self, decided: DecidedBlock) -> RejectionError | None:
        """Append a block that was decided without us; return why not. An old one is neither."""
        if decided.block.header.height < self.height:
            return None
        try:
            await self._parts.run_blocking(self._chain.check_decided, decided)
        except RejectionError as error:
            return error
        self._gate.check_own(decided.commit)
        self._parts.counters.blocks_caught_up += 1
        await self._append(decided, None)
        return None

    async def _append(self, decided: DecidedBlock, state: HeightState | None) -> None:
        appended = await self._blocks.append(decided, state)
        self._begin_height()
        self._parts.events.on_appended(appended)

    # --- helping and being helped ------------------------------------------------------------------------------------

    def _schedule_repeat(self) -> None:
        is_idle = self._state.machine.step is Step.NEW and self._state.decision is None
        span_s = IDLE_STATUS_S if is_idle else rebroadcast_ms(self._state.machine.round, self._rules.parameters) / 1000
        self._repeat_at = self._parts.monotonic_s() + span_s

    async def _repeat(self) -> None:
        """Say again where this member stands and, once the height has started, what it said and why (rule A62)."""
        self._schedule_repeat()
        self._helper.say_status(self._state)
        self._helper.ask_missing()
        self._evidence.hand_on()
        if self._state.decision is not None:
            self._repeat_at = self._parts.monotonic_s() + PULL_S
            self._parts.outbox.broadcast(encode_message(CommitMessage(certificate=self._state.decision.certificate)))
            return
        if self._state.machine.step is Step.NEW:
            return
        await self._helper.repeat(self._state)
        self._helper.repeat_transactions(self._state)


def _votes_first(effects: tuple[Effect, ...]) -> list[Effect]:
    """Put certificates last: a polka and the precommit that it explains leave in one write, once the vote is signed."""
    return sorted(effects, key=lambda effect: isinstance(effect, BroadcastCertificate))
