"""Snapshots on disk: made here for others, or fetched from others and installed here.

    made/HEIGHT/manifest            an encoded SnapshotManifest
    made/HEIGHT/piece-NUMBER        the pieces of its cells, in order
    incoming/offer                  what is being fetched: an encoded SnapshotGoal
    incoming/heads-FIRST-LAST       an encoded HeadsFile of these heights
    incoming/piece-NUMBER
    incoming/complete               all is here

Every file appears whole: written beside its name, flushed, renamed. What is incoming was verified before it was written
and is verified again when it is installed. Blocking; one thread at a time for each of the two folders.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta

from consensus.blocks import DecidedBlock
from consensus.encoding import Record, decode, encode
from consensus.heads import DecidedHead
from consensus.identifiers import Height
from consensus.messages import HEADS_PER_REQUEST_MAX, RESPONSE_BYTES_MAX, MemberChanges
from storage.snapshots import (
    BUCKETS,
    Cell,
    PathRow,
    SnapshotManifest,
    bucket_of,
    cut_state,
    encode_piece,
    path_row,
)
from storage.stores.heads import DECIDED_BYTES_MAX
from storage.stores.state import VALUE_ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from storage.stores.protocols import StateView

KEPT: Final = 2
"""Snapshots that stay: the newest, and the one before, which joiners may still be fetching."""
BUFFER_BYTES: Final = 64 * 1024
"""Rows of one group that wait in memory while a state is sorted: 16 MiB for all groups."""
SCAN_ROWS: Final = 1_024
_LENGTH_BYTES: Final = 4


class SnapshotGoal(Record, tag=25):
    """What a joiner fetches: the block whose state it is, whole, its manifest, and who the members became."""

    decided: DecidedBlock
    manifest: SnapshotManifest
    member_changes: MemberChanges


class HeadsFile(Record, tag=26):
    """Heads that follow each other."""

    heads: Annotated[tuple[DecidedHead, ...], Meta(min_length=1, max_length=HEADS_PER_REQUEST_MAX)]


class MadeSnapshots:
    """The snapshots that this node gives to others."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def heights(self) -> tuple[Height, ...]:
        """Return the heights of whole snapshots, newest first."""
        if not self._directory.is_dir():
            return ()
        names = (path.name for path in self._directory.iterdir())
        return tuple(sorted((Height(int(name)) for name in names if name.isdecimal()), reverse=True))

    def manifest(self, height: Height) -> bytes | None:
        """Return an encoded manifest, None when there is no snapshot of this height."""
        return _read(self._of(height) / "manifest")

    def piece(self, height: Height, number: int) -> bytes | None:
        """Return an encoded piece, None when it is not here."""
        return _read(self._of(height) / piece_name(number))

    def make(self, height: Height, view: StateView) -> SnapshotManifest:
        """Write the snapshot of a state; it appears when all of it is on disk. Memory: one piece, and 16 MiB.

        Args:
            height: Of the block after which the state is this.
            view: The rows of just that moment.

        Raises:
            OSError: The disk refused; nothing appears.
        """
        partial = self._directory / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        groups = _Groups(partial)
        for state_key, value in _rows(view):
            groups.add(path_row(state_key, value))
        cells: list[Cell] = []
        for number, (cell, piece) in enumerate(cut_state(groups.byte_counts, groups.read)):
            write_whole(partial / piece_name(number), encode_piece(piece))
            cells.append(cell)
        groups.remove()
        manifest = SnapshotManifest(height=height, cells=tuple(cells))
        write_whole(partial / "manifest", encode(manifest))
        partial.rename(self._of(height))
        _flush_directory(self._directory)
        return manifest

    def keep_newest(self) -> None:
        """Remove all but the newest KEPT."""
        for height in self.heights()[KEPT:]:
            shutil.rmtree(self._of(height))

    def _of(self, height: Height) -> Path:
        return self._directory / str(height)


