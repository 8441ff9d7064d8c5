"""The bulk side of a node: its shards, who may reach them, and the tasks that keep them whole.

Nothing here blocks the agreement: requests run in worker threads of their own, on a port of their own.
"""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from consensus.errors import RejectionError
from consensus.identifiers import Height
from node.challenge_task import ChallengeParts, ChallengeTask
from node.client.holders import HolderPool
from node.client.reading import PATIENT_SECONDS, SegmentReader
from node.client.shard_links import dialler
from node.clock import now_ms
from node.code_task import CodeParts, CodeTask
from node.compaction_task import Compaction
from node.completion_task import CompletionTask
from node.holder import Holder, HolderIdentity
from node.keys import read_object_store_keys
from node.network.certificates import key_of_certificate
from node.network.shard_channel import MemberReads, ShardServer
from node.own_shards import OwnColumns
from node.purge_task import PurgeTask
from node.read_book import ReadBook
from node.recode_task import RecodeParts, RecodeTask
from node.repair_task import RepairTask
from node.scrub_task import ScrubParts, ScrubTask
from node.seat_sender import SeatSender
from node.submission import Submission
from node.vouching import Vouching
from storage.identifiers import COLUMNS_MAX, SeatIndex
from storage.state import freed_key
from storage.stores.leveldb import LevelOptions
from storage.stores.units import LevelShardStore
from storage.tenants import has_granted

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.identifiers import PublicKey, TransactionId
    from node.config import NodeConfig
    from node.node_chain import Appended
    from node.seating import Seating
    from storage.identifiers import RecordAddress, SegmentId, TenantId
    from storage.state import SegmentState
    from storage.stores.blocks import ChainStore
    from storage.stores.protocols import ShardName, ShardStore
    from storage.stores.records import RecordStore

LOGGER = logging.getLogger(__name__)

ACCEPT_CHECK_S: Final = 1.0
"""Grants change with blocks; the accepted certificates follow at most this much later."""


@dataclass(slots=True, kw_only=True)
class HolderView:
    """Implements HolderChain on the ledger after the last block."""

    store: ChainStore
    members: frozenset[PublicKey]
    _grants: tuple[Height, dict[tuple[TenantId, PublicKey], bool]] = field(default_factory=lambda: (Height(0), {}))
    """Of one height, since each read and write asks; replaced whole, as several threads ask."""

    def height(self) -> Height:
        """Return the height of this node's ledger."""
        return self.store.tip.height

    def is_member(self, peer: PublicKey) -> bool:
        """Tell whether a network key is a seat's."""
        return peer in self.members

    def is_granted(self, peer: PublicKey, tenant: TenantId) -> bool:
        """Tell whether a key acts for a tenant."""
        height = self.store.tip.height
        if self._grants[0] != height:
            self._grants = (height, {})
        _, known = self._grants
        if (tenant, peer) not in known:
            known[tenant, peer] = has_granted(self.store, tenant, peer)
        return known[tenant, peer]

    def segment(self, segment_id: SegmentId) -> SegmentState | None:
        """Return a live segment."""
        return self.store.segment(segment_id)

    def is_freed(self, segment_id: SegmentId) -> bool:
        """Tell whether a segment was live once and is no more."""
        return self.store.value(freed_key(segment_id)) is not None

    def record_tenant(self, address: RecordAddress) -> TenantId | None:
        """Return whose entries refer to a record, None when none does."""
        found = self.store.references(address)
        return None if found is None else found.tenant


def open_shards(config: NodeConfig) -> ShardStore:
    """Open HOME/units and HOME/index, or the bucket of the operator's own cluster; blocks.

    Raises:
        StorageError: In use, damaged, another seat's, or it does not answer.
        ConfigurationError: The cluster's keys are not there.
    """
    uncommitted_bytes_max = config.storage_genesis.parameters.uncommitted_bytes_max
    if config.object_store is None:
        options = LevelOptions(reserve_bytes=config.reserve_bytes)
        return LevelShardStore(config.home, options=options, uncommitted_bytes_max=uncommitted_bytes_max)
    from storage.stores.object_bucket import BucketPlace, open_bucket  # noqa: PLC0415 (a client few nodes need)
    from storage.stores.object_store import ObjectShardStore  # noqa: PLC0415 (the same)

    settings = config.object_store
    access_key_id, secret_access_key = read_object_store_keys(config.home / "keys" / "object-store")
    place = BucketPlace(
        endpoint=settings.endpoint,
        bucket=settings.bucket,
        prefix=settings.prefix,
        region=settings.region,
        access_key_id=access_key_id,
        secret_access_key=secret_access_key,
    )
    owner = config.genesis_hash + bytes((config.seat,))
    return ObjectShardStore(open_bucket(place), owner, uncommitted_bytes_max=uncommitted_bytes_max)


