"""The ledger's latest state in LevelDB rows, and the state one block earlier for proofs.

    "s" state key     value
    "n" page name     page of the state tree

Only the latest state lies on disk, so that what is deleted is gone. The root of the latest state is certified by the
next header only; proofs are given for the state before the last block, whose root the last header holds. What that
block replaced is kept in memory: after a restart proofs wait for the next block, if the last one changed anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from storage.ledger import StateChange
    from storage.stores.leveldb import WriteBatch
    from storage.stores.protocols import RowStore

VALUE_ROWS: Final = b"s"
PAGE_ROWS: Final = b"n"


@dataclass(frozen=True, slots=True)
class StoredState:
    """The state after the last block."""

    database: RowStore

    def value(self, state_key: bytes) -> bytes | None:
        """Return the value of a state key."""
        return self.database.get(VALUE_ROWS + state_key)

    def page(self, page_name: bytes) -> bytes | None:
        """Return a page of the state tree."""
        return self.database.get(PAGE_ROWS + page_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierState:
    """The state before the last block: the latest one under what that block replaced."""

    latest: StoredState
    values: Mapping[bytes, bytes | None]
    pages: Mapping[bytes, bytes | None]

    def value(self, state_key: bytes) -> bytes | None:
        """Return the value that a state key had."""
        return self.values[state_key] if state_key in self.values else self.latest.value(state_key)

    def page(self, page_name: bytes) -> bytes | None:
        """Return a page as it was."""
        return self.pages[page_name] if page_name in self.pages else self.latest.page(page_name)


def state_before(latest: StoredState, change: StateChange) -> EarlierState:
    """Return the state that a change is about to replace; to be called before it is written."""
    return EarlierState(
        latest=latest,
        values={state_key: latest.value(state_key) for state_key in change.values},
        pages={page_name: latest.page(page_name) for page_name in change.pages},
    )


def stage_change(batch: WriteBatch, change: StateChange) -> None:
    """Add the rows of a change to a write batch."""
    for prefix, rows in ((VALUE_ROWS, change.values), (PAGE_ROWS, change.pages)):
        for row_key, value in rows.items():
            if value is None:
                batch.delete(prefix + row_key)
            else:
                batch.put(prefix + row_key, value)
