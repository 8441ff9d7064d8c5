r"""An auditor's walk: re-run a chain from genesis out of one file, trusting nothing else.

Export (docs/formats.md): magic, then the genesis and every decided block from height 1, each behind its length, then a
trailer. Every byte is covered: lengths and records decode strictly, genesis by its hash and by every signature made
under it, blocks by their parents, certificates and roots, the trailer by its count and its hash of all that is before.

    magic      18 bytes   "grandest-export-1\n"
    genesis    4 + g      length, canonical Genesis
    block      4 + b      length, canonical DecidedBlock; heights 1, 2, 3, ...
    trailer    4 + 8 + 32 zero, number of blocks, SHA-256 of everything before the trailer

The state root after the last block stands in no header yet: it is recomputed, and certified only by the next block.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Protocol

from consensus.blocks import BLOCK_BYTES_MAX, Block, DecidedBlock, header_hash
from consensus.certificates import bitmap_members
from consensus.chain import ChainTip, check_decided, genesis_tip, next_tip, rules_at
from consensus.encoding import check_second_opinion, decode
from consensus.errors import RejectionError, RejectionReason
from consensus.evidence import Evidence, fault_place
from consensus.genesis import GENESIS_BYTES_MAX, Genesis, decode_genesis, genesis_hash
from consensus.identifiers import GenesisHash, Height, MemberIndex, StateRoot
from consensus.signing import check_signature
from consensus.turns import Suspension, suspensions
from node.errors import NodeError
from storage.faults import check_new_faults
from storage.ledger import apply_block, check_transactions, context_after, genesis_state, ledger_context
from storage.state import TENANT_PREFIX, MemoryState, TenantState, decode_state

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from consensus.members import MemberSet
    from consensus.schedule import MemberSchedule
    from consensus.signing import SignatureCheck
    from storage.ledger import StateChange

MAGIC: Final = b"grandest-export-1\n"
DECIDED_BYTES_MAX: Final = BLOCK_BYTES_MAX + 1024 * 1024
"""A block with its certificate and 64 polkas of at most 64 signatures."""
LENGTH: Final = struct.Struct(">I")
TRAILER: Final = struct.Struct(">Q32s")
SIGNATURES_REMEMBERED: Final = 64
"""A certificate is met twice: behind its block and in the child's body; the second time costs nothing."""


class Reader(Protocol):
    """An open binary file."""

    def read(self, byte_count: int, /) -> bytes:
        """Return up to that many bytes."""
        ...


class Writer(Protocol):
    """A binary file to write to."""

    def write(self, piece: bytes, /) -> object:
        """Append bytes."""
        ...


class ReplayError(NodeError):
    """The first lie of an export: at which height, which rule, why."""

    def __init__(self, height: Height, rejection: RejectionError) -> None:
        super().__init__(f"height {height}: {rejection.reason.value}: {rejection.detail}")
        self.height = height
        self.rule = rejection.reason
        self.detail = rejection.detail


@dataclass(slots=True)
class ReplayReport:
    """What a replayed chain contains; the state root is the one after the block of this height."""

    genesis_hash: GenesisHash
    chain_id: str
    operators: tuple[str, ...]
    """Of every seat that ever was, by number."""
    height: Height
    state_root: StateRoot
    transactions: int = 0
    refused_transactions: int = 0
    objects: int = 0
    object_bytes: int = 0
    rounds_above_zero: int = 0
    signatures: Counter[MemberIndex] = field(default_factory=Counter["MemberIndex"])
    proposals: Counter[MemberIndex] = field(default_factory=Counter["MemberIndex"])
    faults: Counter[MemberIndex] = field(default_factory=Counter["MemberIndex"])
    suspended: dict[MemberIndex, Suspension] = field(default_factory=dict["MemberIndex", "Suspension"])
    """Who has no turns at the next height, and why."""


class _Ledger:
    """The application of a replay, in memory; implements consensus.chain.Application."""

    def __init__(self, genesis: Genesis) -> None:
        self.context = ledger_context(genesis)
        self.state = MemoryState()
        self.change = self._commit(genesis_state(genesis))

    @property
    def schedule(self) -> MemberSchedule:
        return self.context.schedule

    def check_transactions(self, transactions: Sequence[bytes]) -> None:
        check_transactions(self.context, transactions)

    def check_evidence(self, evidence: Sequence[Evidence]) -> None:
        check_new_faults(self.state, evidence)

    def apply(self, block: Block) -> StateRoot:
        self.change = self._commit(apply_block(self.context, self.state, block))
        return self.change.state_root

    def _commit(self, change: StateChange) -> StateChange:
        self.state.commit(change.values, change.pages)
        self.context = context_after(self.context, self.state, change)
        return change


