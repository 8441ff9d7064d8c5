"""The few things that the signer record and the log ask of a disk; a simulation brings one that fails as disks do.

What write() was given may be lost in a power cut until flush() has returned; so may cut(). Every call blocks, and
raises OSError when the disk refuses.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from node.errors import DiskFullError, NodeError, WriteAheadLogError

if TYPE_CHECKING:
    from pathlib import Path

FILE_MODE: Final = 0o600


class DiskFile(Protocol):
    """One open file, read and written by offset."""

    def byte_count(self) -> int:
        """Return how long it is."""
        ...

    def read(self, byte_count: int) -> bytes:
        """Return its first bytes."""
        ...

    def write(self, content: bytes | bytearray, offset: int) -> int:
        """Write at an offset; return how many bytes a nearly full disk took."""
        ...

    def flush(self) -> None:
        """Make what was written durable."""
        ...

    def cut(self, byte_count: int) -> None:
        """Make it this long."""
        ...

    def close(self) -> None:
        """Release it; what was not flushed may be lost."""
        ...


class Disk(Protocol):
    """A disk by paths."""

    def exists(self, path: Path) -> bool:
        """Say whether there is a file."""
        ...

    def open(self, path: Path) -> DiskFile:
        """Open a file that is there."""
        ...

    def open_or_create(self, path: Path) -> DiskFile:
        """Open a file, made durably with its folder if there is none."""
        ...

    def replace(self, path: Path, content: bytes) -> None:
        """Give a file new content, or make it: atomically and durably; refused, it is as it was."""
        ...


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of this machine."""

    descriptor: int

    def byte_count(self) -> int:
        """Return how long it is."""
        return os.fstat(self.descriptor).st_size

    def read(self, byte_count: int) -> bytes:
        """Return its first bytes."""
        return os.pread(self.descriptor, byte_count, 0)

    def write(self, content: bytes | bytearray, offset: int) -> int:
        """Write at an offset."""
        return os.pwrite(self.descriptor, content, offset)

    def flush(self) -> None:
        """Make what was written durable."""
        os.fdatasync(self.descriptor)

    def cut(self, byte_count: int) -> None:
        """Make it this long."""
        os.ftruncate(self.descriptor, byte_count)

    def close(self) -> None:
        """Release it."""
        os.close(self.descriptor)


class LocalDisk:
    """The disk of this machine."""

    def exists(self, path: Path) -> bool:
        """Say whether there is a file."""
        return path.exists()

    def open(self, path: Path) -> LocalFile:
        """Open a file that is there."""
        return LocalFile(os.open(path, os.O_RDWR | os.O_CLOEXEC))

    def open_or_create(self, path: Path) -> LocalFile:
        """Open a file, made durably with its folder if there is none."""
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        _flush_folder(path.parent)
        return LocalFile(descriptor)

    def replace(self, path: Path, content: bytes) -> None:
        """Write a new file, flush it, then give it the name."""
        fresh = path.with_name(path.name + ".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
        try:
            # A nearly full disk takes a part: renamed, it would forget signatures.
            if os.write(descriptor, content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(fresh))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        fresh.rename(path)
        _flush_folder(path.parent)


LOCAL_DISK: Final = LocalDisk()


def write_error(path: Path, error: OSError) -> NodeError:
    """Return what a refused write means to the node: wait for space, or stop."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(f"{path} cannot be written: the disk is full")
    return WriteAheadLogError(f"{path} cannot be written: {error.strerror}; check the disk")


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
