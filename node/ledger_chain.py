"""The node's chain with real parts: ChainStore, ledger, record store, behind what the consensus shell asks for.

Order when a block is appended: its records were written before the member voted for it; block, state and tip are one
flushed batch; only then are records erased that nothing refers to any more. A crash in between leaves a record too
many, which the records task finds at the next start, never one too few.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from consensus.chain import ChainRules, check_block, check_decided, check_fresh, make_block
from consensus.identifiers import NO_ROUND
from node.node_chain import Appended, RecordClaim
from storage.transactions import CommitObjects, decode_transaction, transaction_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from consensus.blocks import Block, DecidedBlock
    from consensus.certificates import CommitCertificate
    from consensus.chain import ChainTip
    from consensus.evidence import Evidence
    from consensus.identifiers import Height, MemberIndex, Milliseconds
    from consensus.proposals import Proposal
    from consensus.turns import ProposerOrder
    from storage.identifiers import BucketTag, RecordAddress
    from storage.ledger import StateChange
    from storage.stores.blocks import ChainStore
    from storage.stores.records import RecordStore
    from storage.transactions import EntryCommit


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerChain:
    """Implements NodeChain; thread-safe as its stores are."""

    store: ChainStore
    records: RecordStore
    rules: ChainRules
    seat: MemberIndex

    @property
    def tip(self) -> ChainTip:
        """The last decided block."""
        return self.store.tip

    @property
    def turns(self) -> ProposerOrder:
        """Whose turn it is at the next height."""
        return self.rules.turns

    def make_block(
        self,
        transactions: Sequence[bytes],
        evidence: Sequence[Evidence],
        now_ms: Milliseconds,
        parent_commit: CommitCertificate | None,
    ) -> Block:
        """Return this seat's block on the tip; the parent's certificate as it was appended when none is given."""
        return make_block(
            self.store.tip,
            self.rules,
            self.seat,
            transactions=transactions,
            evidence=evidence,
            now_ms=now_ms,
            parent_commit=parent_commit,
        )

    def check_proposed(self, block: Block, proposal: Proposal, now_ms: Milliseconds) -> None:
        """Raise RejectionError unless the block may follow the tip now."""
        if proposal.valid_round == NO_ROUND:
            check_fresh(block.header, self.rules, proposal.round, now_ms)
        check_block(block, self.store.tip, self.rules, self.store)

    def check_decided(self, decided: DecidedBlock) -> None:
        """Raise RejectionError unless the block follows the tip and is proven decided."""
        check_decided(decided, self.store.tip, self.rules, self.store)

    def append(self, decided: DecidedBlock) -> Appended:
        """Apply a decided block durably."""
        change = self.store.execute(decided.block)
        self.store.append(decided, change)
        erased = [*change.erased_records, *self._never_referenced(decided.block, change)]
        if erased:
            self.records.erase(erased)
        added = frozenset(change.added_records)
        return Appended(
            height=change.height,
            transaction_ids=tuple(transaction_id(encoded) for encoded in decided.block.transactions),
            committed_segments=change.committed_segments,
            freed_segments=change.freed_segments,
            erased_records=tuple(erased),
            added_records=tuple(
                claim
                for encoded in decided.block.transactions
                for claim in self.record_claims(encoded)
                if claim.address in added
            ),
        )

    def decided_block(self, height: Height) -> DecidedBlock | None:
        """Return a block of the chain."""
        return self.store.decided_block(height)

    def check_admissible(self, transaction: bytes) -> None:
        """Raise RejectionError if the next block could not hold this transaction, or only as a failed one."""
        self.store.check_admissible(transaction)

    def record_claims(self, transaction: bytes) -> tuple[RecordClaim, ...]:
        """Return the records that a transaction references, in its order."""
        body = decode_transaction(transaction).envelope.body
        if not isinstance(body, CommitObjects):
            return ()
        claims = (
            RecordClaim(tenant=body.tenant, version_id=entry.version_id, address=entry.record_address)
            for _, entry in _entries(body)
        )
        return tuple(dict.fromkeys(claims))

    def read_records(self, addresses: Sequence[RecordAddress]) -> dict[RecordAddress, bytes]:
        """Return those of the records that are here."""
        return self.records.read(addresses)

    def write_records(self, records: Mapping[RecordAddress, bytes]) -> None:
        """Keep records durably."""
        self.records.write(records)

    def erase_records(self, addresses: Sequence[RecordAddress]) -> None:
        """Forget records."""
        self.records.erase(addresses)

    def _never_referenced(self, block: Block, change: StateChange) -> Iterator[RecordAddress]:
        """Yield the records of entries that failed, unless the entry holds that very record from before."""
        for encoded, outcome in zip(block.transactions, change.outcomes, strict=True):
            body = decode_transaction(encoded).envelope.body
            failed_any = outcome.reason is not None or outcome.failed_entries
            if not failed_any or not isinstance(body, CommitObjects):
                continue
            for bucket_tag, entry in _entries(body):
                current = self.store.entry(body.tenant, bucket_tag, entry.name_tag)
                if current is None or current.record_address != entry.record_address:
                    yield entry.record_address


def _entries(body: CommitObjects) -> Iterator[tuple[BucketTag, EntryCommit]]:
    for bucket in body.buckets:
        for entry in bucket.entries:
            yield bucket.bucket_tag, entry