def write_export(output: Writer, genesis: bytes, blocks: Iterable[bytes]) -> int:
    """Write an export and return the number of its blocks.

    Args:
        output: An open binary file.
        genesis: The encoded genesis.
        blocks: Encoded DecidedBlocks from height 1.
    """
    digest = hashlib.sha256()

    def put(piece: bytes) -> None:
        digest.update(piece)
        output.write(piece)

    put(MAGIC)
    put(LENGTH.pack(len(genesis)) + genesis)
    count = 0
    for block in blocks:
        put(LENGTH.pack(len(block)) + block)
        count += 1
    output.write(LENGTH.pack(0) + TRAILER.pack(count, digest.digest()))
    return count


def replay(
    export: Reader, pinned: GenesisHash | None, on_progress: Callable[[int], None] = lambda _bytes: None
) -> ReplayReport:
    """Re-run a chain from its export and return what it contains.

    Args:
        export: An open binary file.
        pinned: The genesis hash that the auditor knows from elsewhere; None checks the file against itself alone.
        on_progress: Called with the number of bytes read since the last call.

    Raises:
        ReplayError: The first lie.
    """
    pieces = _Pieces(export, on_progress)
    ledger, tip, report = _begin(pieces, pinned)
    # Certificates come twice (behind their block, in the child's body): a few remembered answers halve the work.
    check = lru_cache(SIGNATURES_REMEMBERED)(check_signature)
    for encoded in pieces.blocks():
        height = Height(tip.height + 1)
        try:
            decided = decode(encoded, DecidedBlock, bytes_max=DECIDED_BYTES_MAX)
            check_second_opinion(encoded)
            tip = _checked_tip(report.chain_id, ledger, tip, decided, check)
        except RejectionError as error:
            raise ReplayError(height, error) from error
        _count(report, decided, ledger)
    pieces.check_trailer(tip.height)
    report.height, report.state_root, report.suspended = tip.height, tip.state_root, suspensions(tip.turns)
    report.operators = tuple(seat.seat.operator for seat in ledger.context.membership.seats)
    _count_objects(report, ledger.state)
    return report


def find_fork(one: Reader, other: Reader) -> tuple[MemberSet, DecidedBlock, DecidedBlock] | None:
    """Return the members and the first two blocks of one height that differ between two exports of one chain.

    What both have in common is checked as in a replay: who forges the blocks before a fork could seat keys of its own
    under honest members' numbers, and have those accused.

    Raises:
        RejectionError: One is no export, they are of different chains, or what they have in common is no chain.
    """
    pieces, others = _Pieces(one, lambda _bytes: None), _Pieces(other, lambda _bytes: None)
    encoded_genesis = pieces.genesis()
    if others.genesis() != encoded_genesis:
        raise RejectionError(RejectionReason.WRONG_CHAIN, "the exports have different genesis records")
    genesis = decode_genesis(encoded_genesis)
    ledger = _Ledger(genesis)
    tip, check = genesis_tip(genesis, ledger.change.state_root), lru_cache(SIGNATURES_REMEMBERED)(check_signature)
    for mine, theirs in zip(pieces.blocks(), others.blocks(), strict=False):
        first, second = (decode(encoded, DecidedBlock, bytes_max=DECIDED_BYTES_MAX) for encoded in (mine, theirs))
        height = Height(tip.height + 1)
        if header_hash(first.block.header) != header_hash(second.block.header):
            return ledger.schedule.members_at(height), first, second
        try:
            tip = _checked_tip(genesis.chain_id, ledger, tip, first, check)
        except RejectionError as error:
            raise RejectionError(error.reason, f"height {height} of both: {error.detail}") from error
    return None


def _checked_tip(
    chain_id: str, ledger: _Ledger, tip: ChainTip, decided: DecidedBlock, check: SignatureCheck
) -> ChainTip:
    """Check a decided block in full, apply it, and return the tip after it; raises RejectionError."""
    check_decided(decided, tip, rules_at(chain_id, ledger.schedule, Height(tip.height + 1)), ledger, check)
    return next_tip(tip, decided, ledger.apply(decided.block), ledger.schedule)


