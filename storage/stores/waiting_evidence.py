"""Evidence that waits for a block, on disk until one holds it: a restart loses none.

    "v" state key of the fault     <encoded Evidence>

At most WAITING_MAX rows; the caller sees to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from consensus.encoding import Record, decode, encode
from consensus.evidence import Evidence
from storage.faults import fault_key
from storage.stores.leveldb import WriteBatch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from storage.stores.protocols import RowStore

WAITING_ROWS: Final = b"v"
WAITING_MAX: Final = 16
"""As much as one block takes."""
EVIDENCE_BYTES_MAX: Final = 1_024
"""Two signed messages of at most 180 bytes each, with room."""


class WaitingEvidence(Record):
    """A row's value."""

    evidence: Evidence


def write_waiting(database: RowStore, evidence: Evidence) -> None:
    """Keep evidence durably; blocks."""
    batch = WriteBatch()
    batch.put(WAITING_ROWS + fault_key(evidence), encode(WaitingEvidence(evidence=evidence)))
    database.write(batch)


def read_waiting(database: RowStore) -> tuple[Evidence, ...]:
    """Return what waits."""
    rows = database.scan(WAITING_ROWS, rows_max=WAITING_MAX)
    return tuple(decode(encoded, WaitingEvidence, bytes_max=EVIDENCE_BYTES_MAX).evidence for _, encoded in rows)


def stage_committed(batch: WriteBatch, evidence: Iterable[Evidence]) -> None:
    """Let go what a block holds, together with the block."""
    for proof in evidence:
        batch.delete(WAITING_ROWS + fault_key(proof))
