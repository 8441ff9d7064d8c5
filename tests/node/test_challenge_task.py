"""Nine verifiers and holders, one ledger: who holds proves it, who lost or lies is named, two liars change nothing."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from msgspec import structs

from consensus.identifiers import CertificateHash, Height, Milliseconds, TransactionId
from node.challenge import ChallengePace, challenge
from node.challenge_task import ChallengeParts, ChallengeTask
from node.client.holders import HolderPool
from node.client.sources import bytes_source
from node.seat_sender import SeatSender
from node.submission import Submission
from storage.audits import (
    AskedLeaf,
    AuditState,
    EpochState,
    Failed,
    FailureKind,
    Finding,
    Passed,
    PurgeState,
    ReportFindings,
    audit_key,
    purge_key,
)
from storage.genesis import StorageParameters
from storage.identifiers import LEAF_BYTES, SeatIndex
from storage.ledger import apply_transactions
from storage.ledger_audits import running_epoch
from storage.merkle import leaf_hashes, root_of
from storage.moments import Moment
from storage.outcomes import FailureReason, Outcome
from storage.possession import Question, verifiers_of
from storage.state import read_state
from storage.transactions import transaction_id
from tests.node.client.nine import SEATS, Nine
from tests.node.jumps import pause, until
from tests.node.test_repair_task import EVERYBODY, LedgerOf

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from storage.transactions import Body

SUBJECT = SeatIndex(4)
LIARS = (SeatIndex(2), SeatIndex(7))
EPOCH_S = 60.0
BLOCK_S = 5.0


def certificate_of(height: int) -> CertificateHash:
    return CertificateHash(hashlib.sha256(b"certificate %d" % height).digest())


def liars_verify(height: int) -> CertificateHash:
    """A certificate whose lot gives the subject to both liars, as grinding might find."""
    numbers = (hashlib.sha256(b"%d %d" % (height, number)).digest() for number in range(10_000))
    return CertificateHash(
        next(seed for seed in numbers if set(LIARS) <= set(verifiers_of(SUBJECT, EVERYBODY, seed, 3, ())))
    )


@dataclass
class Blocks:
    """A chain that makes a block every BLOCK_S of all that waits."""

    nine: Nine
    certificate: Callable[[int], CertificateHash] = certificate_of
    waiting: list[bytes] = field(default_factory=list[bytes])
    outcomes: list[Outcome] = field(default_factory=list[Outcome])
    chain_bytes: int = 0
    tasks: list[ChallengeTask] = field(default_factory=list[ChallengeTask])

    def submit(self, submission: Submission) -> TransactionId:
        self.waiting.append(submission.transaction)
        return transaction_id(submission.transaction)

    async def run(self) -> None:
        chain = self.nine.chain
        while True:
            await pause(BLOCK_S)
            chain.height = Height(chain.height + 1)
            moment = Moment(
                height=chain.height,
                time_ms=Milliseconds(int(trio.current_time() * 1_000)),
                certificate=self.certificate(chain.height),
            )
            carried, self.waiting = self.waiting, []
            change = apply_transactions(self.nine.context, chain.state, moment, carried)
            chain.state.commit(change.values, change.pages)
            self.outcomes += change.outcomes
            self.chain_bytes += sum(len(transaction) for transaction in carried)
            for task in self.tasks:
                task.on_appended()

    @property
    def epoch(self) -> EpochState:
        return running_epoch(self.nine.chain.state)

    def audit(self, seat: SeatIndex = SUBJECT) -> AuditState:
        state = read_state(self.nine.chain.state, audit_key(seat), AuditState)
        assert state is not None
        return state


@dataclass
class LyingSender:
    """Sends what another says, findings about the subject changed."""

    honest: SeatSender
    lie: Passed | Failed

    def send(self, body: Body) -> TransactionId:
        if isinstance(body, ReportFindings):
            findings = (structs.replace(f, result=self.lie) if f.subject == SUBJECT else f for f in body.findings)
            body = structs.replace(body, findings=tuple[Finding, ...](findings))
        return self.honest.send(body)


@asynccontextmanager
async def verifying(blocks: Blocks, lie: Passed | Failed | None = None) -> AsyncGenerator[None, None]:
    nine = blocks.nine
    async with trio.open_nursery() as nursery:
        for seat in EVERYBODY:
            pool = HolderPool(EVERYBODY, nine.connect, 6)
            pool.exclude(seat)
            nursery.start_soon(pool.run)
            await pool.settle()
            sender = SeatSender(
                signing_key=nine.holders[seat].signing_key,
                genesis_hash=nine.genesis_hash,
                tip_height=lambda: nine.chain.height,
                submit=blocks.submit,
            )
            parts = ChallengeParts(
                seat=seat,
                rules=lambda: nine.context,
                next_height=lambda: Height(nine.chain.height + 1),
                state=nine.chain.state,
                ledger=LedgerOf(nine),
                pool=pool,
                sender=sender if lie is None or seat not in LIARS else LyingSender(sender, lie),
                purged_height=lambda: Height(nine.chain.height - 1),
            )
            blocks.tasks.append(ChallengeTask(parts))
            nursery.start_soon(blocks.tasks[-1].run)
        nursery.start_soon(blocks.run)
        yield
        nursery.cancel_scope.cancel()


@pytest.fixture
def clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(rate=1.0)


@pytest.fixture
async def nine(tmp_path: Path) -> Nine:
    made = Nine(tmp_path, StorageParameters(epoch_ms=int(EPOCH_S * 1_000)))
    async with made.client() as client:
        for number in range(30):
            await client.put("bucket", f"{number}", bytes_source(random.Random(number).randbytes(300_000)))
    return made


async def until_epoch(clock: trio.testing.MockClock, blocks: Blocks, number: int) -> None:
    await until(clock, lambda: blocks.epoch.number >= number, jump_s=1.0)


async def test_nine_that_hold_everything_prove_it_in_every_epoch(nine: Nine, clock: trio.testing.MockClock) -> None:
    blocks = Blocks(nine)
    async with verifying(blocks):
        await until_epoch(clock, blocks, 1)
        begun = blocks.chain_bytes
        await until_epoch(clock, blocks, 4)
    for seat in EVERYBODY:
        audit = blocks.audit(seat)
        assert (audit.failed, audit.suspended, audit.last_failure, audit.score) == (0, 0, None, 1_000)
        assert audit.proved >= 3
        purged = read_state(nine.chain.state, purge_key(seat), PurgeState)
        assert purged is not None
        assert purged.height >= 12, "reported in every epoch"
    assert (blocks.chain_bytes - begun) / 3 / SEATS <= 600
    refused = {outcome.reason for outcome in blocks.outcomes if outcome.reason is not None}
    assert refused <= {FailureReason.EPOCH_OVER, FailureReason.NOTHING_TO_DO}


def lose(nine: Nine, share: float) -> None:
    """The subject keeps its receipts and drops a share of its columns."""
    shards = nine.holders[SUBJECT].shards
    for dropped in random.Random(1).sample(sorted(shards), round(share * len(shards))):
        del shards[dropped]


async def test_a_seat_that_dropped_a_tenth_is_convicted_in_one_epoch(nine: Nine, clock: trio.testing.MockClock) -> None:
    blocks = Blocks(nine)
    async with verifying(blocks):
        await until_epoch(clock, blocks, 1)
        lose(nine, 0.1)
        await until_epoch(clock, blocks, 2)
        before = blocks.audit().failed
        await until_epoch(clock, blocks, 3)
    audit = blocks.audit()
    assert audit.failed == before + 1
    assert audit.last_failure is not None
    assert audit.last_failure.reason is FailureKind.MISSING
    assert len(audit.last_failure.signers) == 3
    assert audit.score < 1_000
    assert {blocks.audit(seat).failed for seat in EVERYBODY if seat != SUBJECT} == {0}


async def test_wrong_bytes_and_silence_are_named_for_what_they_are(nine: Nine, clock: trio.testing.MockClock) -> None:
    blocks = Blocks(nine)
    async with verifying(blocks):
        await until_epoch(clock, blocks, 1)
        nine.holders[SUBJECT].lying = True
        nine.holders[0].kill()
        nine.holders[8].stuck = True
        await until_epoch(clock, blocks, 3)
    reasons = {seat: blocks.audit(SeatIndex(seat)).last_failure for seat in (0, SUBJECT, 8)}
    assert {seat: note and note.reason for seat, note in reasons.items()} == {
        0: FailureKind.UNREACHABLE,
        SUBJECT: FailureKind.WRONG_BYTES,
        8: FailureKind.LATE,
    }
    assert {blocks.audit(seat).failed for seat in EVERYBODY if seat not in reasons} == {0}


async def test_two_colluding_verifiers_cannot_acquit(nine: Nine, clock: trio.testing.MockClock) -> None:
    blocks = Blocks(nine, certificate=liars_verify)
    lose(nine, 0.5)
    async with verifying(blocks, lie=Passed(leaves=94)):
        await until_epoch(clock, blocks, 5)
    assert blocks.audit().proved == 0
    assert blocks.audit().failed >= 1


async def test_two_colluding_verifiers_cannot_convict(nine: Nine, clock: trio.testing.MockClock) -> None:
    blocks = Blocks(nine, certificate=liars_verify)
    segment_id, _ = min(nine.holders[SUBJECT].shards)
    accusation = Failed(
        leaves=94, failures=1, reason=FailureKind.MISSING, leaf=AskedLeaf(segment_id=segment_id, leaf=0)
    )
    async with verifying(blocks, lie=accusation):
        await until_epoch(clock, blocks, 5)
    assert blocks.audit().failed == 0
    assert blocks.audit().proved >= 1
    assert blocks.audit().score == 1_000
    assert [blocks.audit(liar).overruled >= 1 for liar in LIARS] == [True, True]


# --- one challenge -------------------------------------------------------------------------------------------------

PACE = ChallengePace(ask_s=3.0, retry_s=5.0, deadline_s=8.0, leaf_s=1.0)


def questions_of(nine: Nine, seat: SeatIndex) -> list[Question]:
    found: list[Question] = []
    for (segment_id, column), shard in sorted(nine.holders[seat].shards.items()):
        root = root_of(leaf_hashes(shard))
        for leaf in range(-(-len(shard) // LEAF_BYTES)):
            question = Question(segment_id=segment_id, column=column, leaf=leaf, root=root, shard_bytes=len(shard))
            found.append(question)
    return found


@asynccontextmanager
async def linked(nine: Nine) -> AsyncGenerator[HolderPool, None]:
    pool = HolderPool(EVERYBODY, nine.connect, 6)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.run)
        await pool.settle()
        yield pool
        nursery.cancel_scope.cancel()


async def test_what_is_mended_before_the_second_question_is_proven(
    nine: Nine, autojump_clock: trio.testing.MockClock
) -> None:
    questions = questions_of(nine, SUBJECT)
    kept = dict(nine.holders[SUBJECT].shards)
    nine.holders[SUBJECT].shards.clear()

    async def mend() -> None:
        await pause(4.0)
        nine.holders[SUBJECT].shards.update(kept)

    async with linked(nine) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(mend)
        assert await challenge(pool, SUBJECT, questions, PACE, lambda _: True) == Passed(leaves=len(questions))


async def test_what_the_chain_gave_up_meanwhile_is_nobodys_fault(
    nine: Nine, autojump_clock: trio.testing.MockClock
) -> None:
    questions = questions_of(nine, SUBJECT)
    gone = questions[0].segment_id
    nine.holders[SUBJECT].shards = {
        place: shard for place, shard in nine.holders[SUBJECT].shards.items() if place[0] != gone
    }
    async with linked(nine) as pool:
        freed = await challenge(pool, SUBJECT, questions, PACE, lambda question: question.segment_id != gone)
        assert freed == Passed(leaves=len(questions))
        due = await challenge(pool, SUBJECT, questions, PACE, lambda _: True)
        assert isinstance(due, Failed)
        assert (due.reason, due.leaf.segment_id, due.leaf.leaf) == (FailureKind.MISSING, gone, 0)
        assert due.failures == len([question for question in questions if question.segment_id == gone])


async def test_a_hanging_seat_costs_a_verifier_its_deadline_and_no_more(
    nine: Nine, autojump_clock: trio.testing.MockClock
) -> None:
    questions = questions_of(nine, SUBJECT)[:20]
    async with linked(nine) as pool:
        nine.holders[SUBJECT].stuck = True
        began = trio.current_time()
        found = await challenge(pool, SUBJECT, questions, PACE, lambda _: True)
        assert isinstance(found, Failed)
        assert (found.failures, found.reason) == (20, FailureKind.LATE)
        assert trio.current_time() - began == pytest.approx(PACE.deadline_s, abs=0.1)


async def test_nothing_to_ask_is_nothing_failed(nine: Nine, autojump_clock: trio.testing.MockClock) -> None:
    async with linked(nine) as pool:
        assert await challenge(pool, SUBJECT, (), PACE, lambda _: True) == Passed(leaves=0)