class IncomingSnapshot:
    """The snapshot that this node fetches; what is here already survives a restart."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def goal(self) -> SnapshotGoal | None:
        """Return what is being fetched, None for nothing."""
        encoded = _read(self._directory / "offer")
        bytes_max = DECIDED_BYTES_MAX + RESPONSE_BYTES_MAX
        return None if encoded is None else decode(encoded, SnapshotGoal, bytes_max=bytes_max)

    def begin(self, goal: SnapshotGoal) -> None:
        """Fetch this from now on; what was fetched for another goal is forgotten."""
        if self.goal() != goal:
            self.remove()
            self._directory.mkdir(parents=True)
            write_whole(self._directory / "offer", encode(goal))

    def has_piece(self, number: int) -> bool:
        """Say whether a piece is here."""
        return (self._directory / piece_name(number)).exists()

    def piece(self, number: int) -> bytes | None:
        """Return an encoded piece."""
        return _read(self._directory / piece_name(number))

    def put_piece(self, number: int, encoded: bytes) -> None:
        """Keep a verified piece."""
        write_whole(self._directory / piece_name(number), encoded)

    def put_heads(self, heads: tuple[DecidedHead, ...]) -> None:
        """Keep verified heads that follow each other."""
        first, last = heads[0].block.header.height, heads[-1].block.header.height
        write_whole(self._directory / f"heads-{first:020d}-{last:020d}", encode(HeadsFile(heads=heads)))

    def heights_of_heads(self) -> tuple[range, ...]:
        """Return the heights whose heads are here, in order."""
        names = (path.name.split("-") for path in sorted(self._directory.glob("heads-*")))
        return tuple(range(int(name[1]), int(name[2]) + 1) for name in names if name[2].isdecimal())

    def heads(self) -> Iterator[tuple[DecidedHead, ...]]:
        """Yield what put_heads() kept, in order of height."""
        for path in sorted(self._directory.glob("heads-*-" + "[0-9]" * 20)):
            encoded = path.read_bytes()
            yield decode(encoded, HeadsFile, bytes_max=len(encoded)).heads

    def finish(self) -> None:
        """Note that all is here."""
        write_whole(self._directory / "complete", b"")

    def is_complete(self) -> bool:
        """Say whether all is here, to be installed at the next start."""
        return (self._directory / "complete").exists()

    def remove(self) -> None:
        """Forget it."""
        shutil.rmtree(self._directory, ignore_errors=True)


class _Groups:
    """Rows sorted into BUCKETS files by the first bits of their paths; what is small never leaves memory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._buffers = [bytearray() for _ in range(BUCKETS)]
        self.byte_counts = [0] * BUCKETS

    def add(self, row: PathRow) -> None:
        """Put a row into its group."""
        group = bucket_of(row)
        self.byte_counts[group] += row.byte_count
        buffer = self._buffers[group]
        for part in (row.row.state_key, row.row.value):
            buffer += len(part).to_bytes(_LENGTH_BYTES, "big") + part
        if len(buffer) >= BUFFER_BYTES:
            with self._path(group).open("ab") as file:
                file.write(buffer)
            buffer.clear()

    def read(self, group: int) -> list[PathRow]:
        """Return the rows of a group, in order of their state keys."""
        path = self._path(group)
        content = memoryview((path.read_bytes() if path.exists() else b"") + bytes(self._buffers[group]))
        parts: list[bytes] = []
        while content:
            end = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "big")
            parts.append(bytes(content[_LENGTH_BYTES:end]))
            content = content[end:]
        return [path_row(state_key, value) for state_key, value in zip(parts[::2], parts[1::2], strict=True)]

    def remove(self) -> None:
        """Forget all groups."""
        for group in range(BUCKETS):
            self._path(group).unlink(missing_ok=True)

    def _path(self, group: int) -> Path:
        return self._directory / f"group-{group}"


def piece_name(number: int) -> str:
    """Return the file name of a piece."""
    return f"piece-{number:06d}"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears whole and flushed, or not at all."""
    beside = path.with_name(path.name + ".new")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)


def _rows(view: StateView) -> Iterator[tuple[bytes, bytes]]:
    """Yield all state keys and values of a view."""
    start = VALUE_ROWS
    while rows := view.scan(VALUE_ROWS, start=start, rows_max=SCAN_ROWS):
        for row_key, value in rows:
            yield row_key[len(VALUE_ROWS) :], value
        start = rows[-1][0] + b"\0"


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _flush_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
