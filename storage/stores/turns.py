"""The row that says whose turn comes next, written with each block; rebuilt from the last blocks where it is missing.

It holds nothing that the blocks do not say (rule A6): at most `first_needed` of them are read again, a fixed number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from consensus.encoding import decode, encode
from consensus.identifiers import Height
from consensus.turns import TurnState, first_needed, first_turns, next_turns, turn_facts
from storage.errors import StorageError
from storage.faults import read_fault
from storage.ledger import context_at
from storage.state import FAULT_PREFIX
from storage.stores.heads import read_head
from storage.stores.state import VALUE_ROWS, StoredState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from consensus.heads import DecidedHead
    from consensus.members import MemberSet
    from storage.faults import Fault
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
    members: MemberSet,
    block_at: Callable[[Height], DecidedHead],
    faults: Iterable[Fault] = (),
) -> TurnState:
    """Return the turns after the block of this height from the blocks that say anything of them.

    Args:
        height: Of the last block.
        members: Of the next height.
        block_at: Reads a block of the chain.
        faults: All that are on chain.
    """
    first = first_needed(Height(height + 1), members)
    guilty = [
        fault.member for fault in faults if fault.proven_at < first and members.is_occupant(fault.member, fault.height)
    ]
    turns = first_turns(members, Height(first - 1), guilty)
    for below in range(first, height + 1):
        turns = next_turns(turns, turn_facts(block_at(Height(below)).block, members))
    return turns


def turns_at(database: RowStore, height: Height) -> TurnState:
    """Return the turns after the block of this height, which is the chain's last.

    Raises:
        StorageError: A block that says something of them is missing.
    """
    turns = stored_turns(database, height)
    if turns is not None:
        return turns

    def block_at(below: Height) -> DecidedHead:
        head = read_head(database, below)
        if head is None:
            raise StorageError(f"{database.directory}: block {below} is missing; move it away and start again")
        return head

    rows = database.iterate(VALUE_ROWS + FAULT_PREFIX)
    faults = [read_fault(row_key[1:], encoded) for row_key, encoded in rows]
    members = context_at(StoredState(database), height).members
    return rebuilt_turns(height, members, block_at, faults)
