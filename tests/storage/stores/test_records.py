"""Sealed records come back until they are erased, and then are nowhere."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import pytest

from consensus.errors import RejectionError, RejectionReason
from storage.identifiers import RecordAddress
from storage.records import RECORD_BYTES_MAX
from storage.stores.records import ERASED_MAX, RecordStore

if TYPE_CHECKING:
    from pathlib import Path

ONE: Final = RecordAddress(b"1" * 32)
TWO: Final = RecordAddress(b"2" * 32)
SEALED: Final = b"a sealed record that must be forgotten"


def test_records_are_read_back_after_a_restart(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    store.write({ONE: SEALED, TWO: b"x" * RECORD_BYTES_MAX})
    store.close()
    store = RecordStore(tmp_path)
    assert store.read((ONE, TWO, RecordAddress(b"3" * 32))) == {ONE: SEALED, TWO: b"x" * RECORD_BYTES_MAX}
    assert store.missing((RecordAddress(b"3" * 32), ONE)) == (RecordAddress(b"3" * 32),)
    assert [address for address, _ in store.rows()] == [ONE, TWO]
    store.close()


def test_an_erased_record_is_in_no_file(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    store.write({ONE: SEALED, TWO: b"kept"})
    assert any(SEALED in path.read_bytes() for path in tmp_path.iterdir())
    store.erase((ONE, ONE))
    assert store.read((ONE, TWO)) == {TWO: b"kept"}
    store.compact()
    assert not any(SEALED in path.read_bytes() for path in tmp_path.iterdir())
    store.close()


def in_files(directory: Path, sealed: bytes) -> bool:
    return any(sealed in path.read_bytes() for path in directory.iterdir())


@pytest.mark.parametrize("count", [1, ERASED_MAX, ERASED_MAX + 1, 200])
def test_erased_records_leave_the_files_one_by_one_or_all_at_once(tmp_path: Path, count: int) -> None:
    store = RecordStore(tmp_path)
    records = {RecordAddress(hashlib.sha256(b"%d" % n).digest()): b"sealed record %d;" % n for n in range(400)}
    store.write(records)
    erased = dict(list(records.items())[:count])
    store.erase(tuple(erased))
    store.compact()
    store.compact()
    assert not any(in_files(tmp_path, sealed) for sealed in erased.values())
    assert dict(store.rows()) == {address: sealed for address, sealed in records.items() if address not in erased}
    store.close()


def test_what_was_erased_before_a_crash_leaves_the_files_after_it(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    store.write({ONE: SEALED, TWO: b"kept"})
    store.erase((ONE,))
    store.close()
    store = RecordStore(tmp_path)
    store.compact()
    assert not in_files(tmp_path, SEALED)
    assert store.read((TWO,)) == {TWO: b"kept"}
    store.close()


def test_a_record_written_again_after_its_erasure_stays(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    store.write({ONE: SEALED})
    store.erase((ONE,))
    store.write({ONE: SEALED})
    store.compact()
    assert store.read((ONE,)) == {ONE: SEALED}
    store.close()


def test_oversized_and_empty_records_are_refused(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    for sealed in (b"", bytes(RECORD_BYTES_MAX + 1)):
        with pytest.raises(RejectionError) as refused:
            store.write({ONE: SEALED, TWO: sealed})
        assert refused.value.reason is RejectionReason.OVERSIZED
    assert store.read((ONE,)) == {}
    store.close()
