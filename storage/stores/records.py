"""Sealed records by their address: off the chain, on every node, erasable.

Row: `p` || address (32) -> sealed record (at most 16 KiB). An erased record's row is deleted with a flushed write, and
compact() then takes its bytes off the disk, LevelDB's log included: all files are rewritten.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from consensus.errors import RejectionError, RejectionReason
from storage.identifiers import RecordAddress
from storage.records import RECORD_BYTES_MAX
from storage.stores.leveldb import LevelDatabase, LevelOptions, WriteBatch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from storage.stores.protocols import RowStore

_ROW: Final = b"p"
_AFTER_ROWS: Final = b"q"


class RecordStore:
    """The records of one node. Every method blocks and is thread-safe."""

    def __init__(self, place: Path | RowStore, options: LevelOptions | None = None) -> None:
        """Open a directory, creating it if absent, or use an open database; raises StoreUnavailableError."""
        self._database: RowStore = LevelDatabase(place, options) if isinstance(place, Path) else place

    def write(self, records: Mapping[RecordAddress, bytes]) -> None:
        """Keep records durably; their addresses were checked by who calls.

        Raises:
            RejectionError: OVERSIZED.
            StoreUnavailableError: The disk refused.
        """
        batch = WriteBatch()
        for address, sealed in records.items():
            if not 1 <= len(sealed) <= RECORD_BYTES_MAX:
                raise RejectionError(RejectionReason.OVERSIZED, f"record of {len(sealed)} bytes")
            batch.put(_ROW + address, sealed)
        if batch.operations:
            self._database.write(batch)

    def read(self, addresses: Sequence[RecordAddress]) -> dict[RecordAddress, bytes]:
        """Return those of the records that are here."""
        found = ((address, self._database.get(_ROW + address)) for address in addresses)
        return {address: sealed for address, sealed in found if sealed is not None}

    def missing(self, addresses: Sequence[RecordAddress]) -> tuple[RecordAddress, ...]:
        """Return those of the addresses whose records are not here."""
        return tuple(address for address in addresses if self._database.get(_ROW + address) is None)

    def erase(self, addresses: Sequence[RecordAddress]) -> None:
        """Forget records: never read again; their bytes leave the disk with compact()."""
        batch = WriteBatch()
        for address in addresses:
            batch.delete(_ROW + address)
        if batch.operations:
            self._database.write(batch)

    def rows(self) -> Iterator[tuple[RecordAddress, bytes]]:
        """Yield every record."""
        for store_key, sealed in self._database.iterate(_ROW):
            yield RecordAddress(store_key[len(_ROW) :]), sealed

    def compact(self) -> None:
        """Rewrite the files without erased records."""
        self._database.purge(_ROW, _AFTER_ROWS)

    def close(self) -> None:
        """Release the directory."""
        self._database.close()
