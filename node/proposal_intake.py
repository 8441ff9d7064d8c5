"""From a proposal on the wire to a complete, checked block of this height.

Complete means: the block and every record that its transactions reference are here. Records are on disk before the
member votes for a block, so that a decided block's records survive a power cut at all members at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from consensus.blocks import BLOCK_BYTES_MAX
from consensus.certificates import bitmap_members
from consensus.encoding import encode
from consensus.errors import RejectionError, RejectionReason
from consensus.events import Validity
from consensus.identifiers import Milliseconds
from consensus.messages import RECORD_ADDRESSES_MAX, ProposalMessage, RecordsMessage, RecordsMissing, encode_message
from node.node_chain import match_records
from node.proposal_pool import KnownBlock, ProposalPool, WaitingProposal
from storage.transactions import transaction_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from consensus.blocks import Block
    from consensus.identifiers import BlockHash
    from node.blocking import RunBlocking
    from node.mempool import Mempool
    from node.node_chain import NodeChain
    from node.outbox import Outbox
    from node.telemetry import NodeCounters
    from storage.identifiers import RecordAddress
    from storage.record_claims import RecordClaim

IN_THREAD_BYTES: Final = 16 * 1024
"""A block with more transactions than this is checked in a worker thread, so that frames are still read."""


@dataclass(slots=True, kw_only=True)
class ProposalIntake:
    """Completes and checks the proposals of one height after the other."""

    chain: NodeChain
    mempool: Mempool
    outbox: Outbox
    counters: NodeCounters
    pool: ProposalPool
    run_blocking: RunBlocking
    wall_ms: Callable[[], Milliseconds]

    async def take(self, message: ProposalMessage) -> KnownBlock | None:
        """Return the checked block of a proposal; None while records are missing, which were asked for."""
        block_hash = message.signed.proposal.block_hash
        known = self.pool.get(block_hash)
        if known is not None:
            return known
        claims = self._claims(message.block)
        if claims is None:
            return self._refused(message)
        waiting = self.pool.waiting(block_hash)
        found = match_records(claims.values(), message.records)
        if waiting is not None:
            found |= waiting.found
        missing = {address: claim for address, claim in claims.items() if address not in found}
        if missing:
            self._fill_from_mempool(message.block, missing, found)
        if missing:
            await self._fill_from_disk(missing, found)
        if missing:
            waits = WaitingProposal(message=message, missing=missing, found=found)
            self.pool.wait(block_hash, waits)
            self.ask_missing(block_hash, waits)
            return None
        return await self._check(message, tuple(claims), found)

    async def take_records(self, message: RecordsMessage) -> KnownBlock | None:
        """Return the checked block whose last records came."""
        waiting = self.pool.waiting(message.block_hash)
        if waiting is None:
            return None
        found = match_records(waiting.missing.values(), message.records)
        waiting.found |= found
        for address in found:
            del waiting.missing[address]
        return None if waiting.missing else await self.take(waiting.message)

    def message_of(self, block_hash: BlockHash) -> ProposalMessage | None:
        """Return the proposal that waits for this block's records."""
        waiting = self.pool.waiting(block_hash)
        return None if waiting is None else waiting.message

    def ask_missing(self, block_hash: BlockHash, waiting: WaitingProposal) -> None:
        """Ask the proposer and the polka's signers, who must have them."""
        message = waiting.message
        holders = {message.signed.proposal.proposer}
        if message.polka is not None:
            holders |= set(bitmap_members(message.polka.members))
        addresses = tuple(waiting.missing)[:RECORD_ADDRESSES_MAX]
        frame = encode_message(RecordsMissing(block_hash=block_hash, addresses=addresses))
        for member in sorted(holders):
            self.outbox.send(member, frame)

    async def records_of(self, addresses: Sequence[RecordAddress]) -> tuple[bytes, ...]:
        """Return those of the records that are here, in the order asked for."""
        if not addresses:
            return ()
        found = await self.run_blocking(self.chain.read_records, addresses)
        return tuple(found[address] for address in addresses if address in found)

    async def keep_own(self, block_hash: BlockHash, block: Block, records: dict[RecordAddress, bytes]) -> None:
        """Keep the block that this member made, its records on disk."""
        if records:
            await self.run_blocking(self.chain.write_records, records)
        self.pool.add(block_hash, KnownBlock(block=block, validity=Validity.VALID, addresses=tuple(records)))

    def _claims(self, block: Block) -> dict[RecordAddress, RecordClaim] | None:
        try:
            claims = [claim for encoded in block.transactions for claim in self.chain.record_claims(encoded)]
        except RejectionError:
            return None
        by_address = {claim.address: claim for claim in claims}
        is_bound = all(by_address[claim.address] == claim for claim in claims)
        return by_address if is_bound else None  # rule S31: of two claims to one address, one is a lie

    def _fill_from_mempool(
        self, block: Block, missing: dict[RecordAddress, RecordClaim], found: dict[RecordAddress, bytes]
    ) -> None:
        for encoded in block.transactions:
            pending = self.mempool.get(transaction_id(encoded))
            if pending is not None:
                found |= match_records(self.chain.record_claims(encoded), pending.records)
        for address in [address for address in missing if address in found]:
            del missing[address]

    async def _fill_from_disk(
        self, missing: dict[RecordAddress, RecordClaim], found: dict[RecordAddress, bytes]
    ) -> None:
        here = await self.run_blocking(self.chain.read_records, tuple(missing))
        for address, sealed in here.items():
            found |= match_records(
                (missing[address],), (sealed,)
            )  # rule S31: being here does not make it this tenant's
        for address in [address for address in missing if address in found]:
            del missing[address]

    async def _check(
        self, message: ProposalMessage, addresses: tuple[RecordAddress, ...], records: dict[RecordAddress, bytes]
    ) -> KnownBlock:
        block, proposal = message.block, message.signed.proposal
        try:
            _check_bytes(block, records)
            if sum(map(len, block.transactions)) > IN_THREAD_BYTES:
                await self.run_blocking(self.chain.check_proposed, block, proposal, self.wall_ms())
            else:
                self.chain.check_proposed(block, proposal, self.wall_ms())
        except RejectionError as error:
            self.counters.refused[error.reason] += 1
            return self._refused(message)
        if records:
            await self.run_blocking(self.chain.write_records, records)
        known = KnownBlock(block=block, validity=Validity.VALID, addresses=addresses)
        self.pool.complete(proposal.block_hash)
        self.pool.add(proposal.block_hash, known)
        return known

    def _refused(self, message: ProposalMessage) -> KnownBlock:
        """An invalid block is not kept: proposed again with a polka, it is judged again, without the clock."""
        self.pool.complete(message.signed.proposal.block_hash)
        return KnownBlock(block=message.block, validity=Validity.INVALID, addresses=())


def _check_bytes(block: Block, records: Mapping[RecordAddress, bytes]) -> None:
    """Refuse a block that its proposer could not send whole: the records beside it count as its own bytes."""
    byte_count = len(encode(block)) + sum(map(len, records.values()))
    if byte_count > BLOCK_BYTES_MAX:
        detail = f"{byte_count} bytes with its records, at most {BLOCK_BYTES_MAX}"
        raise RejectionError(RejectionReason.OVERSIZED, detail)
