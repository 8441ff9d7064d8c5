"""Questions that many tasks ask one by one, asked together: whoever comes while an answer is under way shares the next.

A lone question leaves at once; under load the answers in flight gather what comes meanwhile. The same question asked
twice while it waits is asked once; one that is in flight already is asked again, so that no answer is older than its
question.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

from consensus.errors import GrandestError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Sequence

QuestionT = TypeVar("QuestionT", bound="Hashable")
AnswerT = TypeVar("AnswerT")


@dataclass(slots=True)
class _Waiting(Generic[AnswerT]):
    """One question, and all who wait for its answer."""

    finished: trio.Event = field(default_factory=trio.Event)
    answers: list[AnswerT] = field(default_factory=list[AnswerT])
    error: GrandestError | None = None


class Gathering(Generic[QuestionT, AnswerT]):
    """Gathers questions of one kind; run() asks them."""

    def __init__(
        self,
        ask_all: Callable[[Sequence[QuestionT]], Awaitable[Sequence[AnswerT]]],
        *,
        together_max: int,
        in_flight_max: int,
    ) -> None:
        """Ask with `ask_all`, which answers in the order asked, so many together, so many times at once."""
        self._ask_all = ask_all
        self._together_max = together_max
        self._in_flight = trio.Semaphore(in_flight_max)
        self._waiting: dict[QuestionT, _Waiting[AnswerT]] = {}
        self._news = trio.Event()

    async def ask(self, question: QuestionT) -> AnswerT:
        """Return the answer, or raise what the asking raised; the caller's number bounds the queue."""
        waiting = self._waiting.get(question)
        if waiting is None:
            waiting = self._waiting[question] = _Waiting()
            self._news.set()
        await waiting.finished.wait()
        if waiting.error is not None:
            raise waiting.error
        return waiting.answers[0]

    async def run(self) -> None:
        """Ask until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._in_flight.acquire()
                while not self._waiting:
                    self._news = trio.Event()
                    await self._news.wait()
                questions = list(self._waiting)[: self._together_max]
                nursery.start_soon(self._ask, {question: self._waiting.pop(question) for question in questions})

    async def _ask(self, gathered: dict[QuestionT, _Waiting[AnswerT]]) -> None:
        try:
            found = await self._ask_all(list(gathered))
        except GrandestError as error:
            for waiting in gathered.values():
                waiting.error = error
        else:
            for waiting, answer in zip(gathered.values(), found, strict=True):
                waiting.answers.append(answer)
        finally:
            self._in_flight.release()
            for waiting in gathered.values():
                waiting.finished.set()
