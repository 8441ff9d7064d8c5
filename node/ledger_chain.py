"""The node's chain with real parts: ChainStore, ledger, record store, behind what the consensus shell asks for.

Order when a block is appended: its records were written before the member voted for it; block, state, references and
tip are one flushed batch; only then are records erased, and only those that no entry refers to. A crash in between
leaves a record too many, never one too few: find_unreferenced() notes it, and the next block, with which all proposals
of its height are over, erases it.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from consensus.chain import ChainRules, check_block, check_decided, check_fresh, make_block, rules_at
from consensus.evidence import fault_place
from consensus.identifiers import NO_ROUND, Height
from consensus.signing import check_signature
from node.node_chain import Appended
from storage.audits import PatientDuty
from storage.errors import FatalStoreError, StoreUnavailableError
from storage.ledger_audits import running_epoch
from storage.record_claims import record_claims
from storage.transactions import decode_transaction, transaction_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from consensus.blocks import Block, DecidedBlock
    from consensus.certificates import CommitCertificate
    from consensus.chain import ChainTip
    from consensus.evidence import Evidence
    from consensus.identifiers import MemberIndex, Milliseconds
    from consensus.proposals import Proposal
    from consensus.signing import SignatureCheck
    from consensus.turns import ProposerOrder
    from storage.identifiers import RecordAddress
    from storage.record_claims import RecordClaim
    from storage.stores.blocks import ChainStore
    from storage.stores.records import RecordStore

LOGGER = logging.getLogger(__name__)

PATIENT_PARTS: Final = 4
"""Of an epoch; the usual one of ten minutes has heartbeats that come sooner."""


def next_rules(store: ChainStore) -> ChainRules:
    """Return what the next block of a chain is judged by."""
    return rules_at(store.genesis.chain_id, store.schedule, Height(store.tip.height + 1))


def _hold_nothing(height: Height) -> None:
    """Make no snapshots."""
    del height


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerChain:
    """Implements NodeChain; thread-safe as its stores are."""

    store: ChainStore
    records: RecordStore
    seat: MemberIndex
    check: SignatureCheck = check_signature
    judge: Callable[[ChainStore], ChainRules] = next_rules
    """Tells the rules of the next block; the simulation's broken nodes have others."""
    hold_state: Callable[[Height], None] = _hold_nothing
    """Called once a block is durable, before the next can be; from a worker thread."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    """Between a look at the references and what follows from it, no block is appended."""
    _suspects: set[RecordAddress] = field(default_factory=set["RecordAddress"])
    """Records that may have lost their last reference."""

    @property
    def tip(self) -> ChainTip:
        """The last decided block."""
        return self.store.tip

    @property
    def rules(self) -> ChainRules:
        """What the next block is judged by."""
        return self.judge(self.store)

    @property
    def turns(self) -> ProposerOrder:
        """Whose turn it is at the next height."""
        return self.store.tip.turns

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
        tip = self.store.tip
        if proposal.valid_round == NO_ROUND:
            check_fresh(block.header, tip, self.rules, proposal.round, now_ms)
        check_block(block, tip, self.rules, self.store, self.check)

    def check_decided(self, decided: DecidedBlock) -> None:
        """Raise RejectionError unless the block follows the tip and is proven decided."""
        check_decided(decided, self.store.tip, self.rules, self.store, self.check)

    def append(self, decided: DecidedBlock) -> Appended:
        """Apply a decided block durably."""
        transactions = decided.block.transactions
        claims = [claim for encoded in transactions for claim in self.record_claims(encoded)]
        with self._lock:
            change = self.store.execute(decided.block)
            self.store.append(decided, change)
            self.hold_state(change.height)
            added = frozenset(change.added_records)
            self._suspects.update(change.erased_records, {claim.address for claim in claims} - added)
            erased = self._erase_suspects()
        return Appended(
            height=change.height,
            transaction_ids=tuple(transaction_id(encoded) for encoded in transactions),
            committed_segments=change.committed_segments,
            freed_segments=change.freed_segments,
            erased_records=erased,
            added_records=tuple(claim for claim in claims if claim.address in added),
            changed_objects=change.changed_objects,
        )

    def decided_block(self, height: Height) -> DecidedBlock | None:
        """Return a block of the chain."""
        return self.store.decided_block(height)

    def is_known_fault(self, evidence: Evidence) -> bool:
        """Say whether the fault that evidence proves is on chain."""
        return self.store.is_known_fault(evidence)

    def is_convicted(self, member: MemberIndex) -> bool:
        """Say whether the chain holds a fault of this member."""
        return self.store.is_convicted_below(member, Height(self.store.tip.height + 1))

    def wants_certificate(self) -> bool:
        """Say whether the last block changed what somebody may want proven: no further fault, duty or epoch is it."""
        tip = self.store.tip
        if tip.last is None or tip.last.block.header.state_root == tip.state_root:
            return False
        block = tip.last.block
        bodies = (decode_transaction(encoded).envelope.body for encoded in block.transactions)
        if not all(isinstance(body, PatientDuty) for body in bodies):
            return True
        if not block.transactions and not block.evidence:
            return running_epoch(self.store).opened_height != tip.height
        guilty = {fault_place(proof)[1] for proof in block.evidence}
        return not all(self.store.is_convicted_below(member, tip.height) for member in guilty)

    def patience_s(self) -> float:
        """Return a quarter of an epoch: what is reported at half of it stands in a block of the same one."""
        return self.store.context.parameters.epoch_ms / 1000 / PATIENT_PARTS

    def keep_evidence(self, evidence: Evidence) -> None:
        """Keep evidence durably until a block holds it."""
        self.store.keep_evidence(evidence)

    def waiting_evidence(self) -> tuple[Evidence, ...]:
        """Return the evidence that no block holds yet."""
        return self.store.waiting_evidence()

    def check_admissible(self, transaction: bytes) -> None:
        """Raise RejectionError if the next block could not hold this transaction, or only as a failed one."""
        self.store.check_admissible(transaction)

    def record_claims(self, transaction: bytes) -> tuple[RecordClaim, ...]:
        """Return the records that a transaction references, in its order."""
        return record_claims(decode_transaction(transaction).envelope.body)

    def read_records(self, addresses: Sequence[RecordAddress]) -> dict[RecordAddress, bytes]:
        """Return those of the records that are here."""
        return self.records.read(addresses)

    def write_records(self, records: Mapping[RecordAddress, bytes]) -> None:
        """Keep records durably."""
        self.records.write(records)

    def erase_unreferenced(self, addresses: Iterable[RecordAddress]) -> None:
        """Forget those of the records that no entry refers to; one that a block adds meanwhile stays."""
        with self._lock:
            self._suspects.update(addresses)
            self._erase_suspects()

    def erased_height(self) -> Height | None:
        """Return up to which block all records given up are erased here; None while the disk refuses to erase some."""
        with self._lock:
            return None if self._suspects else self.store.tip.height

    def find_unreferenced(self) -> None:
        """Look through all records for those that a crash left over; the next block erases them.

        Not at once: a proposal of the present height, locked perhaps, may be what brought them.
        """
        for address, _ in self.records.rows():
            if self.store.references(address) is None:
                with self._lock:
                    self._suspects.add(address)

    def _erase_suspects(self) -> tuple[RecordAddress, ...]:
        """Erase and return the suspects without a reference; they stay suspects while the disk refuses."""
        unreferenced = tuple(address for address in self._suspects if self.store.references(address) is None)
        try:
            self.records.erase(unreferenced)
        except FatalStoreError:
            raise
        except StoreUnavailableError as error:
            LOGGER.warning("%d records are erased later: %s", len(unreferenced), error)
            return ()
        self._suspects.clear()
        return unreferenced
