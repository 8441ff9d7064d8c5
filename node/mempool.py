"""Transactions that wait for a block, with the off-chain records they reference; bounded, deduplicated, in order.

Admission is the caller's second step: `check` (the ledger's cheap rules) ran before add(). Bounds: MEMPOOL_BYTES_MAX
over all, SENDER_COUNT_MAX a sender (as many as the ledger keeps sequences for), so that one sender cannot fill it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from consensus.blocks import BLOCK_BYTES_MAX, TRANSACTIONS_MAX
from consensus.errors import RejectionError, RejectionReason
from consensus.messages import RECORDS_MAX
from storage.audits import PatientDuty
from storage.transactions import SEQUENCES_KEPT, decode_transaction, transaction_id

if TYPE_CHECKING:
    from collections.abc import Iterable

    from consensus.identifiers import Height, PublicKey, TransactionId

MEMPOOL_BYTES_MAX: Final = 64 * 1024 * 1024
"""Sixteen full blocks."""
SENDER_COUNT_MAX: Final = SEQUENCES_KEPT
RECENT_MAX: Final = 8_192
"""Ids of transactions that were committed lately, so that a late copy is not taken again."""
BLOCK_PAYLOAD_BYTES_MAX: Final = BLOCK_BYTES_MAX - 256 * 1024
"""A block's transactions and records; the rest is for header, certificate and evidence."""
ITEM_OVERHEAD_BYTES: Final = 8
"""What a transaction or a record costs beside its bytes."""


class Pending(Struct, frozen=True, kw_only=True):
    """One waiting transaction."""

    transaction_id: TransactionId
    transaction: bytes
    records: tuple[bytes, ...]
    sender: PublicKey
    sequence: int
    valid_until_height: Height
    byte_count: int
    is_patient: bool = False
    """Whether it waits for a block that is made anyway (rule A68)."""


def pending_of(transaction: bytes, records: tuple[bytes, ...]) -> Pending:
    """Read a transaction's envelope; raises RejectionError if it is malformed."""
    envelope = decode_transaction(transaction).envelope
    is_patient = isinstance(envelope.body, PatientDuty)
    byte_count = sum(len(part) + ITEM_OVERHEAD_BYTES for part in (transaction, *records))
    if byte_count > BLOCK_PAYLOAD_BYTES_MAX:
        raise RejectionError(RejectionReason.OVERSIZED, f"{byte_count} bytes with its records do not fit a block")
    return Pending(
        transaction_id=transaction_id(transaction),
        transaction=transaction,
        records=records,
        sender=envelope.sender,
        sequence=envelope.sequence,
        valid_until_height=envelope.valid_until_height,
        byte_count=byte_count,
        is_patient=is_patient,
    )


class Mempool:
    """The waiting transactions of one node."""

    __slots__ = ("_by_id", "_byte_count", "_count_by_sender", "_patient_count", "_recent")

    def __init__(self) -> None:
        self._by_id: dict[TransactionId, Pending] = {}
        self._recent: dict[TransactionId, None] = {}
        self._count_by_sender: Counter[PublicKey] = Counter()
        self._byte_count = 0
        self._patient_count = 0

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def has_urgent(self) -> bool:
        """Whether something waits that is a reason for a block at once."""
        return self._patient_count < len(self._by_id)

    @property
    def byte_count(self) -> int:
        """Bytes of everything that waits."""
        return self._byte_count

    def is_known(self, wanted: TransactionId) -> bool:
        """Say whether a transaction waits or was committed lately."""
        return wanted in self._by_id or wanted in self._recent

    def get(self, wanted: TransactionId) -> Pending | None:
        """Return a waiting transaction."""
        return self._by_id.get(wanted)

    def add(self, pending: Pending, tip_height: Height) -> None:
        """Let a checked transaction wait.

        Raises:
            RejectionError: DUPLICATE_TRANSACTION, TOO_LATE (expired), QUEUE_FULL (bytes, or this sender's share).
        """
        if self.is_known(pending.transaction_id):
            raise RejectionError(RejectionReason.DUPLICATE_TRANSACTION, "this transaction is known already")
        if pending.valid_until_height <= tip_height:
            detail = f"valid until height {pending.valid_until_height}, the chain is at {tip_height}"
            raise RejectionError(RejectionReason.TOO_LATE, detail)
        if self._count_by_sender[pending.sender] >= SENDER_COUNT_MAX:
            raise RejectionError(RejectionReason.QUEUE_FULL, f"{SENDER_COUNT_MAX} transactions of this sender wait")
        if self._byte_count + pending.byte_count > MEMPOOL_BYTES_MAX:
            raise RejectionError(RejectionReason.QUEUE_FULL, f"{self._byte_count} bytes wait already")
        self._by_id[pending.transaction_id] = pending
        self._count_by_sender[pending.sender] += 1
        self._byte_count += pending.byte_count
        self._patient_count += pending.is_patient

    def take(self) -> tuple[Pending, ...]:
        """Return what fits one block, oldest first; it stays until it is removed as committed."""
        taken: list[Pending] = []
        free_bytes, record_count = BLOCK_PAYLOAD_BYTES_MAX, 0
        for pending in self._by_id.values():
            if len(taken) == TRANSACTIONS_MAX:
                break
            if pending.byte_count > free_bytes or record_count + len(pending.records) > RECORDS_MAX:
                continue
            free_bytes -= pending.byte_count
            record_count += len(pending.records)
            taken.append(pending)
        return tuple(taken)

    def waiting(self) -> tuple[Pending, ...]:
        """Return everything, oldest first."""
        return tuple(self._by_id.values())

    def committed(self, transaction_ids: Iterable[TransactionId], tip_height: Height) -> None:
        """Drop what a block carried and what can no longer be carried by the next."""
        for committed in transaction_ids:
            self._drop(committed)
            self._recent[committed] = None
        expired = [known for known, pending in self._by_id.items() if pending.valid_until_height <= tip_height]
        for known in expired:
            self._drop(known)
        while len(self._recent) > RECENT_MAX:
            del self._recent[next(iter(self._recent))]

    def drop(self, transaction_ids: Iterable[TransactionId]) -> None:
        """Forget transactions that can stand in no block."""
        for wanted in transaction_ids:
            self._drop(wanted)

    def _drop(self, wanted: TransactionId) -> None:
        pending = self._by_id.pop(wanted, None)
        if pending is None:
            return
        self._byte_count -= pending.byte_count
        self._patient_count -= pending.is_patient
        self._count_by_sender[pending.sender] -= 1
        if not self._count_by_sender[pending.sender]:
            del self._count_by_sender[pending.sender]
