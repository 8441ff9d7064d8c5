"""The part of plyvel 1.5 that storage/stores/leveldb.py uses; plyvel ships no types."""

from collections.abc import Iterator
from typing import Final
from typing_extensions import Buffer

__version__: Final[str]
__leveldb_version__: Final[str]

class Error(Exception): ...
class IOError(Error, OSError): ...
class CorruptionError(Error): ...

class WriteBatch:
    def put(self, key: bytes, value: Buffer) -> None: ...
    def delete(self, key: bytes) -> None: ...
    def clear(self) -> None: ...
    def write(self) -> None: ...

class Snapshot:
    def get(
        self, key: bytes, default: bytes | None = None, *, verify_checksums: bool = False, fill_cache: bool = True
    ) -> bytes | None: ...
    def iterator(
        self,
        *,
        start: bytes | None = None,
        stop: bytes | None = None,
        reverse: bool = False,
        include_start: bool = True,
        include_stop: bool = False,
        verify_checksums: bool = False,
        fill_cache: bool = True,
    ) -> RawIterator: ...
    def close(self) -> None: ...

class RawIterator(Iterator[tuple[bytes, bytes]]):
    def __next__(self) -> tuple[bytes, bytes]: ...
    def close(self) -> None: ...

class DB:
    closed: bool
    def __init__(
        self,
        name: str,
        *,
        create_if_missing: bool = False,
        error_if_exists: bool = False,
        paranoid_checks: bool | None = None,
        write_buffer_size: int | None = None,
        max_open_files: int | None = None,
        lru_cache_size: int | None = None,
        block_size: int | None = None,
        max_file_size: int | None = None,
        compression: str | None = "snappy",
        bloom_filter_bits: int = 0,
    ) -> None: ...
    def get(
        self, key: bytes, default: bytes | None = None, *, verify_checksums: bool = False, fill_cache: bool = True
    ) -> bytes | None: ...
    def write_batch(self, *, transaction: bool = False, sync: bool = False) -> WriteBatch: ...
    def snapshot(self) -> Snapshot: ...
    def iterator(
        self,
        *,
        start: bytes | None = None,
        stop: bytes | None = None,
        reverse: bool = False,
        include_start: bool = True,
        include_stop: bool = False,
        verify_checksums: bool = False,
        fill_cache: bool = True,
    ) -> RawIterator: ...
    def compact_range(self, *, start: bytes | None = None, stop: bytes | None = None) -> None: ...
    def approximate_size(self, start: bytes, stop: bytes) -> int: ...
    def close(self) -> None: ...
