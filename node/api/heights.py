"""Answers that are not older than the asker knows: a question may name a height, and is held until the ledger has it.

x-grandest-at-least: H    no answer before the ledger has height H; 503 "behind" when it has not within BEHIND_S,
so that the asker goes to another node
x-grandest-news-above: H  no answer before the ledger is above height H, HELD_S at most: a question for changes
waits for the next block instead of asking again and again
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from node.api.answers import error_answer
from node.client.chain import AT_LEAST, NEWS_ABOVE

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Receive, Scope, Send

    from consensus.identifiers import Height

BEHIND_S: Final = 0.5
HELD_S: Final = 10.0
DIGITS_MAX: Final = 16


class HeightGate:
    """An ASGI application in front of another one."""

    def __init__(self, application: ASGIApp, height: Callable[[], Height], appended: Callable[[], trio.Event]) -> None:
        """Hold questions for the application.

        Args:
            application: Answers.
            height: Of the ledger, now.
            appended: The event that the next block sets.
        """
        self._application = application
        self._height = height
        self._appended = appended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one question once the ledger is far enough."""
        if scope["type"] == "http":
            at_least, above = _named_height(scope, AT_LEAST), _named_height(scope, NEWS_ABOVE)
            if above is not None:
                await self._reached(above + 1, HELD_S)
            if at_least is not None and not await self._reached(at_least, BEHIND_S):
                answer = error_answer("behind", f"this node has {self._height()} blocks", "ask another node", 503)
                await answer(scope, receive, send)
                return
        await self._application(scope, receive, send)

    async def _reached(self, height: int, seconds: float) -> bool:
        with trio.move_on_after(seconds):
            while self._height() < height:
                await self._appended().wait()
        return self._height() >= height


def _named_height(scope: Scope, name: str) -> int | None:
    """Return the height of a header; what is no number asks for nothing."""
    for known, text in scope["headers"]:
        if known == name.encode() and text.isdigit() and len(text) <= DIGITS_MAX:
            return int(text)
    return None
