"""A few equal shards, and a ledger that knows their segments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from consensus.identifiers import Height
from storage.identifiers import ColumnIndex, SegmentId, TenantId
from storage.merkle import leaf_hashes, root_of
from storage.segments import SegmentShape
from storage.state import SegmentState
from storage.stores.protocols import ShardName, ShardStore

SHAPE = SegmentShape(5_000, 6)
SHARD = bytes(position % 251 for position in range(SHAPE.shard_bytes))
ROOT = root_of(leaf_hashes(SHARD))
TENANT = TenantId(b"t" * 16)
COLUMNS = 9


def segment(number: int) -> SegmentId:
    return SegmentId(number.to_bytes(32, "big"))


def name(number: int, column: int = 2) -> ShardName:
    return ShardName(segment(number), ColumnIndex(column))


STATE = SegmentState(
    tenant=TENANT,
    k=SHAPE.k,
    segment_bytes=SHAPE.segment_bytes,
    roots=(ROOT,) * COLUMNS,
    columns=(),
    references=1,
    height=Height(1),
    vouched_at=Height(1),
)


@dataclass
class Ledger:
    """Implements SegmentLedger on a set of live segments."""

    live: set[SegmentId] = field(default_factory=set[SegmentId])
    state: SegmentState = STATE
    on_question: Callable[[SegmentId], None] = lambda _: None

    def segment(self, segment_id: SegmentId) -> SegmentState | None:
        self.on_question(segment_id)
        return self.state if segment_id in self.live else None

    def segments(self, *, after: SegmentId | None = None, limit: int = 512) -> Sequence[tuple[SegmentId, SegmentState]]:
        return [(known, self.state) for known in sorted(self.live) if known > (after or b"")][:limit]


def keep(store: ShardStore, *names: ShardName, expiry: int = 10, tenant: TenantId = TENANT) -> None:
    for kept in names:
        store.put_units(kept, tenant, SHAPE, 0, SHARD)
    store.finish(names, Height(expiry))
