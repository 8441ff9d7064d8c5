"""A disk that fails as disks do: unflushed writes are lost or torn in a power cut, writes and flushes are refused.

Model, per file: what processes see (the page cache), what is durable, and the changes between the two in order. A power
cut makes a prefix of them durable, the next one perhaps in part. The end of a process alone loses
nothing of the page cache. Rows (LevelDB): a batch is atomic and durable once write() returns; refused, it may be there.
"""

from __future__ import annotations

import errno
import os
from bisect import bisect_left, insort
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from storage.errors import FatalStoreError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from random import Random

    from storage.stores.leveldb import WriteBatch


class ProcessEndError(BaseException):
    """The process ends here; no code of a node may catch it."""


class PowerCutError(ProcessEndError):
    """The machine stops here, and the process with it."""


class Trap(Enum):
    """What goes wrong at one of the next operations."""

    POWER_CUT = "power cut"
    KILL = "kill"
    WRITE_FAILS = "write fails"
    FLUSH_FAILS = "flush fails"
    DISK_FULL = "disk full"


@dataclass(slots=True)
class _Change:
    """A write at an offset, or with None as content the new length."""

    offset: int
    content: bytes | None


@dataclass(slots=True)
class _Contents:
    seen: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    unflushed: list[_Change] = field(default_factory=list[_Change])

    def change(self, change: _Change) -> None:
        self.unflushed.append(change)
        _apply(self.seen, change)

    def flush(self) -> None:
        self.unflushed.clear()
        self.durable = bytes(self.seen)

    def lose(self, rng: Random) -> None:
        """Keep a prefix of what was not flushed, the next change perhaps in part."""
        if not self.unflushed:
            return
        kept = rng.randrange(len(self.unflushed) + 1)
        content = bytearray(self.durable)
        for change in self.unflushed[:kept]:
            _apply(content, change)
        torn = self.unflushed[kept] if kept < len(self.unflushed) else None
        if torn is not None and torn.content is not None:
            _apply(content, _Change(torn.offset, _torn(torn.content, rng)))
        self.seen = content
        self.flush()


def _torn(content: bytes, rng: Random) -> bytes:
    """Return what is left of a write that was under way: its beginning, and zeros where the file had grown already."""
    kept = rng.randrange(len(content) + 1)
    grown = rng.choice((0, len(content) - kept, rng.randrange(len(content) - kept + 1)))
    return content[:kept] + bytes(grown)


def _apply(content: bytearray, change: _Change) -> None:
    if change.content is None:
        del content[change.offset :]
        return
    content.extend(bytes(max(0, change.offset - len(content))))
    content[change.offset : change.offset + len(change.content)] = change.content


