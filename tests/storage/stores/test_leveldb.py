"""The LevelDB wrapper keeps its promises: order, atomicity, reopening after a failed write, the reserve."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from storage.errors import StoreDamagedError, StoreFullError, StoreUnavailableError
from storage.stores.leveldb import (
    LevelDatabase,
    LevelOptions,
    WriteBatch,
    WritePurpose,
    free_bytes,
    prefix_stop,
)
from tests.small_disks import fill_disk, small_disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def database(tmp_path: Path) -> Iterator[LevelDatabase]:
    with LevelDatabase(tmp_path / "rows") as opened:
        yield opened


def _put(database: LevelDatabase, *rows: tuple[bytes, bytes]) -> None:
    batch = WriteBatch()
    for store_key, value in rows:
        batch.put(store_key, value)
    database.write(batch)


def test_rows_are_read_back_after_reopening(tmp_path: Path) -> None:
    with LevelDatabase(tmp_path / "rows") as database:
        _put(database, (b"a", b"1"), (b"b", b"2"))
    with LevelDatabase(tmp_path / "rows") as database:
        assert database.get(b"a") == b"1"
        assert database.get_unverified(b"b") == b"2"
        assert database.get(b"c") is None


def test_a_batch_applies_in_order(database: LevelDatabase) -> None:
    batch = WriteBatch()
    batch.put(b"a", b"1")
    batch.delete(b"a")
    batch.put(b"b", memoryview(b"22"))
    database.write(batch)
    assert database.get(b"a") is None
    assert database.get(b"b") == b"22"
    assert batch.byte_count == 1 + 1 + 1 + 1 + 2


def test_scan_stays_inside_its_prefix(database: LevelDatabase) -> None:
    _put(database, (b"a", b"0"), (b"p1", b"1"), (b"p2", b"2"), (b"p\xff", b"3"), (b"q", b"4"))
    assert database.scan(b"p", rows_max=10) == [(b"p1", b"1"), (b"p2", b"2"), (b"p\xff", b"3")]
    assert database.scan(b"p", start=b"p2", rows_max=1) == [(b"p2", b"2")]


def test_iterate_crosses_pages(database: LevelDatabase) -> None:
    rows = [(f"r{number:05}".encode(), b"x") for number in range(1_300)]
    _put(database, *rows)
    assert list(database.iterate(b"r")) == rows


def test_prefix_stop_follows_every_key_with_the_prefix() -> None:
    assert prefix_stop(b"ab") == b"ac"
    assert prefix_stop(b"a\xff\xff") == b"b"
    assert prefix_stop(b"\xff") is None
    assert prefix_stop(b"") is None


def test_a_snapshot_does_not_see_later_writes(database: LevelDatabase) -> None:
    _put(database, (b"a", b"1"))
    with database.snapshot() as view:
        _put(database, (b"a", b"2"), (b"b", b"3"))
        assert view.get(b"a") == b"1"
        assert view.scan(b"", rows_max=10) == [(b"a", b"1")]
    assert database.get(b"a") == b"2"


def test_a_second_opening_is_refused_in_words(database: LevelDatabase) -> None:
    with pytest.raises(StoreUnavailableError, match=r"cannot be opened|in use"):
        LevelDatabase(database.directory)


def test_a_damaged_database_is_named_in_words(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    with LevelDatabase(folder) as database:
        _put(database, (b"a", b"1"))
    (manifest,) = folder.glob("MANIFEST-*")
    manifest.write_bytes(b"?" * 100)
    with pytest.raises(StoreDamagedError, match=rf"^{folder} cannot be opened: Corruption: \w"):
        LevelDatabase(folder)


def test_a_table_that_was_cut_is_damage(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    with LevelDatabase(folder) as database:
        _put(database, *((b"%03d" % number, b"x" * 10_000) for number in range(100)))
        database.compact(b"", b"\xff")
    (table,) = folder.glob("*.ldb")
    table.write_bytes(table.read_bytes()[: table.stat().st_size // 2])
    with LevelDatabase(folder) as database, pytest.raises(StoreDamagedError, match="rows: read refused: IO error"):
        database.get(b"099")


def test_a_closed_database_refuses(database: LevelDatabase) -> None:
    database.close()
    with pytest.raises(StoreUnavailableError, match="closed"):
        database.get(b"a")
    with pytest.raises(StoreUnavailableError, match="closed"):
        _put(database, (b"a", b"1"))


def test_tenants_leave_the_reserve_to_consensus(tmp_path: Path) -> None:
    options = LevelOptions(reserve_bytes=free_bytes(tmp_path) * 2)
    with LevelDatabase(tmp_path / "rows", options) as database:
        batch = WriteBatch()
        batch.put(b"a", b"1")
        with pytest.raises(StoreFullError):
            database.write(batch, purpose=WritePurpose.TENANT)
        assert database.get(b"a") is None
        database.write(batch, purpose=WritePurpose.CONSENSUS)
        assert database.get(b"a") == b"1"


def test_reads_and_closing_do_not_race(tmp_path: Path) -> None:
    database = LevelDatabase(tmp_path / "rows")
    _put(database, *((bytes([number]), b"x" * 1000) for number in range(200)))
    refused = threading.Barrier(4)

    def read_forever() -> None:
        while True:
            assert len(database.scan(b"", rows_max=500)) == 200

    def read_until_closed() -> None:
        with pytest.raises(StoreUnavailableError):
            read_forever()
        refused.wait(10)

    readers = [threading.Thread(target=read_until_closed) for _ in range(3)]
    for reader in readers:
        reader.start()
    database.close()
    refused.wait(10)
    for reader in readers:
        reader.join()


def test_what_was_acknowledged_before_and_after_a_full_disk_is_there_after_a_restart(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", mebibytes=16) as disk:
        acknowledged: list[bytes] = []

        def fill(database: LevelDatabase, first: int, rows: int) -> bool:
            for number in range(first, first + rows):
                store_key = f"{number:06}".encode()
                try:
                    _put(database, (store_key, store_key * 2_000))
                except StoreFullError:
                    return True
                acknowledged.append(store_key)
            return False

        options = LevelOptions(write_buffer_bytes=1024 * 1024)
        with LevelDatabase(disk / "rows", options) as database:
            assert not fill(database, 0, 50)
            fill_disk(disk / "ballast", leave_bytes=2 * 1024 * 1024)
            assert fill(database, 1_000, 500)
            assert fill(database, 2_000, 1)  # opening again needs room as well
            (disk / "ballast").unlink()
            assert not fill(database, 3_000, 200)
            assert all(database.get(store_key) == store_key * 2_000 for store_key in acknowledged)
        with LevelDatabase(disk / "rows", options) as database:
            assert all(database.get(store_key) == store_key * 2_000 for store_key in acknowledged)
