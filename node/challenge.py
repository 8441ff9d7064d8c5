"""One verifier's questions to one seat: leaves and their paths, asked evenly over a while, once more where one failed.

The questions look like any reader's, so a holder cannot serve verifiers alone. A leaf that fails is asked again at the
end: a link may break, and a leaf that was just found damaged may be rebuilt. What fails twice is reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from consensus.errors import RejectionError
from node.errors import PeerUnreachableError
from storage.audits import AskedLeaf, Failed, FailureKind, Passed
from storage.errors import ShardCorruptError, ShardMissingError, StorageError
from storage.merkle import check_range

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from node.client.holders import HolderPool
    from node.client.links import HolderLink
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
        await _ask_all(pool, subject, failed, pace.ask_s, pace.leaf_s)
    if failed:
        await trio.sleep_until(began + pace.retry_s)
        with trio.move_on_at(began + pace.deadline_s):
            await _ask_all(pool, subject, failed, 0.0, pace.leaf_s)
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


async def _ask_all(
    pool: HolderPool, subject: SeatIndex, failed: dict[Question, FailureKind], spread_s: float, leaf_s: float
) -> None:
    """Ask what has failed so far, evenly over a time; what is proven leaves it."""
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

    began, questions = trio.current_time(), tuple(failed)
    async with trio.open_nursery() as nursery:
        for place, question in enumerate(questions):
            await trio.sleep_until(began + spread_s * place / len(questions))
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
    try:
        check_range(question.root, answer.leaves, question.leaf, question.shard_bytes, answer.proof)
    except ShardCorruptError as error:
        pool.note_fault(subject, str(error))
        return FailureKind.WRONG_BYTES
    return None