def _begin(pieces: _Pieces, pinned: GenesisHash | None) -> tuple[_Ledger, ChainTip, ReplayReport]:
    try:
        genesis = decode_genesis(pieces.genesis())
        found = genesis_hash(genesis)
        _check_pin(found, pinned)
        ledger = _Ledger(genesis)
    except RejectionError as error:
        raise ReplayError(Height(0), error) from error
    tip = genesis_tip(genesis, ledger.change.state_root)
    report = ReplayReport(
        genesis_hash=found,
        chain_id=genesis.chain_id,
        operators=(),
        height=tip.height,
        state_root=tip.state_root,
    )
    return ledger, tip, report


def _check_pin(found: GenesisHash, pinned: GenesisHash | None) -> None:
    if pinned is not None and found != pinned:
        raise RejectionError(RejectionReason.BAD_GENESIS, f"genesis hash {found.hex()}, pinned {pinned.hex()}")


def _count(report: ReplayReport, decided: DecidedBlock, ledger: _Ledger) -> None:
    report.transactions += len(decided.block.transactions)
    report.refused_transactions += sum(outcome.reason is not None for outcome in ledger.change.outcomes)
    report.rounds_above_zero += decided.commit.round > 0
    report.signatures.update(bitmap_members(decided.commit.members))
    report.proposals[decided.block.header.proposer] += 1
    report.faults.update(fault_place(evidence)[1] for evidence in decided.block.evidence)


def _count_objects(report: ReplayReport, state: MemoryState) -> None:
    for state_key, value in state.values.items():
        if state_key.startswith(TENANT_PREFIX):
            tenant = decode_state(value, TenantState)
            report.objects += tenant.entry_count
            report.object_bytes += tenant.entry_bytes


class _Pieces:
    """Reads an export piece by piece; memory holds one piece."""

    def __init__(self, export: Reader, on_progress: Callable[[int], None]) -> None:
        self._export = export
        self._on_progress = on_progress
        self._digest = hashlib.sha256()
        self._height = Height(0)

    def genesis(self) -> bytes:
        """Return the encoded genesis."""
        if self._take(len(MAGIC)) != MAGIC:
            raise RejectionError(RejectionReason.MALFORMED, "this is no export of a chain")
        return self._piece(GENESIS_BYTES_MAX, self._take(LENGTH.size))

    def blocks(self) -> Iterator[bytes]:
        """Give the encoded blocks, up to the trailer."""
        while True:
            self._height = Height(self._height + 1)
            try:
                length = self._read(LENGTH.size)
                if length == bytes(LENGTH.size):
                    return
                self._digest.update(length)
                piece = self._piece(DECIDED_BYTES_MAX, length)
            except RejectionError as error:
                raise ReplayError(self._height, error) from error
            yield piece

    def check_trailer(self, tip_height: Height) -> None:
        """Verify the number of blocks, the hash of everything, and that nothing follows."""
        try:
            self._check_trailer(tip_height)
        except RejectionError as error:
            raise ReplayError(tip_height, error) from error

    def _check_trailer(self, tip_height: Height) -> None:
        count, digest = TRAILER.unpack(self._read(TRAILER.size))
        if count != tip_height:
            raise RejectionError(RejectionReason.MALFORMED, f"the trailer counts {count} blocks, here {tip_height}")
        if digest != self._digest.digest():
            raise RejectionError(RejectionReason.MALFORMED, "the trailer's hash is of other bytes")
        if self._export.read(1):
            raise RejectionError(RejectionReason.MALFORMED, "bytes after the trailer")

    def _piece(self, bytes_max: int, length: bytes) -> bytes:
        (byte_count,) = LENGTH.unpack(length)
        if byte_count > bytes_max:
            raise RejectionError(RejectionReason.OVERSIZED, f"{byte_count} bytes, at most {bytes_max}")
        return self._take(byte_count)

    def _take(self, byte_count: int) -> bytes:
        piece = self._read(byte_count)
        self._digest.update(piece)
        return piece

    def _read(self, byte_count: int) -> bytes:
        piece = self._export.read(byte_count)
        if len(piece) < byte_count:
            raise RejectionError(RejectionReason.MALFORMED, "the file ends too early")
        self._on_progress(byte_count)
        return piece
