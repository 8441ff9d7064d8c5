"""Reed-Solomon: ISA-L against a reference in plain Python, and every pattern of loss."""

from __future__ import annotations

import importlib.util
import random
from itertools import combinations
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import isa_l
from storage.erasure import encode, reconstruct
from storage.errors import CodingLibraryError, NotEnoughShardsError
from storage.identifiers import ColumnIndex

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from pathlib import Path

POLYNOMIAL = 0x11D


def multiply(a: int, b: int) -> int:
    """The product in GF(2^8), bit by bit."""
    product = 0
    while b:
        if b & 1:
            product ^= a
        a <<= 1
        if a & 0x100:
            a ^= POLYNOMIAL
        b >>= 1
    return product


INVERSES = {a: next(b for b in range(1, 256) if multiply(a, b) == 1) for a in range(1, 16)}


def reference_parity(columns: list[bytes], n: int) -> list[bytes]:
    """Parity column i = sum over j of column j / (i xor j), byte by byte."""
    k = len(columns)
    parity: list[bytes] = []
    for i in range(k, n):
        tables = [bytes(multiply(INVERSES[i ^ j], value) for value in range(256)) for j in range(k)]
        terms = [int.from_bytes(column.translate(table), "big") for column, table in zip(columns, tables, strict=True)]
        total = 0
        for term in terms:
            total ^= term
        parity.append(total.to_bytes(len(columns[0]), "big"))
    return parity


def coded(k: int, n: int, column_bytes: int, seed: int = 1) -> dict[ColumnIndex, bytes]:
    """All columns of a code over seeded bytes."""
    generator = random.Random(seed)
    columns = [generator.randbytes(column_bytes) for _ in range(k)]
    parity = [bytearray(column_bytes) for _ in range(n - k)]
    encode(columns, parity)
    return {ColumnIndex(i): bytes(column) for i, column in enumerate((*columns, *parity))}


@pytest.mark.parametrize(("k", "n"), [(6, 9), (5, 9), (4, 9), (3, 4), (5, 7), (1, 9), (8, 9), (1, 2)])
@pytest.mark.parametrize("column_bytes", [64, 1984, 65536])
def test_parity_is_that_of_the_reference(k: int, n: int, column_bytes: int) -> None:
    columns = coded(k, n, column_bytes)
    expected = reference_parity([columns[ColumnIndex(i)] for i in range(k)], n)
    assert [columns[ColumnIndex(i)] for i in range(k, n)] == expected


def test_one_known_code() -> None:
    columns = [bytes([j + 1]) * 64 for j in range(6)]
    parity = [bytearray(64) for _ in range(3)]
    encode(columns, parity)
    assert [column[0] for column in parity] == [242, 187, 184]
    assert all(len(set(column)) == 1 for column in parity)


@pytest.mark.parametrize(("k", "patterns"), [(6, 84), (5, 126), (4, 126)])
def test_every_loss_of_all_spare_columns_gives_identical_bytes(k: int, patterns: int) -> None:
    columns = coded(k, 9, 4096)
    lost_sets = list(combinations(columns, 9 - k))
    assert len(lost_sets) == patterns
    for lost in lost_sets:
        available = {column: columns[column] for column in columns if column not in lost}
        assert reconstruct(available, lost, k, 9) == {column: columns[column] for column in lost}


@pytest.mark.parametrize(("k", "n"), [(3, 4), (5, 7)])
def test_smaller_consortia_survive_their_losses(k: int, n: int) -> None:
    columns = coded(k, n, 128)
    for lost in combinations(columns, n - k):
        available = {column: columns[column] for column in columns if column not in lost}
        assert reconstruct(available, lost, k, n) == {column: columns[column] for column in lost}


def test_nothing_wanted_costs_nothing() -> None:
    assert reconstruct(coded(6, 9, 64), (), 6, 9) == {}


def test_a_range_of_the_columns_decodes_alone() -> None:
    columns = coded(6, 9, 4096)
    available = {column: memoryview(columns[column])[1024:2048] for column in list(columns)[3:]}
    assert reconstruct(available, (ColumnIndex(1),), 6, 9)[ColumnIndex(1)] == columns[ColumnIndex(1)][1024:2048]


def test_too_few_columns_are_refused_by_number() -> None:
    columns = coded(6, 9, 64)
    available = {column: columns[column] for column in list(columns)[:5]}
    with pytest.raises(NotEnoughShardsError, match=r"^6 columns needed, 5 available$"):
        reconstruct(available, (ColumnIndex(8),), 6, 9)


def test_lengths_never_reach_the_library_unchecked() -> None:
    with pytest.raises(AssertionError, match=r"^columns of unequal length$"):
        encode([bytes(128), bytes(64)], [bytearray(128)])
    with pytest.raises(AssertionError, match=r"^columns of unequal length$"):
        encode([bytes(128), bytes(128)], [bytearray(64)])
    with pytest.raises(AssertionError, match=r"^100 bytes are not a multiple of 64$"):
        encode([bytes(100)], [bytearray(100)])
    with pytest.raises(AssertionError, match=r"^columns of 0 bytes$"):
        encode([b""], [bytearray()])
    with pytest.raises(AssertionError, match=r"^9 of 10 columns is no code of ours$"):
        encode([bytes(64)] * 9, [bytearray(64)])


def test_results_are_never_written_into_constant_bytes() -> None:
    with pytest.raises(BufferError):
        encode([bytes(64)], [memoryview(bytes(64))])


def test_a_column_cannot_be_wanted_and_given() -> None:
    with pytest.raises(AssertionError, match=r"^a column that is already there$"):
        reconstruct(coded(6, 9, 64), (ColumnIndex(0),), 6, 9)
    with pytest.raises(AssertionError, match=r"^a column of another code$"):
        reconstruct(coded(6, 9, 64), (ColumnIndex(9),), 6, 9)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    load = isa_l.isa_l.__wrapped__

    def nowhere(_name: str) -> ModuleSpec | None:
        return None

    def elsewhere(_name: str) -> ModuleSpec | None:
        return importlib.util.spec_from_file_location("pyeclib", tmp_path / "pyeclib" / "__init__.py")

    monkeypatch.setattr(importlib.util, "find_spec", nowhere)
    with pytest.raises(CodingLibraryError, match=r"^pyeclib is not installed: "):
        load()
    monkeypatch.setattr(importlib.util, "find_spec", elsewhere)
    with pytest.raises(CodingLibraryError, match=r"^no libisal in .*: install pyeclib from its wheel"):
        load()
    (tmp_path / "pyeclib.libs").mkdir()
    (tmp_path / "pyeclib.libs" / "libisal-broken.so.2").write_bytes(b"not a library")
    with pytest.raises(CodingLibraryError, match=r"^libisal-broken.so.2 cannot be loaded: "):
        load()


@settings(max_examples=60)
@given(shape=st.sampled_from([(6, 9), (5, 9), (4, 9), (5, 7), (3, 4)]), units=st.integers(1, 40), seed=st.integers())
def test_any_k_columns_restore_all_others(shape: tuple[int, int], units: int, seed: int) -> None:
    k, n = shape
    columns = coded(k, n, units * 64, seed)
    kept = random.Random(seed).sample(list(columns), k)
    lost = [column for column in columns if column not in kept]
    assert reconstruct({column: columns[column] for column in kept}, lost, k, n) == {
        column: columns[column] for column in lost
    }
