"""Who waits for which transaction: each block wakes those alone whose transactions it carries."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from consensus.identifiers import TransactionId


class CarriedWatch:
    """The waiting of one node; as many as its API has connections."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[TransactionId, list[trio.Event]] = {}

    @contextmanager
    def watching(self, wanted: TransactionId) -> Generator[trio.Event]:
        """Give an event that is set when a block carries the transaction: begin before looking whether one has."""
        event = trio.Event()
        self._waiting.setdefault(wanted, []).append(event)
        try:
            yield event
        finally:
            events = self._waiting[wanted]
            events.remove(event)
            if not events:
                del self._waiting[wanted]

    def announce(self, carried: Iterable[TransactionId]) -> None:
        """Wake whoever waits for one of these."""
        for transaction_id in carried:
            for event in self._waiting.get(transaction_id, ()):
                event.set()
