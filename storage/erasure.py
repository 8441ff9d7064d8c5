"""Reed-Solomon over columns of bytes, by ISA-L called in place.

Field GF(2^8) with polynomial 0x11d; generator = identity of k rows over a Cauchy matrix, row i and column j of which
hold 1 / (i xor j) for i in k .. n - 1 (`gf_gen_cauchy1_matrix`). Any k of the n columns restore the others. Byte p of
a parity column depends on byte p of the data columns alone, so equal ranges of the columns code and decode as well as
whole ones: a stripe, a leaf or a shard are the same to this module.

Nothing here notices a changed byte: **check every column against its root before decoding it**.

The calls release the GIL and neither copy nor keep the buffers (isa_l.py).

Source: Blömer et al., "An XOR-Based Erasure-Resilient Coding Scheme", 1995; intel/isa-l `erasure_code/ec_base.c`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from consensus.identifiers import Buffer
from storage.errors import NotEnoughShardsError
from storage.identifiers import COLUMNS_MAX, UNIT_ALIGNMENT_BYTES, ColumnIndex
from storage.isa_l import FOREIGN, isa_l

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COLUMN_BYTES_MAX: Final = 2**30
"""ISA-L counts bytes in a C int; far above the longest shard."""
TABLE_BYTES: Final = 32
"""ISA-L expands each coefficient to two tables of 16 products."""
SELECTIONS_CACHED_MAX: Final = 512
"""Decoding tables kept: the 466 ways to lose one to three, or all, of nine columns fit; at most 3 KiB each."""


def encode(columns: Sequence[Buffer], parity: Sequence[bytearray | memoryview]) -> None:
    """Compute the parity columns of data columns.

    Args:
        columns: The k data columns, of equal length, a multiple of 64 bytes.
        parity: n - k writable buffers of that length; overwritten.
    """
    if not parity:
        return
    k, n = len(columns), len(columns) + len(parity)
    _check_counts(k, n)
    _transform(_encoding_tables(k, n), columns, parity)


def reconstruct(
    available: Mapping[ColumnIndex, Buffer], wanted: Sequence[ColumnIndex], k: int, n: int
) -> dict[ColumnIndex, bytearray]:
    """Restore columns from any k others; equal ranges of the columns do as well as whole ones.

    Args:
        available: At least k columns of equal length (a multiple of 64 bytes), each checked against its root by the
            caller; the k lowest are used.
        wanted: Columns to restore; none of them in `available`.
        k: Data columns of the segment.
        n: All its columns.

    Raises:
        NotEnoughShardsError: Fewer than k columns.
    """
    length = memoryview(next(iter(available.values()), b"")).nbytes
    restored = {column: bytearray(length) for column in wanted}
    reconstruct_into(available, restored, k, n)
    return restored


def reconstruct_into(
    available: Mapping[ColumnIndex, Buffer],
    results: Mapping[ColumnIndex, bytearray | memoryview],
    k: int,
    n: int,
) -> None:
    """Restore columns as reconstruct() does, into writable buffers of the same length that overlap no source."""
    _check_counts(k, n)
    if len(available) < k:
        raise NotEnoughShardsError(k, len(available))
    used = tuple(sorted(available))[:k]
    assert all(0 <= column < n for column in (*available, *results)), "a column of another code"
    assert not set(results) & set(available), "a column that is already there"
    if results:
        sources = [available[column] for column in used]
        _transform(_decoding_tables(used, tuple(results), k, n), sources, tuple(results.values()))


def _check_counts(k: int, n: int) -> None:
    assert 1 <= k <= n <= COLUMNS_MAX, f"{k} of {n} columns is no code of ours"


def _transform(tables: bytes, sources: Sequence[Buffer], results: Sequence[bytearray | memoryview]) -> None:
    """Call ISA-L once all lengths are known to fit: C checks nothing."""
    length = len(memoryview(sources[0]).cast("B"))
    assert 0 < length <= COLUMN_BYTES_MAX, f"columns of {length} bytes"
    assert length % UNIT_ALIGNMENT_BYTES == 0, f"{length} bytes are not a multiple of {UNIT_ALIGNMENT_BYTES}"
    assert len(tables) == TABLE_BYTES * len(sources) * len(results), "tables of another code"
    source_buffers = [FOREIGN.from_buffer("unsigned char[]", source) for source in sources]
    result_buffers = [FOREIGN.from_buffer("unsigned char[]", result, require_writable=True) for result in results]
    assert all(len(buffer) == length for buffer in (*source_buffers, *result_buffers)), "columns of unequal length"
    isa_l().ec_encode_data(
        length,
        len(sources),
        len(results),
        FOREIGN.from_buffer("unsigned char[]", tables),
        FOREIGN.new("unsigned char *[]", source_buffers),
        FOREIGN.new("unsigned char *[]", result_buffers),
    )


@lru_cache(maxsize=COLUMNS_MAX * COLUMNS_MAX)
def _encoding_tables(k: int, n: int) -> bytes:
    return _expand(_generator(k, n)[k * k :], k)


@lru_cache(maxsize=SELECTIONS_CACHED_MAX)
def _decoding_tables(used: tuple[ColumnIndex, ...], wanted: tuple[ColumnIndex, ...], k: int, n: int) -> bytes:
    """Return the tables that lead from the used columns to the wanted ones: generator rows times the inverse."""
    generator = _generator(k, n)
    rows_used = bytearray(b"".join(generator[column * k : column * k + k] for column in used))
    inverse = bytearray(k * k)
    singular = isa_l().gf_invert_matrix(
        FOREIGN.from_buffer("unsigned char[]", rows_used), FOREIGN.from_buffer("unsigned char[]", inverse), k
    )
    assert singular == 0, "any k rows of this generator are independent"
    rows_wanted = [generator[column * k : column * k + k] for column in wanted]
    return _expand(bytes(_dot(row, inverse[j::k]) for row in rows_wanted for j in range(k)), k)


def _dot(row: bytes, column: bytearray) -> int:
    total = 0
    for a, b in zip(row, column, strict=True):
        total ^= isa_l().gf_mul(a, b)
    return total


def _generator(k: int, n: int) -> bytes:
    matrix = bytearray(n * k)
    isa_l().gf_gen_cauchy1_matrix(FOREIGN.from_buffer("unsigned char[]", matrix), n, k)
    return bytes(matrix)


def _expand(coefficients: bytes, k: int) -> bytes:
    rows = len(coefficients) // k
    tables = bytearray(TABLE_BYTES * k * rows)
    isa_l().ec_init_tables(
        k,
        rows,
        FOREIGN.from_buffer("unsigned char[]", coefficients),
        FOREIGN.from_buffer("unsigned char[]", tables),
    )
    return bytes(tables)
