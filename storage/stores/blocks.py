"""The chain on disk: decided blocks, the state after them, and where each transaction went.

Rows, beside those of the state (state.py):

    "g", "m", "p"          genesis and tip (tip.py)
    "b", "h" height        a decided block, whole or what is left of a pruned one (heads.py)
    "w"                    whose turn comes next (turns.py)                                 TurnState
    "v" state key          evidence that waits for a block (waiting_evidence.py)             WaitingEvidence
    "i" transaction id     height, index and outcome of a transaction, of when it ran       TransactionPlace
    "a" record address     which entries refer to a record (references.py)                  RecordReferences

Promises
1. A block, all it changes and the new tip are one atomic, flushed write: a crash leaves all of it or nothing.
2. Opening checks that tip, last block and state tree agree, and that the genesis is this chain's.
3. After a refused write the tip is read again from the disk before the next: execute() and append() of the same block
   may be tried again, whether the disk has it or not.

Thread-safe; every method may block on the disk.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from msgspec.structs import replace

from consensus.blocks import EVIDENCE_MAX, DecidedBlock, header_hash
from consensus.chain import ChainTip, genesis_tip, next_tip, tip_at
from consensus.encoding import decode, encode
from consensus.genesis import decode_genesis, genesis_hash
from consensus.identifiers import BlockHash, Height, MemberIndex, PublicKey, StateRoot, TransactionId
from consensus.signing import check_signature
from storage.errors import StorageError, WrongChainError
from storage.faults import Fault, check_new_faults, fault_key, read_fault
from storage.identifiers import BucketTag, NameTag, RecordAddress, SegmentId, TenantId
from storage.ledger import (
    LedgerContext,
    StateChange,
    apply_block,
    check_transaction,
    check_transactions,
    context_after,
    context_at,
    genesis_state,
)
from storage.member_proofs import change_proof
from storage.outcomes import TransactionPlace
from storage.proofs import StateProof, TransactionProof, certified_header, pruned_transaction_proof, transaction_proof
from storage.state import (
    ENTRY_PREFIX,
    FAULT_PREFIX,
    GRANT_PREFIX,
    SEGMENT_PREFIX,
    TENANT_PREFIX,
    EntryState,
    GrantState,
    SegmentState,
    StateOverlay,
    TenantState,
    decode_state,
    entry_key,
    read_state,
    segment_key,
)
from storage.state_tree import prove, root_of_tree
from storage.stores.heads import body_row, first_body, prune_some, read_block, read_head
from storage.stores.leveldb import LevelDatabase, LevelOptions, WriteBatch
from storage.stores.member_changes import read_member_changes, stage_member_change
from storage.stores.places import read_place, stage_places
from storage.stores.references import RecordReferences, read_references, stage_references
from storage.stores.state import VALUE_ROWS, EarlierState, StoredState, stage_change, state_before
from storage.stores.tip import GENESIS_ROW, INSTALLING_ROW, TIP_BYTES_MAX, TIP_ROW, TipRow, stage_tip
from storage.stores.turns import stage_turns, turns_at
from storage.stores.waiting_evidence import read_waiting, stage_committed, write_waiting
from storage.tenants import check_admissible
from storage.transactions import transaction_id

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path
    from types import TracebackType

    from consensus.blocks import Block
    from consensus.evidence import Evidence
    from consensus.genesis import Genesis
    from consensus.heads import DecidedHead
    from consensus.schedule import MemberSchedule
    from consensus.signing import SignatureCheck
    from storage.stores.protocols import RowStore, StateView

LIST_MAX: Final = 4_096
"""One listing returns at most this many rows."""
CHECKED_MAX: Final = 16_384
"""Transactions remembered as checked: those that wait in a mempool, and a block of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedEntry:
    """An entry and its place in the order of a listing."""

    bucket_tag: BucketTag
    name_tag: NameTag
    state: EntryState


