"""Intel's ISA-L, opened in place through cffi; the library is the one in pyeclib's wheel.

The package pyeclib itself is never imported: it holds the GIL, copies, and trusts forged headers
(docs/decisions/0003-isa-l-through-cffi.md). C checks nothing: whoever calls asserts lengths first.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Final, Protocol, cast

from cffi import FFI

from storage.errors import CodingLibraryError

_DECLARATIONS: Final = """
void gf_gen_cauchy1_matrix(unsigned char *matrix, int rows, int k);
int gf_invert_matrix(unsigned char *matrix, unsigned char *inverse, const int n);
unsigned char gf_mul(unsigned char a, unsigned char b);
void ec_init_tables(int k, int rows, unsigned char *coefficients, unsigned char *tables);
void ec_encode_data(int len, int k, int rows, unsigned char *tables, unsigned char **sources, unsigned char **results);
uint64_t crc64_ecma_refl(uint64_t init, const unsigned char *bytes, uint64_t length);
"""

FOREIGN: Final = FFI()
"""Makes the pointers that the library takes."""
FOREIGN.cdef(_DECLARATIONS)


class IsaL(Protocol):
    """The functions used, as cffi exposes them; pointers are opaque to Python."""

    def gf_gen_cauchy1_matrix(self, matrix: object, rows: int, k: int) -> None:
        """Write identity and Cauchy rows, rows * k bytes."""

    def gf_invert_matrix(self, matrix: object, inverse: object, n: int) -> int:
        """Invert n * n bytes, destroying them; not 0 when there is no inverse."""
        ...

    def gf_mul(self, a: int, b: int) -> int:
        """Multiply in the field."""
        ...

    def ec_init_tables(self, k: int, rows: int, coefficients: object, tables: object) -> None:
        """Expand coefficients to tables of products."""

    def ec_encode_data(  # noqa: PLR0917 the order is C's
        self, length: int, k: int, rows: int, tables: object, sources: object, results: object
    ) -> None:
        """Compute rows of `length` bytes from k others."""

    def crc64_ecma_refl(self, init: int, contents: object, length: int) -> int:
        """Return the CRC-64/XZ of bytes."""
        ...


@cache
def isa_l() -> IsaL:
    """Open the library beside the installed pyeclib.

    Raises:
        CodingLibraryError: It is not there, with what to do.
    """
    spec = importlib.util.find_spec("pyeclib")
    if spec is None or spec.origin is None:
        raise CodingLibraryError("pyeclib is not installed: ISA-L comes with its wheel; install the locked packages")
    folder = Path(spec.origin).parent.parent / "pyeclib.libs"
    candidates = sorted(folder.glob("libisal*.so*"))
    if not candidates:
        raise CodingLibraryError(f"no libisal in {folder}: install pyeclib from its wheel, not from source")
    try:
        return cast("IsaL", FOREIGN.dlopen(str(candidates[0])))
    except OSError as error:
        raise CodingLibraryError(f"{candidates[0].name} cannot be loaded: {error}") from error
