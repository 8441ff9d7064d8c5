"""Columns that wait for their absent holders: files in HOME/client/spool until they are stored, bounded.

One file a column, `<segment id in hex>.<column>.<k>.<segment bytes>`, its contents the shard. A file is written under
another name and renamed, so that one with its own name is whole. Beyond SPOOL_BYTES_MAX nothing more is kept: the
nodes' own repair rebuilds such a column from the others. A second client may work on the same folder.
"""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from consensus.errors import RejectionError
from consensus.identifiers import Buffer
from storage.identifiers import COLUMNS_MAX, ColumnIndex, SegmentId
from storage.segments import SegmentShape

if TYPE_CHECKING:
    from pathlib import Path

SPOOL_BYTES_MAX: Final = 2 * 1024 * 1024 * 1024
"""Two of nine columns of about 6 GiB of objects."""
UNFINISHED: Final = ".part"
NAME_FIELDS: Final = 4


@dataclass(frozen=True, slots=True)
class SpooledColumn:
    """One column that its holder does not have yet."""

    segment_id: SegmentId
    column: ColumnIndex
    shape: SegmentShape

    @property
    def file_name(self) -> str:
        """Return the name of its file."""
        return f"{self.segment_id.hex()}.{self.column}.{self.shape.k}.{self.shape.segment_bytes}"


class Spool:
    """The folder; every method blocks: call it from a worker thread."""

    def __init__(self, folder: Path, columns: int = COLUMNS_MAX) -> None:
        """Open the folder; it is made at the first add().

        Args:
            folder: Of this client alone, or of clients of the same tenant and chain.
            columns: Of every segment of the chain.
        """
        self._folder = folder
        self._columns = columns
        self._byte_count = sum(column.shape.shard_bytes for column in self.waiting())

    def add(self, column: SpooledColumn, shard: Buffer) -> bool:
        """Keep a column; returns False when the spool is full."""
        if self._byte_count + len(shard) > SPOOL_BYTES_MAX:
            return False
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        unfinished = self._folder / f"{secrets.token_hex(8)}{UNFINISHED}"
        unfinished.write_bytes(shard)
        os.replace(unfinished, self._folder / column.file_name)  # noqa: PTH105 (atomic, says so)
        self._byte_count += len(shard)
        return True

    def waiting(self) -> tuple[SpooledColumn, ...]:
        """Return the columns that wait, in order of name; files that are none of ours are left alone."""
        if not self._folder.is_dir():
            return ()
        named = (_column_of(path.name, self._columns) for path in sorted(self._folder.iterdir()))
        return tuple(column for column in named if column is not None)

    def read(self, column: SpooledColumn) -> bytes | None:
        """Return a column's shard; None when it is gone or damaged."""
        try:
            shard = (self._folder / column.file_name).read_bytes()
        except FileNotFoundError:
            return None
        return shard if len(shard) == column.shape.shard_bytes else None

    def written_at(self, column: SpooledColumn) -> float:
        """Return when a column was spooled, in seconds since 1970; now when it is gone."""
        try:
            return (self._folder / column.file_name).stat().st_mtime
        except FileNotFoundError:
            return time.time()

    def drop(self, column: SpooledColumn) -> None:
        """Forget a column that is stored, or whose segment is gone."""
        path = self._folder / column.file_name
        if path.exists():
            path.unlink(missing_ok=True)
            self._byte_count -= column.shape.shard_bytes


def _column_of(file_name: str, columns: int) -> SpooledColumn | None:
    fields = file_name.split(".")
    if len(fields) != NAME_FIELDS:
        return None
    try:
        segment_id = SegmentId(bytes.fromhex(fields[0]))
        column, k, segment_bytes = (int(field) for field in fields[1:])
        shape = SegmentShape(segment_bytes, k, columns)
    except (ValueError, RejectionError):
        return None
    if len(segment_id) != 32 or not 0 <= column < columns:  # noqa: PLR2004 (a segment id)
        return None
    return SpooledColumn(segment_id, ColumnIndex(column), shape)
