"""Tells the chain of columns that this seat stored after their segments were committed.

Columns are gathered for GATHER_SECONDS and reported in one transaction a tenant, signed by the seat's own key, with one
receipt over all of them. Until the ledger shows the column, it is reported again every RETRY_SECONDS: a transaction may
be lost with the node that took it. Reporting twice does no harm.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

import trio

from consensus.errors import GrandestError
from consensus.identifiers import Height
from storage.identifiers import TenantId
from storage.placement import Placement, column_of
from storage.receipts import ReceiptItem, held_bitmap, sign_receipt
from storage.segments import SegmentShape
from storage.transactions import TRANSACTION_VERSION, CompleteColumns, Envelope, sign_transaction

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from consensus.identifiers import GenesisHash
    from consensus.signing import SigningKey
    from node.repair_task import OwnShards, SegmentLedger
    from storage.identifiers import ColumnIndex, SeatIndex, SegmentId
    from storage.state import SegmentState

    Submit = Callable[[bytes], Awaitable[None]]
    """Hands a signed transaction to this node's mempool; raises RejectionError."""

GATHER_SECONDS: Final = 0.25
RETRY_SECONDS: Final = 10.0
COLUMNS_PER_TRANSACTION_MAX: Final = 1_024
REPORTED_MAX: Final = 100_000
EXPIRY_HEIGHTS: Final = 500
"""Half of what genesis allows, so that a member slightly behind accepts it."""


class Tip(Protocol):
    """Where the chain stands."""

    def __call__(self) -> Height:
        """Return the height of the last decided block."""
        ...


class CompletionTask:
    """Reports stored columns until the ledger shows them."""

    def __init__(
        self,
        *,
        seat: SeatIndex,
        admitted: Sequence[SeatIndex] | Placement,
        columns: int,
        ledger: SegmentLedger,
        shards: OwnShards,
        tip_height: Tip,
        signing_key: SigningKey,
        genesis_hash: GenesisHash,
        submit: Submit,
    ) -> None:
        """Report for one seat; signing_key is the seat's."""
        self._seat = seat
        self._admitted = admitted
        self._columns = columns
        self._ledger = ledger
        self._shards = shards
        self._tip_height = tip_height
        self._signing_key = signing_key
        self._genesis_hash = genesis_hash
        self._submit = submit
        self._waiting: dict[SegmentId, None] = {}
        self._wakeup = trio.Event()
        self._last_sequence = 0

    def report(self, segment_id: SegmentId) -> None:
        """Note a column that is stored here and not vouched for on chain."""
        if len(self._waiting) < REPORTED_MAX:
            self._waiting[segment_id] = None
            self._wakeup.set()

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            await self._wakeup.wait()
            await trio.sleep(GATHER_SECONDS)
            self._wakeup = trio.Event()
            await self._report_all()
            if self._waiting:
                with trio.move_on_after(RETRY_SECONDS):
                    await self._wakeup.wait()
                self._wakeup.set()

    async def _report_all(self) -> None:
        """Send one transaction a tenant and batch; what the ledger shows already is forgotten."""
        batches: dict[TenantId, list[tuple[SegmentId, SegmentState, ColumnIndex]]] = {}
        for segment_id in list(self._waiting):
            found = await trio.to_thread.run_sync(self._unreported, segment_id)
            if found is None:
                del self._waiting[segment_id]
                continue
            state, column = found
            batch = batches.setdefault(state.tenant, [])
            if len(batch) < COLUMNS_PER_TRANSACTION_MAX:
                batch.append((segment_id, state, column))
        for tenant, batch in batches.items():
            try:
                await self._submit(self._transaction(tenant, batch))
            except GrandestError:
                continue  # a full mempool, say: tried again after RETRY_SECONDS

    def _unreported(self, segment_id: SegmentId) -> tuple[SegmentState, ColumnIndex] | None:
        state = self._ledger.segment(segment_id)
        if state is None:
            return None
        column = column_of(segment_id, self._seat, state.height, self._admitted)
        if column is None or column in state.columns:
            return None
        # Never vouch for what is not here: the store may have lost it since it was reported.
        return (state, column) if self._shards.has_shard(segment_id, column) else None

    def _transaction(self, tenant: TenantId, batch: Sequence[tuple[SegmentId, SegmentState, ColumnIndex]]) -> bytes:
        expiry_height = Height(self._tip_height() + EXPIRY_HEIGHTS)
        items = tuple(
            ReceiptItem(
                segment_id=segment_id,
                column=column,
                shard_root=state.roots[column],
                shard_bytes=SegmentShape(state.segment_bytes, state.k, self._columns).shard_bytes,
            )
            for segment_id, state, column in batch
        )
        receipt = sign_receipt(
            self._signing_key,
            self._genesis_hash,
            tenant=tenant,
            seat=self._seat,
            held=held_bitmap(range(len(items)), len(items)),
            items=items,
            expiry_height=expiry_height,
        )
        body = CompleteColumns(tenant=tenant, segment_ids=tuple(item.segment_id for item in items), receipts=(receipt,))
        self._last_sequence = max(self._last_sequence + 1, time.time_ns() // 1_000)
        envelope = Envelope(
            transaction_version=TRANSACTION_VERSION,
            sender=self._signing_key.public,
            sequence=self._last_sequence,
            valid_until_height=expiry_height,
            body=body,
        )
        return sign_transaction(envelope, self._signing_key, self._genesis_hash)