class DataPlane:
    """Holder, its server, and the tasks around them; run() starts them."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        seating: Seating,
        chain: ChainStore,
        records: RecordStore,
        shards: ShardStore,
        submit: Callable[[Submission], TransactionId],
        erased_height: Callable[[], Height | None],
        precommitted: Callable[[], Height],
    ) -> None:
        self._config = config
        self._seating = seating
        self._chain = chain
        self._shards = shards
        self._records = records
        self._submit = submit
        self._erased_height = erased_height
        self._seats = seating.numbers
        self._columns = min(len(seating.seats), COLUMNS_MAX)
        self._own = OwnColumns(shards, chain, self._columns)
        view = HolderView(store=chain, members=frozenset(seat.network_key for seat in seating.seats.values()))
        identity = HolderIdentity(
            seat=SeatIndex(config.seat),
            seats=seating.placement,
            signing_key=config.keys.signing,
            genesis_hash=config.genesis_hash,
            network_key=config.keys.network.public,
            receipt_heights=seating.parameters.receipt_heights,
        )
        self.holder = Holder(
            identity=identity,
            shards=shards,
            records=records,
            chain=view,
            on_corrupt=self._on_corrupt,
            precommitted=precommitted,
        )
        self.reads = ReadBook(config.home, config.genesis_hash, now_ms, seating.parameters.epoch_ms)
        self.holder.keep_read = self.reads.keep
        self.server = ShardServer(config.keys.network, self.holder)
        self.purge = PurgeTask(self._own)
        self.completion = CompletionTask(
            seat=SeatIndex(config.seat),
            admitted=self._seating.placement,
            columns=self._columns,
            ledger=chain,
            shards=self._own,
            tip_height=view.height,
            signing_key=config.keys.signing,
            genesis_hash=config.genesis_hash,
            submit=self._submit_own,
        )
        self.repair: RepairTask | None = None
        self.challenge: ChallengeTask | None = None
        self._compaction = Compaction((shards, records), self._deleted_height)
        self._accepted: frozenset[bytes] = frozenset()

    def on_appended(self, appended: Appended) -> None:
        """Learn what a block committed and freed."""
        self.purge.announce(appended.height, appended.committed_segments, appended.freed_segments)
        if self.challenge is not None:
            self.challenge.on_appended()
        if self.repair is not None and appended.committed_segments:
            self.repair.announce(appended.committed_segments)

    def bytes_held(self) -> int:
        """Return the shard bytes on this node (blocks)."""
        return self._shards.bytes_held()

    async def listen(self) -> None:
        """Take the shard port; raises ConfigurationError."""
        await self._accept()
        await self.server.listen(self._config.listen_host, self._config.shard_port)

    async def run(self) -> None:
        """Serve, repair, complete, scrub, purge and compact until cancelled."""
        with closing(self.reads):
            await self._run_tasks()

    async def _run_tasks(self) -> None:
        async with trio.open_nursery() as nursery:
            live_min = self._seating.members.budget.quorum - 1
            seats = {SeatIndex(member): seat for member, seat in self._seating.seats.items()}
            reads = MemberReads(self._config.genesis_hash, now_ms)
            pool = HolderPool(self._seats, dialler(seats, self._config.keys.network, nursery, reads), live_min)
            if self._config.seat in self._seating.seats:
                pool.exclude(SeatIndex(self._config.seat))
            sender = SeatSender(
                signing_key=self._config.keys.signing,
                genesis_hash=self._config.genesis_hash,
                tip_height=lambda: self._chain.tip.height,
                submit=self._submit,
            )
            reader = SegmentReader(pool, self._seating.placement, self._columns)
            codes = CodeTask(
                CodeParts(
                    seat=SeatIndex(self._config.seat),
                    state=self._chain,
                    ledger=self._chain,
                    store=self._shards,
                    reader=reader,
                    sender=sender,
                )
            )
            self.repair = RepairTask(
                seat=SeatIndex(self._config.seat),
                admitted=self._seating.placement,
                columns=self._columns,
                ledger=self._chain,
                shards=self._own,
                reader=SegmentReader(pool, self._seating.placement, self._columns, PATIENT_SECONDS),
                completion=self.completion,
                on_mismatch=codes.doubt,
                asked=lambda: self.holder.client_questions,
            )
            scrub = self._scrub(self.repair)
            self.challenge = self._challenges(pool, sender)
            recode = self._recoding(pool, sender)
            self.holder.vouch = recode.vouch
            nursery.start_soon(recode.run)
            nursery.start_soon(self.server.serve)
            nursery.start_soon(self._follow_grants)
            nursery.start_soon(pool.run)
            nursery.start_soon(self.repair.run)
            nursery.start_soon(self.completion.run)
            nursery.start_soon(self.purge.run)
            nursery.start_soon(scrub.run)
            nursery.start_soon(self._compaction.run)
            nursery.start_soon(self.challenge.run)
            nursery.start_soon(codes.run)

    def _scrub(self, repair: RepairTask) -> ScrubTask:
        """Return what rereads this seat's shards."""
        return ScrubTask(
            ScrubParts(
                seat=SeatIndex(self._config.seat),
                admitted=self._seating.placement,
                ledger=self._chain,
                store=self._shards,
                own=self._own,
                announce=repair.announce,
                home=self._config.home,
                now_ms=now_ms,
            )
        )

    def _challenges(self, pool: HolderPool, sender: SeatSender) -> ChallengeTask:
        """Return this seat's part in every epoch."""
        return ChallengeTask(
            ChallengeParts(
                seat=SeatIndex(self._config.seat),
                rules=lambda: self._chain.context,
                next_height=lambda: Height(self._chain.tip.height + 1),
                state=self._chain,
                ledger=self._chain,
                pool=pool,
                sender=sender,
                purged_height=lambda: self._compaction.purged_height,
            )
        )

    def _recoding(self, pool: HolderPool, sender: SeatSender) -> RecodeTask:
        """Return what moves bytes to new segments."""
        vouching = Vouching(
            seat=SeatIndex(self._config.seat),
            signing_key=self._config.keys.signing,
            genesis_hash=self._config.genesis_hash,
            ledger=self._chain,
            reader=SegmentReader(pool, self._seating.placement, self._columns),
            coding=lambda: self._chain.context.coding,
        )
        return RecodeTask(
            RecodeParts(
                seat=SeatIndex(self._config.seat),
                ledger=self._chain,
                segments=self._chain,
                pool=pool,
                vouching=vouching,
                context=lambda: self._chain.context,
                height=lambda: self._chain.tip.height,
                own_column=self.holder.keep_own,
                sender=sender,
                now_ms=now_ms,
            )
        )

    def _deleted_height(self) -> Height | None:
        """Return up to which block the rows of all that it erased or freed are deleted."""
        freed, erased = self.purge.done_height, self._erased_height()
        return None if freed is None or erased is None else min(freed, erased)

    async def _submit_own(self, transaction: bytes) -> None:
        self._submit(Submission(transaction=transaction, records=()))

    def _on_corrupt(self, name: ShardName) -> None:
        LOGGER.warning("column %d of segment %s is damaged here: rebuilding it", name.column, name.segment_id.hex())
        self._own.note_damaged(name.segment_id, name.column)
        if self.repair is not None:
            self.repair.announce([name.segment_id])

    async def _follow_grants(self) -> None:
        height = self._chain.tip.height
        while True:
            await trio.sleep(ACCEPT_CHECK_S)
            if self._chain.tip.height != height:
                height = self._chain.tip.height
                await self._accept()

    async def _accept(self) -> None:
        """Accept the members' certificates and those of granted clients."""
        certificates = await trio.to_thread.run_sync(self._certificates)
        if certificates != self._accepted:
            self._accepted = certificates
            self.server.accept_only(certificates)

    def _certificates(self) -> frozenset[bytes]:
        """Return what may connect; a grant may carry bytes that are no certificate, and harms nobody else by it."""
        certificates = (seat.certificate for seat in self._seating.seats.values())
        found = {certificate for certificate in certificates if _is_certificate(certificate)}
        for tenant, _ in self._chain.tenants():
            found |= {
                grant.certificate for _, grant in self._chain.grants(tenant) if _is_certificate(grant.certificate)
            }
        return frozenset(found)


def _is_certificate(certificate: bytes) -> bool:
    try:
        key_of_certificate(certificate)
    except RejectionError:
        return False
    return True
