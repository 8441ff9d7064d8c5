"""One verifier's questions to one seat: leaves and their paths, asked evenly over a while, once more where one failed.

The questions look like any reader's, so a holder cannot serve verifiers alone: many leaves together at first, which
costs both sides less than single ones do. A leaf that fails is asked for alone at the end: a link may break, and a leaf
that was just found damaged may be rebuilt. What fails twice is reported, by the reason of the second time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from consensus.errors import RejectionError
from node.client.links import PLACES_PER_READ_MAX, LeafPlace
from node.errors import PeerUnreachableError
from storage.audits import AskedLeaf, Failed, FailureKind, Passed
from storage.errors import ShardCorruptError, ShardMissingError, StorageError
from storage.merkle import check_range

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from node.client.holders import HolderPool
    from node.client.links import HolderLink, LeavesAnswer
    from storage.identifiers import SeatIndex
    from storage.possession import Question

OPEN_MAX: Final = 6
"""Questions of one verifier that wait for one seat; two of the channel's eight are left to repair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengePace:
    """How long a challenge takes, in seconds."""

    ask_s: float
    """Questions are spread over this."""
    retry_s: float
    """From the beginning to the second question for what failed."""
    deadline_s: float
    """From the beginning to the end: what is not proven then, asked or not, is late."""
    leaf_s: float
    """For one answer, so that a lost one holds its place no longer."""


async def challenge(
    pool: HolderPool,
    subject: SeatIndex,
    questions: Sequence[Question],
    pace: ChallengePace,
    is_still_due: Callable[[Question], bool],
) -> Passed | Failed:
    """Ask a seat for leaves and return what was found.

    Args:
        pool: Links to the seats.
        subject: Who is asked.
        questions: In order of their draw's walk; the first that fails is the one reported.
        pace: When to ask.
        is_still_due: Says, of a question that failed, whether the chain still gives the column to the subject (blocks).
    """
    began = trio.current_time()
    failed = dict.fromkeys(questions, FailureKind.LATE)
    with trio.move_on_at(began + pace.retry_s):
        await _ask_together(pool, subject, failed, pace)
    if failed:
        await trio.sleep_until(began + pace.retry_s)
        with trio.move_on_at(began + pace.deadline_s):
            await _ask_one_by_one(pool, subject, failed, pace.leaf_s)
    in_order = [question for question in questions if question in failed]
    due = await trio.to_thread.run_sync(lambda: [question for question in in_order if is_still_due(question)])
    if not due:
        return Passed(leaves=len(questions))
    return Failed(
        leaves=len(questions),
        failures=len(due),
        reason=failed[due[0]],
        leaf=AskedLeaf(segment_id=due[0].segment_id, leaf=due[0].leaf),
    )


async def _ask_together(
    pool: HolderPool, subject: SeatIndex, failed: dict[Question, FailureKind], pace: ChallengePace
) -> None:
    """Ask for many leaves at once, evenly over a time; what is proven leaves `failed`."""
    limit = trio.Semaphore(OPEN_MAX)
    questions = tuple(failed)
    batches = [questions[i : i + PLACES_PER_READ_MAX] for i in range(0, len(questions), PLACES_PER_READ_MAX)]

    async def ask(batch: Sequence[Question]) -> None:
        try:
            for question in await _proven_of(pool, subject, batch, pace.leaf_s):
                del failed[question]
        finally:
            limit.release()

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for place, batch in enumerate(batches):
            await trio.sleep_until(began + pace.ask_s * place / len(batches))
            await limit.acquire()
            nursery.start_soon(ask, batch)


async def _proven_of(pool: HolderPool, subject: SeatIndex, batch: Sequence[Question], leaf_s: float) -> list[Question]:
    """Return those of some questions that one answer proves; why the others fail is asked later."""
    link = pool.link(subject)
    if link is None:
        return []
    places = [LeafPlace(question.segment_id, question.column, question.leaf, 1) for question in batch]
    answers: Sequence[LeavesAnswer | None] = ()
    try:
        with trio.move_on_after(leaf_s):
            answers = await link.read_places(places)
    except PeerUnreachableError as error:
        if pool.link(subject) is link:
            pool.mark_down(subject, str(error))
    except (RejectionError, StorageError):
        return []
    pairs = zip(batch, answers, strict=False)
    return [question for question, answer in pairs if answer is not None and _is_proof(question, answer)]


def _is_proof(question: Question, answer: LeavesAnswer) -> bool:
    try:
        check_range(question.root, answer.leaves, question.leaf, question.shard_bytes, answer.proof)
    except ShardCorruptError:
        return False
    return True


async def _ask_one_by_one(
    pool: HolderPool, subject: SeatIndex, failed: dict[Question, FailureKind], leaf_s: float
) -> None:
    """Ask for each leaf alone; what is proven leaves `failed`, what is not gets its reason."""
    limit = trio.Semaphore(OPEN_MAX)

    async def ask(question: Question) -> None:
        try:
            failure = await _ask(pool, subject, question, leaf_s)
        finally:
            limit.release()
        if failure is None:
            del failed[question]
        else:
            failed[question] = failure

    async with trio.open_nursery() as nursery:
        for question in tuple(failed):
            await limit.acquire()
            nursery.start_soon(ask, question)


async def _ask(pool: HolderPool, subject: SeatIndex, question: Question, leaf_s: float) -> FailureKind | None:
    link = pool.link(subject)
    if link is None:
        return FailureKind.UNREACHABLE
    try:
        with trio.fail_after(leaf_s):
            return await _check(pool, subject, question, link)
    except trio.TooSlowError:
        return FailureKind.LATE
    except PeerUnreachableError as error:
        if pool.link(subject) is link:
            pool.mark_down(subject, str(error))
        return FailureKind.UNREACHABLE
    except ShardMissingError:
        return FailureKind.MISSING
    except ShardCorruptError:
        return FailureKind.DAMAGED
    except (RejectionError, StorageError):
        return FailureKind.REFUSED


async def _check(pool: HolderPool, subject: SeatIndex, question: Question, link: HolderLink) -> FailureKind | None:
    answer = await link.read_leaves(question.segment_id, question.column, question.leaf, 1)
    if not _is_proof(question, answer):
        pool.note_fault(
            subject, f"leaf {question.leaf} of segment {question.segment_id.hex()[:16]} is not under its root"
        )
        return FailureKind.WRONG_BYTES
    return None
