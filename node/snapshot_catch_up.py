"""Far behind: fetch a snapshot from several members at once, then start again from it.

Rules
- P10. Who is more than half a snapshot interval behind a member's newest snapshot fetches it: block by block would
  take longer. Blocks are caught up with meanwhile, and afterwards from the snapshot on.
- P11. A snapshot counts if a quorum signed the block after it, whose header holds its state root: a quorum of those to
  whom the proofs of all changes of members lead, which come with it. Members that offer the same one are asked side by
  side for heads and pieces. Each answer is verified by itself (storage/snapshots.py, consensus/heads.py): who gives a
  wrong one is refused and not asked again, and its question goes to another.
- P12. What was fetched is on disk; after a restart only the rest is asked for. Installing waits until nothing of the
  chain is open (storage/stores/installing.py).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import trio

from consensus.blocks import DecidedBlock, header_hash
from consensus.encoding import decode
from consensus.errors import RejectionError, RejectionReason
from consensus.heads import check_heads, head_of
from consensus.identifiers import Height
from consensus.messages import (
    MESSAGE_BYTES_MAX,
    BlocksRequest,
    BlocksResponse,
    SnapshotRequest,
    SnapshotResponse,
)
from node.catch_up_task import ask
from node.errors import PeerUnreachableError, SnapshotReadyError
from node.snapshot_parts import SnapshotParts
from storage.member_proofs import decode_change_proof, proven_schedule
from storage.snapshots import decode_manifest, manifest_root
from storage.stores.snapshots import SnapshotGoal

if TYPE_CHECKING:
    from consensus.genesis import Genesis
    from consensus.heads import DecidedHead
    from consensus.identifiers import MemberIndex
    from consensus.schedule import MemberSchedule
    from node.catch_up_task import Asker, CatchingUp
    from node.snapshot_parts import Part
    from storage.snapshots import SnapshotManifest
    from storage.stores.snapshots import IncomingSnapshot

LOGGER = logging.getLogger(__name__)

LOOK_S: Final = 1.0
"""How often a node looks whether it is far behind."""
PATIENCE_S: Final = 30.0
"""Before anybody is asked again, after a fetch that led nowhere."""
PROVIDERS_MAX: Final = 4
"""Asked side by side: more would only share the same disk and line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A snapshot that some members have, found true."""

    manifest: SnapshotManifest
    certifying: DecidedHead
    member_changes: tuple[bytes, ...]
    schedule: MemberSchedule
    providers: tuple[MemberIndex, ...] = ()


class SnapshotCatchUp:
    """Fetches a snapshot when this node is far behind."""

    def __init__(
        self,
        *,
        consensus: CatchingUp,
        asker: Asker,
        incoming: IncomingSnapshot,
        genesis: Genesis,
        interval: int,
    ) -> None:
        """Look after one node.

        Args:
            consensus: Whose chain may be behind.
            asker: Requests to members.
            incoming: Where a snapshot is gathered.
            genesis: From which the members of every height follow.
            interval: Heights between two snapshots of this chain.
        """
        self._consensus = consensus
        self._asker = asker
        self._incoming = incoming
        self._genesis = genesis
        self._lag = max(1, interval // 2)

    async def run(self) -> None:
        """Look until far behind, then fetch; raises SnapshotReadyError when a snapshot is to be installed."""
        while True:
            await self._consensus.pause(LOOK_S)
            ahead = self._far_ahead()
            if not ahead:
                continue
            offer = await self._best_offer(ahead)
            if offer is not None and await self._fetch(offer):
                await trio.to_thread.run_sync(self._incoming.finish)
                raise SnapshotReadyError(f"a snapshot of height {offer.manifest.height} is to be installed")
            await self._consensus.pause(PATIENCE_S)

    def _far_ahead(self) -> tuple[MemberIndex, ...]:
        peers, height = self._consensus.peers, self._consensus.height
        ahead = peers.ahead_of(height, self._consensus.now())
        return tuple(member for member in ahead if (peers.height_of(member) or 0) - height > self._lag)

    async def _best_offer(self, ahead: tuple[MemberIndex, ...]) -> Offer | None:
        """Ask all who are far ahead; return the newest true offer that is worth its while."""
        found: dict[MemberIndex, Offer] = {}

        async def ask_one(member: MemberIndex) -> None:
            offered = await self._offer_of(member)
            if offered is not None:
                found[member] = offered

        async with trio.open_nursery() as nursery:
            for member in ahead:
                nursery.start_soon(ask_one, member)
        newest = max((offer.manifest.height for offer in found.values()), default=Height(0))
        if newest <= self._consensus.height + self._lag:
            return None
        same = [member for member, offer in found.items() if offer.manifest.height == newest]
        return replace(found[same[0]], providers=tuple(same[:PROVIDERS_MAX]))

    async def _offer_of(self, member: MemberIndex) -> Offer | None:
        try:
            response = await ask(self._asker, member, SnapshotRequest())
        except (RejectionError, PeerUnreachableError) as error:
            LOGGER.info("member %d gives no snapshot: %s", member, error)
            return None
        try:
            return await trio.to_thread.run_sync(self._checked_offer, response)
        except RejectionError as error:
            self._asker.refuse(member, error)
            return None

    def _checked_offer(self, response: object) -> Offer:
        """Return the offer if a quorum signed the root that the manifest leads to (P11)."""
        if not isinstance(response, SnapshotResponse):
            raise RejectionError(RejectionReason.MALFORMED, "answered something else")
        manifest, certifying = decode_manifest(response.manifest), response.certifying
        header = certifying.block.header
        proofs = [decode_change_proof(encoded) for encoded in response.member_changes]
        schedule = proven_schedule(self._genesis, proofs)
        check_heads((certifying,), (manifest.height, header.parent_hash), schedule)
        if manifest_root(manifest) != header.state_root:
            raise RejectionError(RejectionReason.BAD_PROOF, "the manifest leads to another root than the header's")
        return Offer(
            manifest=manifest,
            certifying=certifying,
            member_changes=response.member_changes,
            schedule=schedule,
        )

    async def _fetch(self, offer: Offer) -> bool:
        """Gather block, heads and pieces; return whether all of it is here."""
        LOGGER.info(
            "%d heights behind: fetching the snapshot of height %d, %d pieces, from members %s",
            offer.manifest.height - self._consensus.height,
            offer.manifest.height,
            len(offer.manifest.cells),
            ", ".join(str(member) for member in offer.providers),
        )
        decided = await self._block_of(offer)
        if decided is None:
            return False
        goal = SnapshotGoal(decided=decided, manifest=offer.manifest, member_changes=offer.member_changes)
        await trio.to_thread.run_sync(self._incoming.begin, goal)
        first_head = self._consensus.height
        parts = await trio.to_thread.run_sync(SnapshotParts, offer.manifest, self._incoming, offer.schedule, first_head)
        providers = set(offer.providers)
        while parts and providers:
            async with trio.open_nursery() as nursery:
                for member in sorted(providers):
                    nursery.start_soon(self._gather, member, parts, providers)
        return not parts

    async def _block_of(self, offer: Offer) -> DecidedBlock | None:
        """Return the block whose state the snapshot is, from the first member that gives it."""
        for member in offer.providers:
            try:
                request = BlocksRequest(from_height=offer.manifest.height, count=1)
                response = await ask(self._asker, member, request)
            except (PeerUnreachableError, RejectionError) as error:
                LOGGER.info("member %d does not give the snapshot's block: %s", member, error)
                continue
            try:
                return self._checked_block(response, offer)
            except RejectionError as error:
                self._asker.refuse(member, error)
        return None

    def _checked_block(self, response: object, offer: Offer) -> DecidedBlock:
        if not isinstance(response, BlocksResponse) or not response.decided:
            raise RejectionError(RejectionReason.MALFORMED, "answered something else")
        decided = decode(response.decided[0], DecidedBlock, bytes_max=MESSAGE_BYTES_MAX)
        parent = (Height(offer.manifest.height - 1), decided.block.header.parent_hash)
        check_heads((head_of(decided),), parent, offer.schedule)
        if header_hash(decided.block.header) != offer.certifying.block.header.parent_hash:
            raise RejectionError(RejectionReason.WRONG_PARENT, "another block than the one that is certified")
        return decided

    async def _gather(self, member: MemberIndex, parts: SnapshotParts, providers: set[MemberIndex]) -> None:
        """Ask one member for part after part; whoever fails once is no provider any more."""
        while parts:
            part = parts.take()
            rest: Part | None = part
            try:
                rest = await self._ask_for(member, part, parts)
            except (PeerUnreachableError, RejectionError) as error:
                LOGGER.info("member %d gives no more of the snapshot: %s", member, error)
                providers.discard(member)
                return
            finally:
                if rest is not None:
                    parts.give_back(rest)

    async def _ask_for(self, member: MemberIndex, part: Part, parts: SnapshotParts) -> Part | None:
        response = await ask(self._asker, member, parts.question(part))
        try:
            return await trio.to_thread.run_sync(parts.keep, part, response)
        except RejectionError as error:
            self._asker.refuse(member, error)
            raise
