"""A verifier at work: in each epoch it asks the seats that the lot gives it, and tells the chain what it found.

With the block that begins an epoch a verifier draws its 32 bytes, counts what each of its seats has vouched for, and
asks for leaves (challenge.py). All nine report at the same time after that block, so that one block carries nearly all
reports; each says in the same moment up to which height it has purged. What no block has carried is sent again.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import trio

from consensus.errors import RejectionError
from node.challenge import ChallengePace, challenge
from storage.audits import Finding, PurgeState, ReportFindings, ReportPurge, finding_key, purge_key
from storage.ledger_audits import appointed, recheck_of, running_epoch
from storage.possession import Census, Picker, draw_leaves, holding_of, question_of
from storage.state import StateReader, read_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from consensus.identifiers import Height, TransactionId
    from node.client.holders import HolderPool
    from node.repair_task import SegmentLedger
    from storage.audits import EpochState, Failed, Passed
    from storage.identifiers import SeatIndex, SegmentId
    from storage.ledger_audits import AuditRules
    from storage.possession import Holding, Question
    from storage.state import SegmentState
    from storage.transactions import Body

LOGGER = logging.getLogger(__name__)

ASK_S: Final = 30.0
RETRY_S: Final = 40.0
DEADLINE_S: Final = 55.0
LEAF_S: Final = 10.0
REPORT_S: Final = 60.0
"""After the epoch's first block: nine reports, one block, the next heartbeat's where nothing else makes one."""
USUAL_EPOCH_S: Final = 120.0
"""Shorter epochs shorten all of these alike."""
AGAIN_PARTS: Final = 3
"""Of an epoch: later than blocks carry what waits patiently (rule A68), and of the same epoch."""
BLOCK_CHECK_S: Final = 1.0
"""Blocks that come faster are looked at together."""
NONCE_BYTES: Final = 32


class Sender(Protocol):
    """Who speaks for this seat; seat_sender.py."""

    def send(self, body: Body) -> TransactionId:
        """Have a block carry this, if one will; raises RejectionError when the mempool does not take it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengeParts:
    """What a verifier reads, asks and tells."""

    seat: SeatIndex
    rules: Callable[[], AuditRules]
    """Of this moment: who sits where may change with a block."""
    next_height: Callable[[], Height]
    state: StateReader
    ledger: SegmentLedger
    pool: HolderPool
    sender: Sender
    purged_height: Callable[[], Height | None]
    """Up to where nothing erased is in this node's files; None until it is known."""


