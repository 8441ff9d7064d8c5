"""Where objects' bytes come from: memory, a file read in worker threads, or a pipe whose writer may be slow."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final, Protocol

import trio

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

PIPE_BYTES: Final = 64 * 1024
"""What a pipe of Linux holds."""


class BinaryReader(Protocol):
    """An open binary file, pipe or standard input."""

    def read(self, byte_count: int, /) -> bytes:
        """Return up to that many bytes, none at the end."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


class MemorySource:
    """Implements Source over bytes in memory."""

    def __init__(self, contents: bytes) -> None:
        self._contents = memoryview(contents)
        self._position = 0

    async def read(self, byte_count: int) -> memoryview:
        """Return the next bytes."""
        start = self._position
        self._position = min(len(self._contents), start + byte_count)
        return self._contents[start : self._position]


def bytes_source(contents: bytes) -> MemorySource:
    """Return a source of bytes in memory."""
    return MemorySource(contents)


class FileSource:
    """Implements Source over an open binary file; closes it."""

    def __init__(self, file: BinaryReader) -> None:
        self._file = file

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self._file.close()

    async def read(self, byte_count: int) -> bytes:
        """Return the next bytes, fewer only at the end; a pipe gives them piece by piece."""
        return await trio.to_thread.run_sync(self._read, byte_count)

    def _read(self, byte_count: int) -> bytes:
        first = self._file.read(byte_count)
        if not first or len(first) == byte_count:
            return first
        pieces = [first]
        missing = byte_count - len(first)
        while missing and (piece := self._file.read(missing)):
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)


class PipeSource:
    """Implements Source over an open pipe, socket or terminal: who waits for its writer can be cancelled."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    async def read(self, byte_count: int) -> bytes:
        """Return the next bytes, fewer only at the end."""
        pieces: list[bytes] = []
        missing = byte_count
        while missing:
            await trio.lowlevel.wait_readable(self._descriptor)
            piece = os.read(self._descriptor, min(missing, PIPE_BYTES))
            if not piece:
                break
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)


def is_pipe(descriptor: int) -> bool:
    """Tell whether reading may wait for somebody who writes."""
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)
