"""The row that says whose turn comes next, written with each block; rebuilt from the last blocks where it is missing.

It holds nothing that the blocks do not say (rule A6): at most `first_needed` of them are read again, a fixed number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from consensus.encoding import decode, encode
from consensus.identifiers import Height
from consensus.turns import TurnState, first_needed, first_turns, next_turns, turn_facts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from consensus.heads import DecidedHead
    from consensus.identifiers import MemberIndex
    from consensus.quorum import FaultBudget
    from storage.stores.leveldb import WriteBatch
    from storage.stores.protocols import RowStore

TURNS_ROW: Final = b"w"
TURNS_BYTES_MAX: Final = 4 * 1024
"""64 members of at most 24 bytes each, and 60 bytes."""


def stage_turns(batch: WriteBatch, turns: TurnState) -> None:
    """Write the row with the block that it follows from."""
    batch.put(TURNS_ROW, encode(turns))


def stored_turns(database: RowStore, height: Height) -> TurnState | None:
    """Return the turns after the block of this height, None if another version wrote the block."""
    encoded = database.get(TURNS_ROW)
    turns = None if encoded is None else decode(encoded, TurnState, bytes_max=TURNS_BYTES_MAX)
    return turns if turns is not None and turns.height == height else None


def rebuilt_turns(
    height: Height,
    budget: FaultBudget,
    block_at: Callable[[Height], DecidedHead],
    guilty: Iterable[tuple[MemberIndex, Height]] = (),
) -> TurnState:
    """Return the turns after the block of this height from the blocks that say anything of them.

    Args:
        height: Of the last block.
        budget: Of the members.
        block_at: Reads a block of the chain.
        guilty: Who is proven guilty, and the height of the block that proves it.
    """
    first = first_needed(Height(height + 1), budget.members)
    turns = first_turns(budget, Height(first - 1), [member for member, proven in guilty if proven < first])
    for below in range(first, height + 1):
        turns = next_turns(turns, turn_facts(block_at(Height(below)).block))
    return turns