class ChallengeTask:
    """One seat's part in every epoch."""

    def __init__(self, parts: ChallengeParts) -> None:
        self._parts = parts
        self._news = trio.Event()

    def on_appended(self) -> None:
        """Learn of a block: it may begin an epoch, or carry a report."""
        self._news.set()

    async def run(self) -> None:
        """Verify and report until cancelled."""
        while True:
            epoch = await trio.to_thread.run_sync(running_epoch, self._parts.state)
            began = trio.current_time()
            await self._prove(epoch, began)
            while await self._is_running(epoch):
                await self._wait_for_block()

    async def _prove(self, epoch: EpochState, began: float) -> None:
        epoch_s = self._parts.rules().parameters.epoch_ms / 1_000
        scale = min(1.0, epoch_s / USUAL_EPOCH_S)
        pace = ChallengePace(
            ask_s=ASK_S * scale, retry_s=RETRY_S * scale, deadline_s=DEADLINE_S * scale, leaf_s=LEAF_S * scale
        )
        nonce = secrets.token_bytes(NONCE_BYTES)
        asked = await trio.to_thread.run_sync(self._questions, epoch, nonce)
        found: dict[SeatIndex, Passed | Failed] = {}

        async def ask(subject: SeatIndex, questions: list[Question]) -> None:
            found[subject] = await challenge(
                self._parts.pool, subject, questions, pace, lambda question: self._is_still_due(subject, question)
            )

        async with trio.open_nursery() as nursery:
            for subject, questions in asked.items():
                nursery.start_soon(ask, subject, questions)
        await trio.sleep_until(began + REPORT_S * scale)
        await self._report(epoch, nonce, found, epoch_s / AGAIN_PARTS)

    async def _report(
        self, epoch: EpochState, nonce: bytes, found: Mapping[SeatIndex, Passed | Failed], again_s: float
    ) -> None:
        """Tell the chain, until a block shows it or the epoch is over."""
        while await self._is_running(epoch):
            unreported = await trio.to_thread.run_sync(self._unreported, found)
            purged = await trio.to_thread.run_sync(self._unreported_purge, epoch)
            if not unreported and purged is None:
                return
            findings = tuple(Finding(subject=subject, result=found[subject]) for subject in unreported)
            try:
                if findings:
                    self._parts.sender.send(ReportFindings(epoch=epoch.number, nonce=nonce, findings=findings))
                if purged is not None:
                    self._parts.sender.send(ReportPurge(height=purged))
            except RejectionError as error:
                LOGGER.debug("a report waits: %s", error)
            with trio.move_on_after(again_s):
                while await self._is_waiting(found, epoch):
                    await self._wait_for_block()

    async def _is_waiting(self, found: Mapping[SeatIndex, Passed | Failed], epoch: EpochState) -> bool:
        if not await self._is_running(epoch):
            return False
        unreported = await trio.to_thread.run_sync(self._unreported, found)
        return bool(unreported) or await trio.to_thread.run_sync(self._unreported_purge, epoch) is not None

    async def _is_running(self, epoch: EpochState) -> bool:
        now = await trio.to_thread.run_sync(running_epoch, self._parts.state)
        return now.number == epoch.number

    async def _wait_for_block(self) -> None:
        await trio.sleep(BLOCK_CHECK_S)
        await self._news.wait()
        self._news = trio.Event()

    def _questions(self, epoch: EpochState, nonce: bytes) -> dict[SeatIndex, list[Question]]:
        """Return what to ask whom in an epoch (blocks: two walks over the ledger's segments)."""
        rules, at = self._parts.rules(), self._parts.next_height()
        own = self._parts.seat
        subjects = [
            subject
            for subject in rules.seats
            if own in appointed(epoch, subject, rules) and self._parts.state.value(finding_key(subject, own)) is None
        ]
        censuses = {subject: Census() for subject in subjects}
        for segment_id, state in self._segments() if subjects else ():
            for subject, census in censuses.items():
                if (holding := holding_of(segment_id, state, subject, rules.placement, at)) is not None:
                    census.add(holding)
        pickers = {
            subject: Picker(draw_leaves(census, seed=epoch.seed, nonce=nonce, subject=subject, epoch=epoch.number))
            for subject, census in censuses.items()
        }
        asked = {subject: self._disputed(epoch, subject) for subject in subjects}
        for segment_id, state in self._segments() if subjects else ():
            for subject, picker in pickers.items():
                if (holding := holding_of(segment_id, state, subject, rules.placement, at)) is not None:
                    asked[subject].extend(picker.meet(holding))
        return asked

    def _disputed(self, epoch: EpochState, subject: SeatIndex) -> list[Question]:
        """Return the leaves about which verifiers disagreed; what was freed since needs no answer."""
        recheck = recheck_of(epoch, subject)
        found: list[Question] = []
        for asked in () if recheck is None else recheck.leaves:
            holding = self._holding(asked.segment_id, subject)
            if holding is not None and asked.leaf < holding.leaves:
                found.append(question_of(holding, asked.leaf))
        return found

    def _segments(self) -> Iterator[tuple[SegmentId, SegmentState]]:
        after: SegmentId | None = None
        while rows := self._parts.ledger.segments(after=after):
            yield from rows
            after = rows[-1][0]

    def _is_still_due(self, subject: SeatIndex, question: Question) -> bool:
        return self._holding(question.segment_id, subject) is not None

    def _holding(self, segment_id: SegmentId, subject: SeatIndex) -> Holding | None:
        """Return what a seat has vouched for of a segment, as the ledger stands."""
        state = self._parts.ledger.segment(segment_id)
        if state is None:
            return None
        return holding_of(segment_id, state, subject, self._parts.rules().placement, self._parts.next_height())

    def _unreported(self, found: Mapping[SeatIndex, Passed | Failed]) -> list[SeatIndex]:
        own, state = self._parts.seat, self._parts.state
        return [subject for subject in found if state.value(finding_key(subject, own)) is None]

    def _unreported_purge(self, epoch: EpochState) -> Height | None:
        """Return the height to report as purged, None when this epoch has a report or there is nothing new."""
        purged = self._parts.purged_height()
        known = read_state(self._parts.state, purge_key(self._parts.seat), PurgeState)
        if known is None:
            return purged
        is_told = known.reported_ms >= epoch.opened_ms or purged is None or purged <= known.height
        return None if is_told else purged
