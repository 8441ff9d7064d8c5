"""Sealed records by their address: off the chain, on every node, erasable.

Rows: `p` || address (32) -> sealed record (at most 16 KiB); `e` -> nothing, while erased records may be in some file.
An erased record's row is deleted with a flushed write, and compact() then takes its bytes off the disk, LevelDB's log
included: it rewrites the files around a few records, or all of them.
"""

from __future__ import annotations

import threading
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
_ERASED_ROW: Final = b"e"
ERASED_MAX: Final = 16
"""Taken off the disk one by one; addresses are random, so more lie in nearly all files anyway."""


class RecordStore:
    """The records of one node. Every method blocks and is thread-safe."""

    def __init__(self, place: Path | RowStore, options: LevelOptions | None = None) -> None:
        """Open a directory, creating it if absent, or use an open database; raises StoreUnavailableError."""
        self._database: RowStore = LevelDatabase(place, options) if isinstance(place, Path) else place
        self._lock = threading.Lock()
        self._erased: set[RecordAddress] = set()
        """Since the last compact(), at most ERASED_MAX + 1 of them; a crash leaves their number unknown."""
        self._is_marked = self._database.get(_ERASED_ROW) is not None
        self._is_unknown = self._is_marked

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
        if not addresses:
            return
        batch = WriteBatch()
        for address in addresses:
            batch.delete(_ROW + address)
        with self._lock:
            if not self._is_marked:
                batch.put(_ERASED_ROW, b"")
            self._database.write(batch)
            self._is_marked = True
            self._erased.update(addresses[: ERASED_MAX + 1])

    def rows(self) -> Iterator[tuple[RecordAddress, bytes]]:
        """Yield every record."""
        for store_key, sealed in self._database.iterate(_ROW):
            yield RecordAddress(store_key[len(_ROW) :]), sealed

    def compact(self) -> None:
        """Rewrite the files that hold records erased since the last call."""
        with self._lock:
            if not self._is_marked:
                return
            erased, self._erased = self._erased, set()
            is_unknown, self._is_unknown = self._is_unknown, True  # until it is done
        if is_unknown or len(erased) > ERASED_MAX:
            self._database.purge(_ROW, _AFTER_ROWS)
        else:
            for address in erased:
                # Both ends are no rows ever, even if the record has been written again.
                self._database.purge(_ROW + address[:-1], _ROW + address + b"\0")
        with self._lock:
            self._is_unknown = False
            if not self._erased:
                batch = WriteBatch()
                batch.delete(_ERASED_ROW)
                self._database.write(batch)
                self._is_marked = False

    def close(self) -> None:
        """Release the directory."""
        self._database.close()
