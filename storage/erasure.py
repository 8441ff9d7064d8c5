"""Reed-Solomon over columns of bytes, by ISA-L called in place.

Field GF(2^8) with polynomial 0x11d; generator = identity of k rows over a Cauchy matrix, row i and column j of which
hold 1 / (i xor j) for i in k .. n - 1 (`gf_gen_cauchy1_matrix`). Any k of the n columns restore the others. Byte p of
a parity column depends on byte p of the data columns alone, so equal ranges of the columns code and decode as well as
whole ones: a stripe, a leaf or a shard are the same to this module.

Nothing here notices a changed byte: **check every column against its root before decoding it**.

The calls release the GIL and neither copy nor keep the buffers. The library is the one in pyeclib's wheel
(docs/decisions/0003-isa-l-through-cffi.md).

Source: Blömer et al., "An XOR-Based Erasure-Resilient Coding Scheme", 1995; intel/isa-l `erasure_code/ec_base.c`.
"""

from __future__ import annotations

import importlib.util
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast

from cffi import FFI

from storage.errors import CodingLibraryError, NotEnoughShardsError
from storage.identifiers import COLUMNS_MAX, UNIT_ALIGNMENT_BYTES, ColumnIndex

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COLUMN_BYTES_MAX: Final = 2**30
"""ISA-L counts bytes in a C int; far above the longest shard."""
TABLE_BYTES: Final = 32
"""ISA-L expands each coefficient to two tables of 16 products."""
SELECTIONS_CACHED_MAX: Final = 512
"""Decoding tables kept: the 466 ways to lose one to three, or all, of nine columns fit; at most 3 KiB each."""

_DECLARATIONS: Final = """
void gf_gen_cauchy1_matrix(unsigned char *matrix, int rows, int k);
int gf_invert_matrix(unsigned char *matrix, unsigned char *inverse, const int n);
unsigned char gf_mul(unsigned char a, unsigned char b);
void ec_init_tables(int k, int rows, unsigned char *coefficients, unsigned char *tables);
void ec_encode_data(int len, int k, int rows, unsigned char *tables, unsigned char **sources, unsigned char **results);
"""


class _IsaL(Protocol):
    """The five functions used, as cffi exposes them; pointers are opaque to Python."""

    def gf_gen_cauchy1_matrix(self, matrix: object, rows: int, k: int) -> None: ...
    def gf_invert_matrix(self, matrix: object, inverse: object, n: int) -> int: ...
    def gf_mul(self, a: int, b: int) -> int: ...
    def ec_init_tables(self, k: int, rows: int, coefficients: object, tables: object) -> None: ...
    def ec_encode_data(  # noqa: PLR0917 the order is C's
        self, length: int, k: int, rows: int, tables: object, sources: object, results: object
    ) -> None: ...


_ffi = FFI()
_ffi.cdef(_DECLARATIONS)


def encode(columns: Sequence[bytes | bytearray | memoryview], parity: Sequence[bytearray | memoryview]) -> None:
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
    available: Mapping[ColumnIndex, bytes | bytearray | memoryview], wanted: Sequence[ColumnIndex], k: int, n: int
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
    available: Mapping[ColumnIndex, bytes | bytearray | memoryview],
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


def _transform(
    tables: bytes, sources: Sequence[bytes | bytearray | memoryview], results: Sequence[bytearray | memoryview]
) -> None:
    """Call ISA-L once all lengths are known to fit: C checks nothing."""
    length = len(memoryview(sources[0]).cast("B"))
    assert 0 < length <= COLUMN_BYTES_MAX, f"columns of {length} bytes"
    assert length % UNIT_ALIGNMENT_BYTES == 0, f"{length} bytes are not a multiple of {UNIT_ALIGNMENT_BYTES}"
    assert len(tables) == TABLE_BYTES * len(sources) * len(results), "tables of another code"
    source_buffers = [_ffi.from_buffer("unsigned char[]", source) for source in sources]
    result_buffers = [_ffi.from_buffer("unsigned char[]", result, require_writable=True) for result in results]
    assert all(len(buffer) == length for buffer in (*source_buffers, *result_buffers)), "columns of unequal length"
    _isa_l().ec_encode_data(
        length,
        len(sources),
        len(results),
        _ffi.from_buffer("unsigned char[]", tables),
        _ffi.new("unsigned char *[]", source_buffers),
        _ffi.new("unsigned char *[]", result_buffers),
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
    singular = _isa_l().gf_invert_matrix(
        _ffi.from_buffer("unsigned char[]", rows_used), _ffi.from_buffer("unsigned char[]", inverse), k
    )
    assert singular == 0, "any k rows of this generator are independent"
    rows_wanted = [generator[column * k : column * k + k] for column in wanted]
    return _expand(bytes(_dot(row, inverse[j::k]) for row in rows_wanted for j in range(k)), k)


def _dot(row: bytes, column: bytearray) -> int:
    total = 0
    for a, b in zip(row, column, strict=True):
        total ^= _isa_l().gf_mul(a, b)
    return total


def _generator(k: int, n: int) -> bytes:
    matrix = bytearray(n * k)
    _isa_l().gf_gen_cauchy1_matrix(_ffi.from_buffer("unsigned char[]", matrix), n, k)
    return bytes(matrix)


def _expand(coefficients: bytes, k: int) -> bytes:
    rows = len(coefficients) // k
    tables = bytearray(TABLE_BYTES * k * rows)
    _isa_l().ec_init_tables(
        k,
        rows,
        _ffi.from_buffer("unsigned char[]", coefficients),
        _ffi.from_buffer("unsigned char[]", tables),
    )
    return bytes(tables)


@cache
def _isa_l() -> _IsaL:
    """Open the library beside the installed pyeclib; the package itself is never imported (it holds the GIL)."""
    spec = importlib.util.find_spec("pyeclib")
    if spec is None or spec.origin is None:
        raise CodingLibraryError("pyeclib is not installed: ISA-L comes with its wheel; install the locked packages")
    folder = Path(spec.origin).parent.parent / "pyeclib.libs"
    candidates = sorted(folder.glob("libisal*.so*"))
    if not candidates:
        raise CodingLibraryError(f"no libisal in {folder}: install pyeclib from its wheel, not from source")
    try:
        return cast("_IsaL", _ffi.dlopen(str(candidates[0])))
    except OSError as error:
        raise CodingLibraryError(f"{candidates[0].name} cannot be loaded: {error}") from error
