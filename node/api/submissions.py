"""Where transactions are posted, one or many at once, and where anybody asks what became of one."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import trio

from consensus.errors import GrandestError
from consensus.identifiers import TransactionId
from node.api.answers import (
    PostedAnswer,
    PostedManyAnswer,
    SubmitAnswer,
    json_answer,
    refusal_of,
    transaction_answer,
)
from node.api.questions import HASH_BYTES, MissingError, read_body, read_hex, wait_seconds
from node.blocking import BriefWork
from node.submission import decode_submission, decode_submissions
from storage.transactions import transaction_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from node.admission import Admission
    from node.blocking import RunBlocking
    from node.carried import CarriedWatch
    from node.mempool import Mempool, Pending
    from node.submission import Submission
    from storage.outcomes import TransactionPlace
    from storage.stores.blocks import ChainStore

SMALL_BYTES: Final = 4 * 1024
"""Submissions whose check takes about as long as the way into a thread and back."""


class SubmissionViews:
    """The door for transactions."""

    def __init__(self, *, store: ChainStore, carried: CarriedWatch, admission: Admission, mempool: Mempool) -> None:
        self._store = store
        self._carried = carried
        self._admission = admission
        self._mempool = mempool
        self._check_brief = BriefWork(trio.to_thread.run_sync)
        self._look_up = BriefWork(trio.to_thread.run_sync)
        """For rows that this node has just written."""

    async def submit(self, request: Request) -> Response:
        """Take one transaction; answer with its outcome if a block carries it in time."""
        wait_s = wait_seconds(request.query_params.get("wait_s", "0"))
        body = await read_body(request)
        pending = await self._runner(body)(lambda: self._admission.check(decode_submission(body)))
        admitted = self._admission.post(pending)
        place = (await self._carried_places((admitted,), wait_s))[0]
        if place is None:
            return json_answer(SubmitAnswer(transaction_id=admitted.hex()), 202)
        return json_answer(transaction_answer(place))

    async def submit_many(self, request: Request) -> Response:
        """Take each transaction by itself; answer once blocks carry all that were taken, or the time is over."""
        wait_s = wait_seconds(request.query_params.get("wait_s", "0"))
        body = await read_body(request)
        submissions, checked = await self._runner(body)(self._check_each, body)
        refused = [self._post(one) if not isinstance(one, GrandestError) else one for one in checked]
        names = [transaction_id(submission.transaction) for submission in submissions]
        waited_for = [name for name, error in zip(names, refused, strict=True) if error is None]
        found = dict(zip(waited_for, await self._carried_places(waited_for, wait_s), strict=True))
        return json_answer(
            PostedManyAnswer(
                posted=[_posted(name, found.get(name), error) for name, error in zip(names, refused, strict=True)]
            )
        )

    async def transaction(self, request: Request) -> Response:
        """Answer where a transaction stands, once it does."""
        wanted = TransactionId(read_hex(request.path_params["transaction_id"], HASH_BYTES, "transaction id"))
        wait_s = wait_seconds(request.query_params.get("wait_s", "0"))
        place = await self._place(wanted, wait_s)
        if place is None:
            state = "waits for a block" if self._mempool.get(wanted) else "is not known here"
            raise MissingError(f"transaction {wanted.hex()} {state}")
        return json_answer(transaction_answer(place))

    def _runner(self, body: bytes) -> RunBlocking:
        return self._check_brief if len(body) <= SMALL_BYTES else trio.to_thread.run_sync

    def _check_each(self, body: bytes) -> tuple[Sequence[Submission], list[Pending | GrandestError]]:
        submissions = decode_submissions(body).submissions
        checked: list[Pending | GrandestError] = []
        for submission in submissions:
            try:
                checked.append(self._admission.check(submission))
            except GrandestError as error:
                checked.append(error)
        return submissions, checked

    def _post(self, pending: Pending) -> GrandestError | None:
        try:
            self._admission.post(pending)
        except GrandestError as error:
            return error
        return None

    async def _carried_places(self, posted: Sequence[TransactionId], wait_s: float) -> list[TransactionPlace | None]:
        """Return where transactions of this very turn of the loop stand, once blocks carry all; None for the others."""
        with ExitStack() as watching:
            events = [watching.enter_context(self._carried.watching(name)) for name in posted]
            with trio.move_on_after(wait_s):
                for event in events:
                    await event.wait()
            if not any(event.is_set() for event in events):
                return [None] * len(posted)
            return await self._look_up(lambda: [self._store.transaction(name) for name in posted])

    async def _place(self, wanted: TransactionId, wait_s: float) -> TransactionPlace | None:
        """Return where a transaction stands, once it does; None when it does not in time."""
        with self._carried.watching(wanted) as carried:
            place = await trio.to_thread.run_sync(self._store.transaction, wanted)
            if place is None and wait_s > 0:
                with trio.move_on_after(wait_s):
                    await carried.wait()
                place = await trio.to_thread.run_sync(self._store.transaction, wanted)
        return place


def _posted(name: TransactionId, place: TransactionPlace | None, refused: GrandestError | None) -> PostedAnswer:
    return PostedAnswer(
        transaction_id=name.hex(),
        carried=None if place is None else transaction_answer(place),
        refused=None if refused is None else refusal_of(refused)[0],
    )