class SimulatedDisk:
    """The disk of one node: implements node.disk.Disk, and holds its rows."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._files: dict[Path, _Contents] = {}
        self._trap: Trap | None = None
        self._countdown = 0
        self._refused = False
        self.passed: Counter[Trap] = Counter()
        """At how many operations each trap could have sprung."""
        self.chain = SimulatedRows(self, Path("chain"))
        self.records = SimulatedRows(self, Path("records"))

    def arm(self, trap: Trap, countdown: int) -> None:
        """Have an operation that the trap fits fail, after this many others."""
        self._trap, self._countdown = trap, countdown

    def disarm(self) -> None:
        """Let nothing fail from now on."""
        self._trap = None

    def lose_power(self) -> None:
        """Lose what was not flushed, or some of it."""
        for contents in self._files.values():
            contents.lose(self._rng)

    def wipe(self, path: Path) -> None:
        """Lose a file."""
        self._files.pop(path, None)

    def copy(self) -> SimulatedDisk:
        """Return a disk with the files that processes see here; nothing fails on it."""
        scratch = SimulatedDisk(self._rng)
        for path, contents in self._files.items():
            scratch._files[path] = _Contents(bytearray(contents.seen), bytes(contents.seen))
        return scratch

    def backup(self) -> SimulatedDisk:
        """Return a copy of everything, rows included."""
        copied = self.copy()
        for rows, source in ((copied.chain, self.chain), (copied.records, self.records)):
            rows.take_all(source)
        return copied

    def refused_lately(self) -> bool:
        """Say whether it refused something since this was last asked."""
        refused, self._refused = self._refused, False
        return refused

    def exists(self, path: Path) -> bool:
        """Say whether there is a file."""
        return path in self._files

    def open(self, path: Path) -> SimulatedFile:
        """Open a file that is there."""
        if path not in self._files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return SimulatedFile(self, self._files[path])

    def open_or_create(self, path: Path) -> SimulatedFile:
        """Open a file, durably made if there is none."""
        return SimulatedFile(self, self._files.setdefault(path, _Contents()))

    def replace(self, path: Path, content: bytes) -> None:
        """Give a file new content; a power cut leaves the old or the new."""
        self.refuse(Trap.WRITE_FAILS, Trap.DISK_FULL, Trap.FLUSH_FAILS)
        end = self.process_end()
        if end is None or self.toss():
            self._files[path] = _Contents(bytearray(content), content)
        if end is not None:
            raise end

    def springs(self, *traps: Trap) -> bool:
        """Count an operation, and say whether one of these traps springs at it."""
        for trap in traps:
            self.passed[trap] += 1
        if self._trap not in traps:
            return False
        self._countdown -= 1
        if self._countdown > 0:
            return False
        self._trap = None
        self._refused = True
        return True

    def refuse(self, *traps: Trap) -> None:
        """Raise OSError if one of these traps springs."""
        if self.springs(*traps):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def process_end(self) -> ProcessEndError | None:
        """Return what ends the process at this operation, None if nothing does."""
        if self.springs(Trap.POWER_CUT):
            return PowerCutError()
        return ProcessEndError() if self.springs(Trap.KILL) else None

    def may_end_process(self) -> None:
        """Raise what ends the process at this operation."""
        end = self.process_end()
        if end is not None:
            raise end

    def toss(self) -> bool:
        """Decide what nobody can know."""
        return self._rng.random() < 1 / 2

    def lose_pages(self, contents: _Contents) -> None:
        """Lose of one file what was not flushed, or some of it."""
        contents.lose(self._rng)

    def part_of(self, byte_count: int) -> int:
        """Return how much of a write a nearly full disk takes."""
        return self._rng.randrange(byte_count)


@dataclass(slots=True)
class SimulatedFile:
    """Implements node.disk.DiskFile."""

    disk: SimulatedDisk
    contents: _Contents

    def byte_count(self) -> int:
        """Return how long it is."""
        return len(self.contents.seen)

    def read(self, byte_count: int) -> bytes:
        """Return its first bytes."""
        return bytes(self.contents.seen[:byte_count])

    def write(self, content: bytes | bytearray, offset: int) -> int:
        """Write at an offset."""
        if not content:
            return 0
        self.disk.refuse(Trap.WRITE_FAILS)
        taken = self.disk.part_of(len(content)) if self.disk.springs(Trap.DISK_FULL) else len(content)
        self.contents.change(_Change(offset, bytes(content[:taken])))
        self.disk.may_end_process()
        return taken

    def flush(self) -> None:
        """Make what was written durable."""
        self.disk.may_end_process()
        if self.disk.springs(Trap.FLUSH_FAILS):
            # The kernel forgets that these pages were dirty: they may be gone.
            self.disk.lose_pages(self.contents)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.contents.flush()

    def cut(self, byte_count: int) -> None:
        """Make it this long."""
        if byte_count < len(self.contents.seen):
            self.contents.change(_Change(byte_count, None))
        self.disk.may_end_process()

    def close(self) -> None:
        """Nothing is lost by it."""


@dataclass(slots=True)
class SimulatedRows:
    """Implements RowStore."""

    disk: SimulatedDisk
    directory: Path
    _rows: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    _order: list[bytes] = field(default_factory=list[bytes])
    """Its store keys, ascending."""

    def get(self, store_key: bytes) -> bytes | None:
        """Return a row's value."""
        return self._rows.get(store_key)

    def scan(self, prefix: bytes, *, start: bytes | None = None, rows_max: int) -> list[tuple[bytes, bytes]]:
        """Return rows in order."""
        first = bisect_left(self._order, max(start or prefix, prefix))
        found = takewhile(lambda store_key: store_key.startswith(prefix), islice(self._order, first, None))
        return [(store_key, self._rows[store_key]) for store_key in islice(found, rows_max)]

    def iterate(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yield rows in order."""
        yield from self.scan(prefix, rows_max=len(self._rows))

    def write(self, batch: WriteBatch) -> None:
        """Apply a batch: all of it or nothing."""
        end = self.disk.process_end()
        is_refused = end is None and self.disk.springs(Trap.WRITE_FAILS, Trap.FLUSH_FAILS, Trap.DISK_FULL)
        if not (end is not None or is_refused) or self.disk.toss():
            for store_key, value in batch.operations:
                self._set(store_key, value)
        if end is not None:
            raise end
        if is_refused:
            raise FatalStoreError(f"{self.directory}: the disk failed to make a write durable")

    @contextmanager
    def snapshot(self) -> Generator[SimulatedRows]:
        """Give the rows as they are now."""
        yield SimulatedRows(disk=self.disk, directory=self.directory, _rows=dict(self._rows), _order=list(self._order))

    def take_all(self, source: SimulatedRows) -> None:
        """Hold what another holds."""
        for store_key, value in source.iterate():
            self._set(store_key, value)

    def _set(self, store_key: bytes, value: bytes | bytearray | memoryview | None) -> None:
        is_there = store_key in self._rows
        if value is not None:
            self._rows[store_key] = bytes(value)
            if not is_there:
                insort(self._order, store_key)
        elif is_there:
            del self._rows[store_key]
            del self._order[bisect_left(self._order, store_key)]

    def purge(self, first: bytes, last: bytes) -> None:
        """Deleted rows are gone already."""

    def close(self) -> None:
        """Nothing to do."""