class ChainStore:
    """The chain of one node. It is the `Application` of consensus: what it checks, it also applies."""

    def __init__(
        self, database: RowStore, genesis: Genesis, tip: ChainTip, check: SignatureCheck = check_signature
    ) -> None:
        """Use open_chain()."""
        self._check = check
        self._database = database
        self._state = StoredState(database)
        self._lock = threading.RLock()
        self._checked: OrderedDict[TransactionId, None] = OrderedDict()
        self._tip = tip
        # The last header's root is of the state before its block; equal roots mean that the block changed nothing.
        is_certified = tip.last is not None and tip.last.block.header.state_root == tip.state_root
        self._earlier = EarlierState(latest=self._state, values={}, pages={}) if is_certified else None
        self._unsure: tuple[BlockHash, StateChange] | None = None
        self.genesis: Final = genesis
        self._context = context_at(self._state, tip.height)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    @property
    def directory(self) -> Path:
        """Return where it lies."""
        return self._database.directory

    @property
    def tip(self) -> ChainTip:
        """Return the last decided block and the state root after it."""
        return self._tip

    @property
    def context(self) -> LedgerContext:
        """Return what the next block is run by."""
        return self._context

    @property
    def schedule(self) -> MemberSchedule:
        """Return who agrees on the heights up to two above the last block."""
        return self._context.schedule

    def close(self) -> None:
        """Release the directory."""
        self._database.close()

    def check_transactions(self, transactions: Sequence[bytes]) -> None:
        """Raise RejectionError unless a block may hold these; what was checked once is not checked again."""
        names = {transaction_id(encoded): encoded for encoded in transactions}
        if len(names) != len(transactions):
            check_transactions(self.context, transactions, self._check)
        for name, encoded in names.items():
            if name not in self._checked:
                check_transaction(self.context, encoded, self._check)
                self._remember(name)

    def check_evidence(self, evidence: Sequence[Evidence]) -> None:
        """Raise RejectionError(BAD_EVIDENCE) if a fault is on chain already."""
        check_new_faults(self._state, evidence)

    def check_admissible(self, encoded: bytes) -> None:
        """Raise RejectionError if the next block could not hold this transaction, or only as a failed one."""
        name = transaction_id(encoded)
        signed = check_transaction(self.context, encoded, self._check)
        self._remember(name)
        height = Height(self._tip.height + 1)
        check_admissible(self, signed.envelope, height, self.context.members, self.context.parameters)

    def apply(self, block: Block) -> StateRoot:
        """Return the state root after a block; append() writes it."""
        return self.execute(block).state_root

    def execute(self, block: Block) -> StateChange:
        """Return what the next block changes; nothing is written."""
        with self._lock:
            refused = self._settle()
            if refused is not None and refused[0] == header_hash(block.header):
                return refused[1]
            assert block.header.height == self._tip.height + 1, "blocks are applied in order"
            return apply_block(self.context, self._state, block)

    def append(self, decided: DecidedBlock, change: StateChange) -> ChainTip:
        """Write a decided block and what it changes, atomically and durably; the caller has checked it.

        Raises:
            StoreUnavailableError: The disk refused; whether it was written is unknown until the store is reopened.
        """
        header = decided.block.header
        with self._lock:
            self._settle()
            if self._tip.block_hash == header_hash(header):
                return self._tip
            assert header.height == change.height == self._tip.height + 1, "blocks are appended in order"
            assert header.state_root == self._tip.state_root, "the header commits the state before the block"
            context = context_after(self._context, StateOverlay(self._state, dict(change.values)), change)
            tip = next_tip(self._tip, decided, change.state_root, context.schedule)
            earlier = state_before(self._state, change)
            self._unsure = tip.block_hash, change
            batch = _block_batch(decided, change, tip)
            stage_committed(batch, decided.block.evidence)
            stage_member_change(batch, change_proof(self._context, self._state, decided))
            stage_places(batch, self._database, change)
            stage_references(batch, self._database, change.values, earlier)
            self._database.write(batch)
            self._unsure = None
            self._tip, self._earlier, self._context = tip, earlier, context
            return tip

    def decided_block(self, height: Height) -> DecidedBlock | None:
        """Return a block of the chain, None above the tip and for genesis."""
        return read_block(self._database, height)

    def decided_head(self, height: Height) -> DecidedHead | None:
        """Return what stays of every block of the chain; None above the tip and for genesis."""
        return read_head(self._database, height)

    def first_body(self) -> Height | None:
        """Return the lowest height whose block is whole, None without any block."""
        return first_body(self._database)

    def view(self) -> AbstractContextManager[StateView]:
        """Give the rows of this moment; hold it for minutes at most (leveldb.LevelDatabase.snapshot)."""
        return self._database.snapshot()

    def prune_some(self, below: Height) -> int:
        """Prune the bodies of some of the lowest blocks below a height; return of how many, 0 when none is left.

        Raises:
            StoreUnavailableError: The disk refused.
        """
        assert below <= self._tip.height, "the last block stays whole"
        return prune_some(self._database, below)

    def purge_pruned(self, first: Height, below: Height) -> None:
        """Give the space of pruned bodies back to the disk."""
        if first < below:
            self._database.purge(body_row(first), body_row(Height(below - 1)))

    def decided_bytes(self, height: Height) -> bytes | None:
        """Return an encoded DecidedBlock."""
        return self._database.get(body_row(height))

    def decided_range(self, first: Height, count: int, bytes_max: int) -> tuple[bytes, ...]:
        """Return encoded whole blocks from a height on; at least one if there is one, else as many as fit bytes_max."""
        found = list[bytes]()
        total = 0
        for height in range(max(first, 1), min(first + count, self._tip.height + 1)):
            encoded = self.decided_bytes(Height(height))
            if encoded is None:
                break  # pruned
            total += len(encoded)
            if found and total > bytes_max:
                break
            found.append(encoded)
        return tuple(found)

    def transaction(self, name: TransactionId) -> TransactionPlace | None:
        """Return where a transaction stands and what became of it, None when the chain does not carry it."""
        return read_place(self._database, name)

    def value(self, state_key: bytes) -> bytes | None:
        """Return the value of a state key after the last block."""
        return self._state.value(state_key)

    def page(self, page_name: bytes) -> bytes | None:
        """Return a page of the state tree after the last block."""
        return self._state.page(page_name)

    def faults(self) -> tuple[Fault, ...]:
        """Return the first LIST_MAX faults on chain, by member, kind, height and round."""
        return tuple(read_fault(*row) for row in self.rows(FAULT_PREFIX, FAULT_PREFIX, LIST_MAX))

    def is_known_fault(self, evidence: Evidence) -> bool:
        """Say whether the fault that evidence proves is on chain."""
        return self.value(fault_key(evidence)) is not None

    def is_convicted_below(self, member: MemberIndex, height: Height) -> bool:
        """Say whether a block below a height proves a fault of a member; that of the height itself proves few."""
        prefix = FAULT_PREFIX + bytes((member,))
        return any(read_fault(*row).proven_at < height for row in self.rows(prefix, prefix, EVIDENCE_MAX + 1))

    def keep_evidence(self, evidence: Evidence) -> None:
        """Keep evidence durably until a block holds it; the caller keeps to WAITING_MAX."""
        write_waiting(self._database, evidence)

    def waiting_evidence(self) -> tuple[Evidence, ...]:
        """Return the evidence that no block holds yet."""
        return read_waiting(self._database)

    def entry(self, tenant: TenantId, bucket_tag: BucketTag, name_tag: NameTag) -> EntryState | None:
        """Return an entry after the last block."""
        return read_state(self, entry_key(tenant, bucket_tag, name_tag), EntryState)

    def references(self, address: RecordAddress) -> RecordReferences | None:
        """Return which entries refer to a record after the last block, None when none does."""
        return read_references(self._database, address)

    def entries(
        self,
        tenant: TenantId,
        bucket_tag: BucketTag | None = None,
        *,
        after: tuple[BucketTag, NameTag] | None = None,
        limit: int = LIST_MAX,
    ) -> tuple[ListedEntry, ...]:
        """Return entries of a tenant, or of one bucket, in order of their tags, behind `after`."""
        place = b"" if after is None else b"".join(after)
        rows = self.rows(ENTRY_PREFIX + tenant + (bucket_tag or b""), ENTRY_PREFIX + tenant + place, limit)
        return tuple(
            ListedEntry(
                bucket_tag=BucketTag(state_key[17:33]),
                name_tag=NameTag(state_key[33:49]),
                state=decode_state(encoded, EntryState),
            )
            for state_key, encoded in rows
        )

    def segment(self, segment_id: SegmentId) -> SegmentState | None:
        """Return a live segment, with the columns that their present holders have vouched for."""
        state = read_state(self, segment_key(segment_id), SegmentState)
        return None if state is None else self._counted(segment_id, state)

    def segments(
        self, *, after: SegmentId | None = None, limit: int = LIST_MAX
    ) -> tuple[tuple[SegmentId, SegmentState], ...]:
        """Return live segments as segment() does, in order of their ids, behind `after`."""
        rows = self.rows(SEGMENT_PREFIX, SEGMENT_PREFIX + (after or b""), limit)
        found = ((SegmentId(state_key[1:]), decode_state(encoded, SegmentState)) for state_key, encoded in rows)
        return tuple((segment_id, self._counted(segment_id, state)) for segment_id, state in found)

    def tenants(self) -> tuple[tuple[TenantId, TenantState], ...]:
        """Return the first LIST_MAX tenants in order of their ids."""
        rows = self.rows(TENANT_PREFIX, TENANT_PREFIX, LIST_MAX)
        return tuple((TenantId(state_key[1:]), decode_state(encoded, TenantState)) for state_key, encoded in rows)

    def grants(self, tenant: TenantId) -> tuple[tuple[PublicKey, GrantState], ...]:
        """Return the clients that act for a tenant."""
        rows = self.rows(GRANT_PREFIX + tenant, GRANT_PREFIX + tenant, LIST_MAX)
        return tuple((PublicKey(state_key[17:]), decode_state(encoded, GrantState)) for state_key, encoded in rows)

    def proof(self, state_key: bytes) -> StateProof:
        """Return the proof of a state key in the last certified state: the one before the last block.

        Raises:
            StorageError: No root is certified yet: right after a start, or before the first block.
        """
        with self._lock:
            self._settle()
            if self._earlier is None or self._tip.last is None:
                raise StorageError("the state's root is not certified yet: ask again after the next block")
            return StateProof(
                certified=certified_header(self._tip.last, self.schedule.members_at(self._tip.height)),
                value=self._earlier.value(state_key),
                tree=prove(self._earlier, state_key),
            )

    def transaction_proof(self, name: TransactionId) -> TransactionProof | None:
        """Return the proof that a transaction stands in the chain, None when it does not."""
        place = self.transaction(name)
        if place is None:
            return None
        decided, members = self.decided_block(place.height), self.schedule.members_at(place.height)
        if decided is not None:
            return transaction_proof(decided, place.index, members)
        head = self.decided_head(place.height)
        return None if head is None else pruned_transaction_proof(head, place.index, members)

    def member_changes(self) -> tuple[bytes, ...]:
        """Return the encoded proof of each change of members since genesis, oldest first (member_proofs.py)."""
        return read_member_changes(self._database)

    def _counted(self, segment_id: SegmentId, state: SegmentState) -> SegmentState:
        counted = self._context.placement.counted_columns(segment_id, state, Height(self._tip.height + 1))
        return state if len(counted) == len(state.columns) else replace(state, columns=tuple(sorted(counted)))

    def _settle(self) -> tuple[BlockHash, StateChange] | None:
        """After a refused write, read the tip from the disk again; return what was refused.

        The refused change was computed on the state before its block, so it stays right if the disk has it already.
        """
        if self._unsure is not None:
            tip = _checked_tip(self._database, self.genesis, genesis_state(self.genesis).state_root)
            if tip.height != self._tip.height:
                self._tip, self._earlier = tip, None
                self._context = context_at(self._state, tip.height)
        return self._unsure

    def _remember(self, name: TransactionId) -> None:
        with self._lock:
            self._checked[name] = None
            while len(self._checked) > CHECKED_MAX:
                self._checked.popitem(last=False)

    def rows(self, prefix: bytes, after: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Return state keys under a prefix, strictly behind `after` unless that is a prefix itself."""
        start = max(VALUE_ROWS + after + (b"\0" if len(after) > len(prefix) else b""), VALUE_ROWS + prefix)
        rows = self._database.scan(VALUE_ROWS + prefix, start=start, rows_max=min(max(limit, 1), LIST_MAX))
        return [(row_key[1:], encoded) for row_key, encoded in rows]


def open_chain(directory: Path, genesis: Genesis, options: LevelOptions | None = None) -> ChainStore:
    """Open a node's chain, writing the genesis state if the directory is new.

    Raises:
        StorageError: Another chain lies there, or block, state and tip disagree; the message says what to do.
        StoreUnavailableError: Locked, damaged, or the disk refuses.
        RejectionError: BAD_GENESIS.
    """
    database = LevelDatabase(directory, options)
    try:
        return open_chain_in(database, genesis)
    except BaseException:
        database.close()
        raise


def open_chain_in(database: RowStore, genesis: Genesis, check: SignatureCheck = check_signature) -> ChainStore:
    """Open the chain that an open database holds; see open_chain()."""
    change = genesis_state(genesis)
    if database.get(TIP_ROW) is None:
        database.write(_genesis_batch(genesis, change))
    return ChainStore(database, genesis, _checked_tip(database, genesis, change.state_root), check)


def _checked_tip(database: RowStore, genesis: Genesis, genesis_root: StateRoot) -> ChainTip:
    directory = database.directory
    if database.get(INSTALLING_ROW) is not None:
        raise _inconsistent(directory, "a snapshot was installed in part")
    stored = database.get(GENESIS_ROW)
    row_bytes = database.get(TIP_ROW)
    if stored is None or row_bytes is None:
        raise _inconsistent(directory, "genesis or tip is missing")
    found = genesis_hash(decode_genesis(stored))
    wanted = genesis_hash(genesis)
    if found != wanted:
        raise WrongChainError(
            f"{directory} holds another chain: its genesis is {found.hex()}, not {wanted.hex()}; "
            "give the right genesis, or another home"
        )
    row = decode(row_bytes, TipRow, bytes_max=TIP_BYTES_MAX)
    if root_of_tree(StoredState(database)) != row.state_root:
        raise _inconsistent(directory, "the state tree has another root than the tip")
    if row.height == 0:
        return genesis_tip(genesis, genesis_root)
    decided = read_block(database, row.height)
    if decided is None:
        raise _inconsistent(directory, f"block {row.height} is missing")
    if header_hash(decided.block.header) != row.block_hash:
        raise _inconsistent(directory, f"block {row.height} is not the tip's")
    return tip_at(decided, row.state_root, turns_at(database, row.height))


def _inconsistent(directory: Path, what: str) -> StorageError:
    return StorageError(
        f"{directory}: {what}; move it, signer and wal/log away and start again: the node fetches the chain from its"
        " peers and rejoins"
    )


def _genesis_batch(genesis: Genesis, change: StateChange) -> WriteBatch:
    batch = WriteBatch()
    batch.put(GENESIS_ROW, encode(genesis))
    stage_change(batch, change)
    _stage_tip(batch, genesis_tip(genesis, change.state_root))
    return batch


def _block_batch(decided: DecidedBlock, change: StateChange, tip: ChainTip) -> WriteBatch:
    batch = WriteBatch()
    batch.put(body_row(tip.height), encode(decided))
    stage_change(batch, change)
    _stage_tip(batch, tip)
    return batch


def _stage_tip(batch: WriteBatch, tip: ChainTip) -> None:
    stage_tip(batch, tip.height, tip.block_hash, tip.state_root)
    stage_turns(batch, tip.turns)
