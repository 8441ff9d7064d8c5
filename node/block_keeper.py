"""The member's own blocks and the chain they go to: made, held through a crash, appended once they are decided.

After a decision the height's precommits are still counted, until the next block embeds all that came (rule A63).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from consensus.blocks import header_hash
from consensus.driver import apply
from consensus.effects import ReportEvidence
from consensus.errors import RejectionError
from consensus.events import Validity, VoteReceived
from consensus.height_state import decided_commit
from consensus.identifiers import Height
from consensus.votes import Precommit
from node.node_chain import match_records
from node.proposal_pool import KnownBlock

if TYPE_CHECKING:
    from collections.abc import Iterable

    from consensus.blocks import Block, DecidedBlock
    from consensus.height_state import HeightState
    from consensus.identifiers import BlockHash
    from consensus.votes import SignedVote
    from node.evidence_pool import EvidencePool
    from node.member_parts import MemberParts
    from node.node_chain import Appended
    from node.proposal_intake import ProposalIntake
    from storage.identifiers import RecordAddress


SMALL_BYTES: Final = 4 * 1024
"""Of transactions: a block that is applied in about the time of its flush."""


@dataclass(slots=True, kw_only=True)
class BlockKeeper:
    """Blocks of one member, height after height."""

    parts: MemberParts
    intake: ProposalIntake
    evidence: EvidencePool
    _logged: set[BlockHash] = field(default_factory=set["BlockHash"])
    _decided: HeightState | None = None
    """The height before, when it was decided here and not caught up."""

    async def make(self) -> BlockHash:
        """Make this seat's block of what waits, and keep it with its records."""
        parts = self.parts
        pending = parts.mempool.take()
        parent_commit = None if self._decided is None else decided_commit(self._decided)
        transactions = [waiting.transaction for waiting in pending]
        block = parts.chain.make_block(transactions, self.evidence.waiting(), parts.wall_ms(), parent_commit)
        records: dict[RecordAddress, bytes] = {}
        for waiting in pending:
            records |= match_records(parts.chain.record_claims(waiting.transaction), waiting.records)
        block_hash = header_hash(block.header)
        await self.intake.keep_own(block_hash, block, records)
        parts.counters.proposals_made += 1
        return block_hash

    def log(self, block_hash: BlockHash) -> None:
        """Add a block to the log, once: whoever locked or proposed it still holds it after a crash."""
        known = self.intake.pool.get(block_hash)
        if known is not None and block_hash not in self._logged:
            self._logged.add(block_hash)
            self.parts.log.append_block(known.block)

    def restore(self, blocks: Iterable[Block]) -> None:
        """Hold again what the log held."""
        for block in blocks:
            block_hash = header_hash(block.header)
            self._logged.add(block_hash)
            known = KnownBlock(block=block, validity=Validity.VALID, addresses=self._addresses(block))
            self.intake.pool.add(block_hash, known)

    async def count_late(self, signed: SignedVote) -> None:
        """Count a precommit of the height before."""
        if self._decided is None or not isinstance(signed.vote, Precommit):
            return
        try:
            self._decided, effects = apply(self._decided, VoteReceived(signed=signed))
        except RejectionError as error:
            self.parts.counters.refused[error.reason] += 1
            return
        for effect in effects:
            assert isinstance(effect, ReportEvidence), "a decided height only reports"
            await self.evidence.add(effect.evidence)

    async def append(self, decided: DecidedBlock, state: HeightState | None) -> Appended:
        """Append a decided block durably and begin the next height's log.

        Args:
            decided: Checked.
            state: The height's, if it was decided here: late precommits are counted in it.
        """
        parts = self.parts
        self._decided = state
        is_small = sum(map(len, decided.block.transactions)) <= SMALL_BYTES
        run = parts.run_flush if is_small else parts.run_blocking
        appended = await run(self._append_and_log, decided)
        parts.counters.blocks_decided += 1
        parts.mempool.committed(appended.transaction_ids, appended.height)
        self.evidence.committed(decided.block.evidence)
        self.evidence.hand_on()
        unused = self.intake.pool.addresses() - set(self._addresses(decided.block))
        if unused:
            await parts.run_blocking(parts.chain.erase_unreferenced, unused)
        self._logged.clear()
        return appended

    def _append_and_log(self, decided: DecidedBlock) -> Appended:
        """The block is durable before its height's log is forgotten."""
        appended = self.parts.chain.append(decided)
        self.parts.log.begin(Height(appended.height + 1))
        return appended

    def _addresses(self, block: Block) -> tuple[RecordAddress, ...]:
        claims = (claim for encoded in block.transactions for claim in self.parts.chain.record_claims(encoded))
        return tuple(claim.address for claim in claims)
