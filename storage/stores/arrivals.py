"""What one store of shards has and the chain has not committed: shards on their way in, and finished ones that wait.

In memory, charged to their tenants; how waiting shards survive a restart is each store's own (units.py,
object_store.py).
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from consensus.errors import RejectionError, RejectionReason
from storage.stores.open_shards import OpenShard, TenantCharges
from storage.stores.protocols import ShardName, UncommittedShard

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from consensus.identifiers import Height
    from storage.identifiers import TenantId
    from storage.segments import SegmentShape


@dataclass(frozen=True, slots=True)
class Waiting:
    """A finished shard that the chain has not been seen to commit."""

    tenant: TenantId
    shape: SegmentShape
    expiry_height: Height


class Arrivals:
    """The uncommitted shards of one store; thread-safe."""

    def __init__(self, uncommitted_bytes_max: int) -> None:
        self.lock = threading.RLock()
        """Guards what is here; held by a store around several calls, and never while a disk is waited for."""
        self._open: dict[ShardName, OpenShard] = {}
        self._waiting: dict[ShardName, Waiting] = {}
        self._charges = TenantCharges(uncommitted_bytes_max)

    def begin(self, name: ShardName, tenant: TenantId, shape: SegmentShape) -> OpenShard:
        """Return the open shard of that name, charged to its tenant when it is new.

        Raises:
            RejectionError: QUEUE_FULL; or NOT_GRANTED or MALFORMED, when it came before as something else.
        """
        with self.lock:
            shard = self._open.get(name)
            if shard is None:
                self._charges.add(tenant, shape)
                shard = self._open[name] = OpenShard(tenant, shape, time.monotonic())
        require_same(shard.tenant, shard.shape, tenant, shape)
        return shard

    def find(self, name: ShardName) -> OpenShard | None:
        """Return a shard that is on its way in."""
        with self.lock:
            return self._open.get(name)

    def find_complete(self, name: ShardName) -> OpenShard | None:
        """Return an open shard that misses no unit."""
        shard = self.find(name)
        return None if shard is None or shard.missing_count else shard

    def every_open(self) -> tuple[tuple[ShardName, OpenShard], ...]:
        """Return all shards on their way in."""
        with self.lock:
            return tuple(self._open.items())

    def untouched_since(self, before_s: float) -> list[ShardName]:
        """Return the open shards that nothing came for since then (monotonic seconds)."""
        return [name for name, shard in self.every_open() if shard.touched_s < before_s]

    def drop_open(self, name: ShardName) -> OpenShard | None:
        """Forget an open shard, give its charge back, and return it."""
        with self.lock:
            shard = self._open.pop(name, None)
            if shard is not None:
                self._charges.remove(shard.tenant, shard.shape)
        return shard

    def wait(self, name: ShardName, waiting: Waiting) -> None:
        """Note that a shard is finished, or waits longer; an open one's charge goes with it."""
        with self.lock:
            self._waiting[name] = waiting
            self._open.pop(name, None)

    def load(self, name: ShardName, waiting: Waiting) -> None:
        """Note a waiting shard found at start; it is here, whatever the limit."""
        with self.lock:
            self._waiting[name] = waiting
            self._charges.add_known(waiting.tenant, waiting.shape)

    def waiting(self, names: Iterable[ShardName]) -> Mapping[ShardName, Waiting]:
        """Return those of the named shards that wait."""
        with self.lock:
            return {name: self._waiting[name] for name in names if name in self._waiting}

    def expired(self, names: Iterable[ShardName], height: Height) -> list[ShardName]:
        """Return those of the named shards that wait and whose expiry height is past."""
        return [name for name, found in self.waiting(names).items() if found.expiry_height < height]

    def forget_waiting(self, name: ShardName) -> None:
        """Note that a shard is committed or deleted, and give its charge back."""
        with self.lock:
            found = self._waiting.pop(name, None)
            if found is not None:
                self._charges.remove(found.tenant, found.shape)

    def uncommitted(self) -> tuple[UncommittedShard, ...]:
        """Return the finished shards that wait."""
        with self.lock:
            return tuple(
                UncommittedShard(name=name, tenant=found.tenant, expiry_height=found.expiry_height)
                for name, found in self._waiting.items()
            )

    def bytes_of(self, tenant: TenantId) -> int:
        """Return what counts against a tenant's limit."""
        with self.lock:
            return self._charges.of(tenant)


def require_same(known_tenant: TenantId, known_shape: SegmentShape, tenant: TenantId, shape: SegmentShape) -> None:
    """Refuse a piece that is of another tenant's or another shape's shard than what is here under its name.

    Raises:
        RejectionError: NOT_GRANTED, MALFORMED.
    """
    if known_tenant != tenant:
        raise RejectionError(RejectionReason.NOT_GRANTED, "this shard is another tenant's")
    if (known_shape.segment_bytes, known_shape.k) != (shape.segment_bytes, shape.k):
        raise RejectionError(RejectionReason.MALFORMED, f"this shard came with {known_shape}, not {shape}")
