"""Looks whether a segment's columns belong together, where repair or another member has reason to doubt it.

Repair doubts when a column decoded from k verified ones is not under its own root; a member's vote on chain is a doubt
for all others. Whoever doubts reads the k lowest receipted columns, recomputes every other one, and compares:

- a column without a receipt, under another root: vouch for the root that was found (r + 1 replace it);
- one with a receipt: read it too, and show the first leaf that differs, with those of the k.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import trio

from consensus.errors import GrandestError
from node.client.chain import segment_view
from storage.broken_codes import ShowBrokenCode, ShownLeaf, VouchRoot, broken_code_key, column_set, lowest_columns
from storage.erasure import reconstruct
from storage.errors import ShardCorruptError, ShardMissingError
from storage.identifiers import LEAF_BYTES, ColumnIndex
from storage.ledger_codes import pending_roots
from storage.merkle import leaf_hashes, prove, root_of
from storage.segments import SegmentShape
from storage.stores.protocols import ShardName

if TYPE_CHECKING:
    from collections.abc import Mapping

    from consensus.identifiers import Buffer, TransactionId
    from node.client.reading import SegmentReader
    from node.repair_task import SegmentLedger
    from storage.identifiers import SeatIndex, SegmentId, ShardRoot
    from storage.state import SegmentState, StateReader
    from storage.stores.protocols import ShardStore
    from storage.transactions import Body

LOGGER = logging.getLogger(__name__)

LOOK_S: Final = 15.0
"""Between looks at the votes on chain, and before what could not be read is tried again."""
DOUBTED_MAX: Final = 1_024


class Sender(Protocol):
    """Who speaks for this seat; seat_sender.py."""

    def send(self, body: Body) -> TransactionId:
        """Have a block carry this, if one will; raises RejectionError when the mempool does not take it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeParts:
    """What is read, compared and told."""

    seat: SeatIndex
    state: StateReader
    ledger: SegmentLedger
    store: ShardStore
    reader: SegmentReader
    sender: Sender


class CodeTask:
    """One seat's doubts about roots."""

    def __init__(self, parts: CodeParts) -> None:
        self._parts = parts
        self._doubted: dict[SegmentId, None] = {}
        self._news = trio.Event()

    def doubt(self, segment_id: SegmentId) -> None:
        """Have a segment looked at: a column decoded from others is not under its root."""
        if len(self._doubted) < DOUBTED_MAX:
            self._doubted[segment_id] = None
            self._news.set()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            for segment_id in await trio.to_thread.run_sync(self._to_look_at):
                try:
                    await self._look_at(segment_id)
                    self._doubted.pop(segment_id, None)
                except GrandestError as error:
                    LOGGER.info("columns of segment %s are compared later: %s", segment_id.hex(), error)
            with trio.move_on_after(LOOK_S):
                await self._news.wait()
            self._news = trio.Event()

    def _to_look_at(self) -> tuple[SegmentId, ...]:
        """Return what is doubted here, and what others vouch for and this seat does not (blocks)."""
        others = [
            pending.segment_id
            for pending in pending_roots(self._parts.state)
            if all(vote.seat != self._parts.seat for vote in pending.votes)
        ]
        return tuple(dict.fromkeys((*self._doubted, *others)))

    async def _look_at(self, segment_id: SegmentId) -> None:
        """Compare a segment's columns with the k lowest; raises GrandestError when they cannot be had now."""
        state = await trio.to_thread.run_sync(self._parts.ledger.segment, segment_id)
        if state is None:
            return
        counted = frozenset(ColumnIndex(column) for column in state.columns)
        lowest = lowest_columns(state, counted)
        if len(lowest) < state.k:
            return  # too few to compare with
        known = {column: await self._column(segment_id, state, column) for column in lowest}
        others = tuple(ColumnIndex(c) for c in range(len(state.roots)) if ColumnIndex(c) not in known)
        found = await trio.to_thread.run_sync(reconstruct, known, others, state.k, len(state.roots))
        for column, shard in found.items():
            root = await trio.to_thread.run_sync(_root, shard)
            if root == state.roots[column]:
                continue
            if column in counted:
                await self._show(segment_id, state, known, column)
            else:
                LOGGER.warning(
                    "column %d of segment %s was committed with a root that is none", column, segment_id.hex()
                )
                vouched = VouchRoot(segment_id=segment_id, column=column, root=root, from_columns=column_set(lowest))
                self._parts.sender.send(vouched)

    async def _show(
        self, segment_id: SegmentId, state: SegmentState, known: Mapping[ColumnIndex, Buffer], column: ColumnIndex
    ) -> None:
        """Tell the chain of a receipted column that the k others contradict, once."""
        if self._parts.state.value(broken_code_key(segment_id)) is not None:
            return
        columns = {**known, column: await self._column(segment_id, state, column)}
        body = await trio.to_thread.run_sync(_shown, segment_id, state, columns)
        if body is not None:
            LOGGER.warning("the roots of segment %s are no codeword", segment_id.hex())
            self._parts.sender.send(body)

    async def _column(self, segment_id: SegmentId, state: SegmentState, column: ColumnIndex) -> Buffer:
        """Return a whole column that is under its root: our own from the store, another's from its holder."""
        leaves = SegmentShape(state.segment_bytes, state.k, len(state.roots)).leaves
        own = await trio.to_thread.run_sync(self._own_column, ShardName(segment_id, column), state, leaves)
        if own is not None:
            return own
        found = await self._parts.reader.fetch_column(segment_view(segment_id, state), column, range(leaves))
        if found is None:
            raise ShardMissingError(f"column {column} of {segment_id.hex()[:16]} cannot be had now")
        return found

    def _own_column(self, name: ShardName, state: SegmentState, leaves: int) -> bytes | None:
        """Return our own committed column, None when another seat has it or ours is not whole (blocks)."""
        stored = self._parts.store.describe(name)
        if stored is None or not stored.is_committed_as(state):
            return None
        try:
            return b"".join(self._parts.store.read_leaves(name, 0, leaves))
        except (ShardMissingError, ShardCorruptError):
            return None


def _root(shard: bytearray) -> ShardRoot:
    return root_of(leaf_hashes(shard))


def _shown(segment_id: SegmentId, state: SegmentState, columns: Mapping[ColumnIndex, Buffer]) -> ShowBrokenCode | None:
    """Return the first position at which k + 1 columns contradict each other; None when they agree everywhere."""
    *sources, target = sorted(columns)
    given = {column: columns[column] for column in sources}
    restored = reconstruct(given, (target,), state.k, len(state.roots))[target]
    there, expected = memoryview(columns[target]), memoryview(restored)
    for start in range(0, len(there), LEAF_BYTES):
        if there[start : start + LEAF_BYTES] != expected[start : start + LEAF_BYTES]:
            position = start // LEAF_BYTES
            shown = tuple(
                ShownLeaf(
                    column=column,
                    leaf=bytes(memoryview(columns[column])[start : start + LEAF_BYTES]),
                    path=prove(leaf_hashes(columns[column]), position, 1),
                )
                for column in sorted(columns)
            )
            return ShowBrokenCode(segment_id=segment_id, position=position, leaves=shown)
    return None
