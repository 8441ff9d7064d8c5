"""LevelDB, and the only importer of plyvel: every database of a node is opened, written and read through here.

Promises (rules D20 to D25; each defect named was met in LevelDB 1.22):

1. A write that returned with Durability.FLUSHED survives a power cut.
2. After any failed write the database is closed, and reopened before the next write: a LevelDB that has failed once
   acknowledges later writes and loses them. A refused write may still be present afterwards: refused means unknown.
3. A failed flush (EIO) raises FatalStoreError: the process must stop. A full disk raises StoreFullError and heals.
4. Tenants' writes are refused while less than the reserve is free; writes of consensus may use the reserve.
5. Reads verify LevelDB's checksums unless the caller has a hash of its own (get_unverified).
6. No read runs while the database is being closed: readers are counted.

Every method is thread-safe, and blocks: call it from a worker thread.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, Self

import plyvel

from consensus.identifiers import Buffer
from storage.errors import FatalStoreError, StoreDamagedError, StoreFullError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path
    from types import TracebackType

MIB: Final = 1024 * 1024
BATCH_BYTES_MAX: Final = 64 * MIB
"""A write batch lives in memory twice; a block of 4 MiB changes far less than this."""
SCAN_ROWS_MAX: Final = 10_000
"""One scan returns at most this many rows; iterate() asks again."""
ITERATE_ROWS: Final = 512
RESERVE_BYTES_DEFAULT: Final = 64 * MIB
"""Kept free for consensus: some hours of blocks and logs at the usual rate."""


class Durability(Enum):
    """Whether a write has reached the disk when it returns."""

    FLUSHED = "flushed"
    BUFFERED = "buffered"


class WritePurpose(Enum):
    """Whose write it is: consensus may use the last free bytes of the disk, tenants may not."""

    CONSENSUS = "consensus"
    TENANT = "tenant"


class DamageRule(Enum):
    """What LevelDB does with a block whose checksum is wrong."""

    REFUSE = "refuse"
    """Stop: for rows that nobody else can check or replace. One flipped bit stops compaction, hence writes."""
    KEEP_GOING = "keep going"
    """Pass it on: for rows that their reader hashes and can rebuild from others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelOptions:
    """How a database is tuned; the defaults are those measured for stores of units."""

    write_buffer_bytes: int = 8 * MIB
    """Larger buffers flush together on nine nodes of one machine and stall."""
    cache_bytes: int = 8 * MIB
    file_bytes: int = 8 * MIB
    open_files_max: int = 256
    bloom_bits: int = 10
    compression: str | None = None
    """Ciphertext does not compress."""
    reserve_bytes: int = RESERVE_BYTES_DEFAULT
    damage_rule: DamageRule = DamageRule.REFUSE


@dataclass(slots=True)
class WriteBatch:
    """Puts and deletes applied together or not at all, in order."""

    operations: list[tuple[bytes, Buffer | None]] = field(default_factory=list[tuple[bytes, Buffer | None]])
    byte_count: int = 0

    def put(self, store_key: bytes, value: Buffer) -> None:
        """Set a row. The value must not change until the batch is written."""
        self.operations.append((store_key, value))
        self.byte_count += len(store_key) + memoryview(value).nbytes

    def delete(self, store_key: bytes) -> None:
        """Remove a row; removing an absent row is allowed."""
        self.operations.append((store_key, None))
        self.byte_count += len(store_key)


