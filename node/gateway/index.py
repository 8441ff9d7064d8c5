"""The gateway's plaintext index of one tenant's names, sorted by their UTF-8 bytes, in LevelDB.

Names are encrypted everywhere else; this folder lies with the master key, on the gateway's own disk. It can be made
again at any time from ledger, records and key, so nothing of it is flushed before an answer leaves.

Rows (integers big-endian):

    "h"                                   height up to which blocks were looked at, 8 bytes
    "b"                                   1 byte while the first walk over the ledger is not finished
    "n" bucket tag (16) name tag (16)     the name, UTF-8
    "k" bucket tag (16) name              its versions and markers, newest first: MessagePack of VersionRow
    "d" bucket tag (16) name tag (16)     8 bytes: the height of the last block that named it; what it is now has to be
                                          asked of the ledger

A block's names become "d" rows at once and are opened when a listing needs them, or when the gateway has nothing else
to do: nine gateways follow every block, and few list every bucket. Every method blocks.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from consensus.identifiers import Height
from node.gateway.store import Listed, Place
from storage.identifiers import BucketTag, NameTag, VersionId
from storage.stores.leveldb import MIB, Durability, LevelDatabase, LevelOptions, WriteBatch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

OPTIONS: Final = LevelOptions(write_buffer_bytes=16 * MIB, cache_bytes=32 * MIB, reserve_bytes=0)
TAG_BYTES: Final = 16
HEIGHT_BYTES: Final = 8
PAGE_ROWS: Final = 1_001


class VersionRow(msgspec.Struct, frozen=True, array_like=True):
    """What a listing shows of a version or marker."""

    version_id: bytes
    is_null: bool
    is_marker: bool
    plain_bytes: int
    etag: str
    modified_ms: int
    checksum_algorithm: str = ""
    is_composite: bool = False


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(list[VersionRow])


@dataclass(frozen=True, slots=True)
class Dirty:
    """A name whose versions have to be asked of the ledger, and the height of the block that says so."""

    bucket_tag: BucketTag
    name_tag: NameTag
    height: bytes


@dataclass(frozen=True, slots=True)
class Indexed:
    """What a name has now; no rows when it has no version any more."""

    dirty: Dirty
    name: str | None
    """None: no version, hence no record that tells the name."""
    rows: tuple[VersionRow, ...]


class Index:
    """One tenant's index."""

    def __init__(self, directory: Path) -> None:
        """Open it, or begin an empty one.

        Raises:
            StoreUnavailableError: In use, damaged (remove the folder: it is made again), or the disk refuses.
        """
        self._database = LevelDatabase(directory, OPTIONS)
        self._lock = threading.Lock()
        stored = self._database.get(b"h")
        self._height = Height(0 if stored is None else int.from_bytes(stored, "big"))
        self.is_whole = stored is not None and self._database.get(b"b") is None

    def close(self) -> None:
        """Release the folder."""
        self._database.close()

    @property
    def height(self) -> Height:
        """Return the height up to which blocks were looked at."""
        return self._height

    def advance(self, height: Height) -> None:
        """Note that blocks up to a height have named nothing; kept in memory until there is more to write."""
        self._height = height

    def distrust(self) -> None:
        """Have everything asked of the ledger again, since blocks that named objects are pruned."""
        batch = WriteBatch()
        batch.put(b"b", b"\1")
        self._write(batch, self._height)
        self.is_whole = False
        for row, _ in self._database.iterate(b"n"):
            self.mark([(BucketTag(row[1:17]), NameTag(row[17:]))], self._height)

    def begin_walk(self, height: Height) -> None:
        """Note that everything is being asked of the ledger, as it is at this height or later."""
        batch = WriteBatch()
        batch.put(b"b", b"\1")
        self._write(batch, height)

    def end_walk(self) -> None:
        """Note that everything was asked."""
        batch = WriteBatch()
        batch.delete(b"b")
        self._write(batch, self._height)
        self.is_whole = True

    def mark(self, places: Iterable[tuple[BucketTag, NameTag]], height: Height) -> None:
        """Note that blocks up to a height have named these."""
        batch = WriteBatch()
        for bucket_tag, name_tag in places:
            batch.put(b"d" + bucket_tag + name_tag, height.to_bytes(HEIGHT_BYTES, "big"))
        self._write(batch, height)

    def dirty(self, bucket_tag: BucketTag | None, count: int) -> list[Dirty]:
        """Return names that have to be asked for, of one bucket or of all."""
        prefix = b"d" if bucket_tag is None else b"d" + bucket_tag
        rows = self._database.scan(prefix, rows_max=count)
        return [Dirty(BucketTag(row[1:17]), NameTag(row[17:]), height) for row, height in rows]

    def put(self, found: Sequence[Indexed]) -> None:
        """Write what names have now, but for those that a later block has named meanwhile."""
        with self._lock:
            batch = WriteBatch()
            for indexed in found:
                dirty = indexed.dirty
                place = dirty.bucket_tag + dirty.name_tag
                if self._database.get(b"d" + place) not in {dirty.height, None}:
                    continue
                self._stage(batch, place, indexed)
            self._database.write(batch, durability=Durability.BUFFERED)

    def page(self, bucket_tag: BucketTag, prefix: str, start: str, count: int) -> list[tuple[str, list[VersionRow]]]:
        """Return names with the prefix from `start` (inclusive) on, each with its versions, newest first."""
        below = b"k" + bucket_tag
        rows = self._database.scan(
            below + prefix.encode(), start=below + max(start, prefix, key=str.encode).encode(), rows_max=count
        )
        return [(row[1 + TAG_BYTES :].decode(), _DECODER.decode(encoded)) for row, encoded in rows]

    def list_current(self, bucket_tag: BucketTag, prefix: str, start: str, names_max: int) -> list[Listed]:
        """Return current objects from `start` (inclusive) on; fewer only at the end."""
        found: list[Listed] = []
        while len(found) < names_max:
            page = self.page(bucket_tag, prefix, start, PAGE_ROWS)
            found += [listed_row(name, rows[0], Place.LATEST) for name, rows in page if not rows[0].is_marker]
            if len(page) < PAGE_ROWS:
                break
            start = page[-1][0] + "\0"
        return found[:names_max]

    def list_versions(
        self, bucket_tag: BucketTag, prefix: str, start: str, versions_max: int, behind: VersionId | None
    ) -> list[Listed]:
        """Return versions and markers from the name `start` on; `behind` leaves out that name's first ones."""
        found: list[Listed] = []
        while len(found) < versions_max:
            page = self.page(bucket_tag, prefix, start, PAGE_ROWS)
            for name, rows in page:
                shown = [
                    listed_row(name, row, Place.OLDER if older else Place.LATEST) for older, row in enumerate(rows)
                ]
                found += _behind(shown, behind) if name == start and behind is not None else shown
            if len(page) < PAGE_ROWS:
                break
            start, behind = page[-1][0] + "\0", None
        return found[:versions_max]

    def _stage(self, batch: WriteBatch, place: bytes, indexed: Indexed) -> None:
        name = indexed.name
        if name is None:
            known = self._database.get(b"n" + place)
            name = None if known is None else known.decode()
        if name is not None:
            row = b"k" + indexed.dirty.bucket_tag + name.encode()
            if indexed.rows:
                batch.put(b"n" + place, name.encode())
                batch.put(row, _ENCODER.encode(indexed.rows))
            else:
                batch.delete(b"n" + place)
                batch.delete(row)
        batch.delete(b"d" + place)

    def _write(self, batch: WriteBatch, height: Height) -> None:
        with self._lock:
            batch.put(b"h", height.to_bytes(HEIGHT_BYTES, "big"))
            self._database.write(batch, durability=Durability.BUFFERED)
            self._height = height


def listed_row(name: str, row: VersionRow, place: Place) -> Listed:
    """Return a row as listings use it."""
    return Listed(
        name=name,
        version_id=VersionId(row.version_id),
        is_null=row.is_null,
        is_marker=row.is_marker,
        is_latest=place is Place.LATEST,
        plain_bytes=row.plain_bytes,
        etag=row.etag,
        modified_ms=row.modified_ms,
        checksum_algorithm=row.checksum_algorithm,
        is_composite=row.is_composite,
    )


def _behind(shown: list[Listed], behind: VersionId) -> list[Listed]:
    """Return what follows a version; nothing when it has gone, since all that was shown is before it."""
    is_null = behind == bytes(TAG_BYTES)
    places = [
        place
        for place, listed in enumerate(shown)
        if (listed.is_null if is_null else listed.version_id == behind and not listed.is_null)
    ]
    return shown[places[0] + 1 :] if places else []
