"""What other members send, on its way in: decoded, proven, and queued for this height or the next; never waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, assert_never

from consensus.errors import RejectionError
from consensus.height_state import is_known_polka, is_settled
from consensus.identifiers import NO_ROUND, Round
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
    decode_message,
)
from consensus.vote_keeper import is_kept
from consensus.votes import Precommit, Prevote
from node.inbox import Received
from node.late_votes import LateVote, LateVotes
from node.message_gate import height_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.height_state import HeightState
    from consensus.identifiers import Height, MemberIndex
    from consensus.votes import Vote
    from node.evidence_pool import EvidencePool
    from node.inbox import Inbox
    from node.message_gate import AgreementMessage, MessageGate
    from node.peer_help import PeerHeights
    from node.telemetry import NodeCounters


class ReceptionEvents(Protocol):
    """Who is told of what concerns no height; both return at once."""

    def on_peer_ahead(self) -> None:
        """Some member has decided more than this one."""

    def on_transactions(self, message: TransactionsMessage) -> None:
        """Another member hands transactions on."""


class Reception:
    """The door of one member."""

    __slots__ = (
        "_counters",
        "_events",
        "_evidence",
        "_gate",
        "_inbox",
        "_late",
        "_monotonic_s",
        "_peers",
        "_state",
    )

    def __init__(
        self,
        *,
        state: Callable[[], HeightState],
        gate: MessageGate,
        evidence: EvidencePool,
        inbox: Inbox,
        peers: PeerHeights,
        events: ReceptionEvents,
        counters: NodeCounters,
        monotonic_s: Callable[[], float],
    ) -> None:
        """Let in what concerns the member's present height, whatever that is at the time."""
        self._state = state
        self._late = LateVotes()
        self._gate = gate
        self._evidence = evidence
        self._inbox = inbox
        self._peers = peers
        self._events = events
        self._counters = counters
        self._monotonic_s = monotonic_s

    def begin_height(self) -> None:
        """Turn to the height that is present now."""
        self._gate.forget()
        self._late.clear()
        self._inbox.begin_height()

    def receive(self, member: MemberIndex, frame: bytes) -> None:
        """Take one frame of another member.

        Raises:
            RejectionError: It breaks a rule; the network closes the connection.
            SecondCopyError: This seat signs elsewhere too; the node stops.
        """
        message = decode_message(frame)
        match message:
            case VoteMessage() | ProposalMessage() | PolkaMessage() | CommitMessage() | RoundMessage():
                self._receive_agreement(member, message, frame)
            case StatusMessage(height=height):
                self._receive_status(member, height)
            case DecidedMessage(decided=decided):
                if decided.block.header.height == self._state().context.height:
                    self._queue(Received(member=member, message=message, byte_count=len(frame)))
            case TransactionsMessage():
                self._events.on_transactions(message)
            case RecordsMissing():
                if self._peers.may_answer_records(member, self._monotonic_s()):
                    self._queue(Received(member=member, message=message, byte_count=len(frame)))
            case RecordsMessage():
                self._queue(Received(member=member, message=message, byte_count=len(frame)))
            case EvidenceMessage(evidence=evidence):
                if self._evidence.has_room(evidence):
                    self._gate.check_evidence(evidence)
                    self._queue(Received(member=member, message=message, byte_count=len(frame)))
            case _:
                assert_never(message)

    def _receive_agreement(self, member: MemberIndex, message: AgreementMessage, frame: bytes) -> None:
        here, height = self._state().context.height, height_of(message)
        if height > here:
            self._note_ahead(member, height)
        if not here - 1 <= height <= here + 1 or self._is_of_no_use(message, height, here):
            return
        if height == here and self._is_late(member, message, frame):
            return
        if height > here and not self._inbox.has_room_next(member, len(frame)):
            self._counters.inputs_dropped += 1
            return
        if not self._gate.admit(message, frame):
            return
        received = Received(member=member, message=message, byte_count=len(frame))
        if height <= here:
            is_queued = self._queue(received)
            vote = message.signed.vote if isinstance(message, VoteMessage) else None
            if is_queued and height == here and isinstance(vote, Prevote):
                self._late.note(vote)
        elif not self._inbox.put_next(received):
            self._counters.inputs_dropped += 1

    def _is_of_no_use(self, message: AgreementMessage, height: Height, here: Height) -> bool:
        """Say whether a message cannot change anything here, before the work of checking it."""
        if height == here - 1:
            return not (isinstance(message, VoteMessage) and isinstance(message.signed.vote, Precommit))
        if isinstance(message, VoteMessage):
            return self._is_far(message.signed.vote)
        return (
            height == here and isinstance(message, PolkaMessage) and is_known_polka(self._state(), message.certificate)
        )

    def _is_far(self, vote: Vote) -> bool:
        """Say whether votes of this round are not kept; one of this seat is proven: another copy may have signed it."""
        state = self._state()
        current = state.machine.round if vote.height == state.context.height else NO_ROUND
        return vote.member != state.context.me and not is_kept(vote.round, current)

    def _is_late(self, member: MemberIndex, message: AgreementMessage, frame: bytes) -> bool:
        """Keep a prevote that can only prove a fault; before what may contradict those that are kept, let them in."""
        if isinstance(message, VoteMessage):
            vote = message.signed.vote
            if isinstance(vote, Precommit):
                return False
            state = self._state()
            is_said = is_settled(state, vote) or self._late.alike(vote) >= state.context.budget.quorum
            if vote.member == member and is_said and self._late.keep(LateVote(message, frame)):
                return True
        if isinstance(message, PolkaMessage) and self._late.all_say(message.certificate):
            return False
        for late in self._late.take_all():
            self._let_in(late)
        return False

    def _let_in(self, late: LateVote) -> None:
        """Prove and queue a vote that was kept; a lie costs nobody who says something else."""
        try:
            if self._gate.admit(late.message, late.frame):
                self._queue(Received(member=late.member, message=late.message, byte_count=len(late.frame)))
        except RejectionError as error:
            self._counters.refused[error.reason] += 1

    def _receive_status(self, member: MemberIndex, height: Height) -> None:
        here = self._state().context.height
        if height > here:
            self._note_ahead(member, height)
        elif height < here and self._peers.may_answer(member, height, self._monotonic_s()):
            self._queue(Received(member=member, message=StatusMessage(height=height, round=Round(0)), byte_count=0))

    def _note_ahead(self, member: MemberIndex, height: Height) -> None:
        self._peers.note(member, height)
        self._events.on_peer_ahead()

    def _queue(self, received: Received) -> bool:
        is_queued = self._inbox.put(received)
        self._counters.inputs_dropped += not is_queued
        return is_queued