class LevelDatabase:
    """One open database; its directory is locked by this process until close()."""

    def __init__(self, directory: Path, options: LevelOptions | None = None) -> None:
        """Open the database, creating it if absent.

        Raises:
            StoreUnavailableError: Locked by another process, damaged, or the disk refuses.
        """
        self._directory = directory
        self._options = options or LevelOptions()
        self._write_lock = threading.Lock()
        self._gate = threading.Condition(threading.Lock())
        self._reader_count = 0
        self._closing = False
        self._closed_for_good = False
        directory.mkdir(parents=True, exist_ok=True)
        self._database: plyvel.DB | None = self._open()

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
        """Where it lies."""
        return self._directory

    def get(self, store_key: bytes) -> bytes | None:
        """Return a row's value, verified by LevelDB's checksum, or None.

        Raises:
            StoreUnavailableError: The disk refuses, or the stored block is damaged.
        """
        database = self._enter_read()
        try:
            return database.get(store_key, verify_checksums=True)
        except (plyvel.Error, OSError) as error:
            raise _read_error(self._directory, error) from error
        finally:
            self._leave_read()

    def get_unverified(self, store_key: bytes) -> bytes | None:
        """Return a row's value without a checksum; only for callers who hash it themselves."""
        database = self._enter_read()
        try:
            return database.get(store_key)
        except (plyvel.Error, OSError) as error:
            raise _read_error(self._directory, error) from error
        finally:
            self._leave_read()

    def run_unverified(self, first: bytes, last: bytes) -> list[bytes]:
        """Return the values of all rows from `first` to `last`, without checksums; for callers who check themselves.

        A run of neighbours costs half of reading them one by one.
        """
        with self._reading() as database:
            rows = database.iterator(start=first, stop=last, include_stop=True)
            try:
                return [row for _, row in rows]
            finally:
                rows.close()

    def scan(self, prefix: bytes, *, start: bytes | None = None, rows_max: int) -> list[tuple[bytes, bytes]]:
        """Return up to rows_max rows whose store key has the prefix, in order, from `start` (inclusive)."""
        assert 0 < rows_max <= SCAN_ROWS_MAX, rows_max
        with self._reading() as database:
            rows = database.iterator(start=start or prefix, stop=prefix_stop(prefix), verify_checksums=True)
            return _take(rows, rows_max)

    def store_keys(self, start: bytes, stop: bytes, rows_max: int) -> list[bytes]:
        """Return up to rows_max store keys from `start` (inclusive) to `stop` (exclusive), in order."""
        with self._reading() as database:
            return [row[0] for row in _take(database.iterator(start=start, stop=stop), rows_max)]

    def iterate(self, prefix: bytes = b"", *, start: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Yield every row with the prefix, in order, page by page, from `start` (inclusive).

        Rows written meanwhile may or may not appear.
        """
        position = start or prefix
        while rows := self.scan(prefix, start=position, rows_max=ITERATE_ROWS):
            yield from rows
            position = rows[-1][0] + b"\0"

    def last_store_key(self) -> bytes | None:
        """Return the greatest store key of all, without checking its block; None when there is no row."""
        with self._reading() as database:
            return next((row[0] for row in _take(database.iterator(reverse=True), 1)), None)

    @contextmanager
    def snapshot(self) -> Generator[LevelSnapshot]:
        """Give a view that later writes do not change. Hold it briefly: closing the database waits for it."""
        with self._reading() as database:
            view = database.snapshot()
            try:
                yield LevelSnapshot(view)
            finally:
                view.close()

    def write(
        self,
        batch: WriteBatch,
        *,
        purpose: WritePurpose = WritePurpose.CONSENSUS,
        durability: Durability = Durability.FLUSHED,
    ) -> None:
        """Apply a batch atomically.

        Raises:
            StoreFullError: No space left, or a tenant's write would eat into the reserve. Nothing was written in the
                second case; in the first the outcome is unknown.
            FatalStoreError: The flush failed; stop the process.
            StoreUnavailableError: Any other refusal; the outcome is unknown.
        """
        assert batch.byte_count <= BATCH_BYTES_MAX, batch.byte_count
        with self._write_lock:
            if purpose is WritePurpose.TENANT:
                require_free_bytes(self._directory, self._options.reserve_bytes + batch.byte_count)
            database = self._writable()
            try:
                _apply(database, batch, durability)
            except (plyvel.Error, OSError, MemoryError) as error:
                self._abandon()
                raise _write_error(error) from error

    def compact(self, start: bytes | None = None, stop: bytes | None = None) -> None:
        """Give the space of deleted rows between the two store keys back to the disk."""
        with self._reading() as database:
            database.compact_range(start=start, stop=stop)

    def purge(self, first: bytes, last: bytes) -> None:
        """Take the bytes of deleted rows between two store keys, both included, off the disk.

        Compacting once is not enough: rows and their tombstones that leave memory together land in a file that no
        compaction of the range touches. Fresh tombstones at both ends, above that file, force it to be rewritten.
        Rows at `first` and `last` must be deleted already, or never have been.
        """
        assert self.get_unverified(first) is None, "purged from a living row"
        assert self.get_unverified(last) is None, "purged to a living row"
        stop = last + b"\0"
        self.compact(first, stop)
        tombstones = WriteBatch()
        tombstones.delete(first)
        tombstones.delete(last)
        self.write(tombstones, durability=Durability.BUFFERED)
        self.compact(first, stop)

    def close(self) -> None:
        """Wait for running reads and release the directory; closing twice is allowed."""
        with self._write_lock:
            self._closed_for_good = True
            self._abandon()

    def _open(self) -> plyvel.DB:
        options = self._options
        try:
            return plyvel.DB(
                str(self._directory),
                create_if_missing=True,
                paranoid_checks=options.damage_rule is DamageRule.REFUSE,
                write_buffer_size=options.write_buffer_bytes,
                lru_cache_size=options.cache_bytes,
                max_file_size=options.file_bytes,
                max_open_files=options.open_files_max,
                bloom_filter_bits=options.bloom_bits,
                compression=options.compression,
            )
        except (plyvel.Error, OSError) as error:
            raise _open_error(self._directory, error) from error

    def _writable(self) -> plyvel.DB:
        """Return the database, reopened if a failed write closed it. The caller holds the write lock."""
        if self._closed_for_good:
            raise StoreUnavailableError(f"{self._directory} is closed")
        if self._database is None:
            reopened = self._open()
            with self._gate:
                self._database = reopened
        return self._database

    def _abandon(self) -> None:
        """Close after the last reader; the caller holds the write lock."""
        with self._gate:
            self._closing = True
            self._gate.wait_for(lambda: self._reader_count == 0)
            database, self._database = self._database, None
            self._closing = False
            self._gate.notify_all()
        if database is not None:
            database.close()

    @contextmanager
    def _reading(self) -> Generator[plyvel.DB]:
        """Give the database to several reads; get() does the same by hand, since a block of 64 reads 300 rows."""
        database = self._enter_read()
        try:
            yield database
        except (plyvel.Error, OSError) as error:
            raise _read_error(self._directory, error) from error
        finally:
            self._leave_read()

    def _enter_read(self) -> plyvel.DB:
        while True:
            with self._gate:
                while self._closing:
                    self._gate.wait()
                if self._database is not None:
                    self._reader_count += 1
                    return self._database
            with self._write_lock:  # a failed write closed it: reopen, then count ourselves
                self._writable()

    def _leave_read(self) -> None:
        with self._gate:
            self._reader_count -= 1
            if self._closing:
                self._gate.notify_all()


class LevelSnapshot:
    """A view of one moment of a database."""

    def __init__(self, view: plyvel.Snapshot) -> None:
        self._view = view

    def get(self, store_key: bytes) -> bytes | None:
        """Return a row's value as it was, or None."""
        return self._view.get(store_key, verify_checksums=True)

    def scan(self, prefix: bytes, *, start: bytes | None = None, rows_max: int) -> list[tuple[bytes, bytes]]:
        """Return up to rows_max rows with the prefix as they were, in order, from `start` (inclusive)."""
        assert 0 < rows_max <= SCAN_ROWS_MAX, rows_max
        rows = self._view.iterator(start=start or prefix, stop=prefix_stop(prefix), verify_checksums=True)
        return _take(rows, rows_max)


def prefix_stop(prefix: bytes) -> bytes | None:
    """Return the first store key after all those with the prefix, or None if there is none."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else None


def free_bytes(directory: Path) -> int:
    """Return what an unprivileged process may still write to the disk of a directory."""
    usage = os.statvfs(directory)
    return usage.f_bavail * usage.f_frsize


def require_free_bytes(directory: Path, needed_bytes: int) -> None:
    """Raise StoreFullError if less than needed_bytes is free on the disk of a directory."""
    available = free_bytes(directory)
    if available < needed_bytes:
        raise StoreFullError(f"{available} bytes free on the disk of {directory}, {needed_bytes} kept in reserve")


def _apply(database: plyvel.DB, batch: WriteBatch, durability: Durability) -> None:
    rows = database.write_batch(sync=durability is Durability.FLUSHED)
    for store_key, value in batch.operations:
        if value is None:
            rows.delete(store_key)
        else:
            rows.put(store_key, value)
    rows.write()


def _take(rows: plyvel.RawIterator, rows_max: int) -> list[tuple[bytes, bytes]]:
    try:
        return [row for row, _ in zip(rows, range(rows_max), strict=False)]
    finally:
        rows.close()


def _write_error(error: BaseException) -> StoreUnavailableError:
    """Classify by LevelDB's text: it drops errno (env_posix.cc, PosixError)."""
    text = _text(error)
    if "No space left" in text or "quota exceeded" in text:
        return StoreFullError(f"write refused: {text}")
    if "Input/output error" in text or "Read-only file system" in text:
        return FatalStoreError(f"the disk failed to make a write durable: {text}")
    return StoreUnavailableError(f"write refused: {text}")


def _open_error(directory: Path, error: BaseException) -> StoreUnavailableError:
    text = _text(error)
    if "No space left" in text:
        return StoreFullError(f"{directory}: {text}")
    if "lock" in text.lower() and "temporarily unavailable" in text.lower():
        return StoreUnavailableError(f"{directory} is in use by another process")
    kind = StoreDamagedError if isinstance(error, plyvel.CorruptionError) else StoreUnavailableError
    return kind(f"{directory} cannot be opened: {text}")


def _read_error(directory: Path, error: BaseException) -> StoreUnavailableError:
    """Classify: LevelDB says "Invalid argument" of what lies behind the end of a file that was cut."""
    text = _text(error)
    is_damage = isinstance(error, plyvel.CorruptionError) or "Invalid argument" in text
    kind = StoreDamagedError if is_damage else StoreUnavailableError
    return kind(f"{directory}: read refused: {text}")


def _text(error: BaseException) -> str:
    """Return what LevelDB says; plyvel hands its bytes on."""
    said = error.args[0] if error.args else ""
    return said.decode(errors="replace") if isinstance(said, bytes) else str(error)
