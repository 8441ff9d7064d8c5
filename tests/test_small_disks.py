"""A cut disk loses what was not flushed, and nothing else: else a test of power cuts would prove nothing."""

from __future__ import annotations

import os
from pathlib import Path

from storage.stores.leveldb import Durability, LevelDatabase, WriteBatch
from tests.small_disks import CutDisk, imaged_disk


def batch_of(number: int) -> WriteBatch:
    batch = WriteBatch()
    batch.put(b"row %d" % number, bytes(1_000))
    return batch


def test_a_cut_disk_keeps_what_was_flushed_and_loses_the_rest(tmp_path: Path) -> None:
    disk = CutDisk(tmp_path / "disk", tmp_path / "image")
    disk.folder.mkdir()
    with imaged_disk(disk.folder, disk.image, 32):
        (disk.folder / "flushed").write_bytes(b"kept")
        os.sync()
        (disk.folder / "written").write_bytes(b"lost")
        disk.cut()
        disk.restore()
        assert (disk.folder / "flushed").read_bytes() == b"kept"
        assert not (disk.folder / "written").exists()


def test_a_database_on_a_cut_disk_has_every_row_that_was_flushed(tmp_path: Path) -> None:
    disk = CutDisk(tmp_path / "disk", tmp_path / "image")
    disk.folder.mkdir()
    with imaged_disk(disk.folder, disk.image, 64):
        database = LevelDatabase(disk.folder / "rows")
        for number in range(200):
            database.write(batch_of(number))
        for number in range(200, 400):
            database.write(batch_of(number), durability=Durability.BUFFERED)
        disk.cut()
        database.close()
        disk.restore()
        with LevelDatabase(disk.folder / "rows") as database:
            there = [database.get(b"row %d" % number) is not None for number in range(400)]
        assert all(there[:200])
        assert not all(there[200:]), "the cut was one"
