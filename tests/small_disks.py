"""Disks of a few megabytes, to be filled or read raw. Need the right to mount (root)."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

EXT4_SHUTDOWN = 0x8004587D
"""EXT4_IOC_SHUTDOWN, _IOR('X', 125, __u32)."""
WITHOUT_THE_JOURNAL = (2).to_bytes(4, "little")
"""EXT4_GOING_FLAGS_NOLOGFLUSH: what no flush has made durable is gone, as when the power goes."""
BALLAST_BYTES = 256 * 1024
ADMIN_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


@contextmanager
def small_disk(folder: Path, mebibytes: int) -> Generator[Path]:
    """Lay an empty disk over a folder for the time of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    mount, umount = shutil.which("mount"), shutil.which("umount")
    assert mount is not None, "the tests need mount"
    assert umount is not None, "the tests need umount"
    subprocess.run((mount, "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)), check=True)
    try:
        yield folder
    finally:
        # Lazily: who still has a file open keeps it, and the folder is free at once.
        subprocess.run((umount, "--lazy", str(folder)), check=True)


@contextmanager
def imaged_disk(folder: Path, image: Path, mebibytes: int) -> Generator[Path]:
    """Lay an ext4 disk over a folder for the time of the block: a sparse file from which deleted bytes are discarded.

    What the folder holds is copied onto the disk and, at the end, is there again as it was.
    """
    mount, umount, mkfs = (shutil.which(name, path=ADMIN_PATH) for name in ("mount", "umount", "mkfs.ext4"))
    assert mount is not None, "the tests need mount"
    assert umount is not None, "the tests need umount"
    assert mkfs is not None, "the tests need mkfs.ext4 (e2fsprogs)"
    with image.open("wb") as file:
        file.truncate(mebibytes * 1024 * 1024)
    subprocess.run((mkfs, "-q", "-E", "nodiscard", str(image)), check=True)
    aside = folder.with_name(folder.name + ".aside")
    folder.rename(aside)
    folder.mkdir(mode=0o700)
    subprocess.run((mount, "-o", "loop,discard", str(image), str(folder)), check=True)
    try:
        shutil.copytree(aside, folder, dirs_exist_ok=True)
        (folder / "lost+found").rmdir()
        folder.chmod(0o700)
        yield folder
    finally:
        subprocess.run((umount, "--lazy", str(folder)), check=True)
        folder.rmdir()
        aside.rename(folder)


@dataclass(frozen=True)
class CutDisk:
    """An ext4 disk over a folder that can lose its power: what was not flushed is not there afterwards."""

    folder: Path
    image: Path

    def cut(self) -> None:
        """Take the power: nothing written from here on, and nothing unflushed from before, is on the disk."""
        opened = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(opened, EXT4_SHUTDOWN, WITHOUT_THE_JOURNAL)
        finally:
            os.close(opened)

    def restore(self) -> None:
        """Give the power back; whoever had files open on it has ended."""
        _run_admin("umount", str(self.folder))
        _run_admin("mount", "-o", "loop,discard", str(self.image), str(self.folder))


def _run_admin(name: str, *words: str) -> None:
    command = shutil.which(name, path=ADMIN_PATH)
    assert command is not None, f"the tests need {name}"
    subprocess.run((command, *words), check=True)


def stored_bytes(image: Path) -> bytes:
    """Return all bytes of an image that are not holes, in order, each hole as one zero."""
    parts: list[bytes] = []
    with image.open("rb") as file:
        end, position = file.seek(0, os.SEEK_END), 0
        while position < end:
            try:
                start = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole is left
                    break
                raise
            position = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            parts.append(os.pread(file.fileno(), position - start, start))
    return b"\0".join(parts)


def fill_disk(file: Path, leave_bytes: int = 0) -> None:
    """Write ballast until at most so many bytes are free."""
    with file.open("ab", buffering=0) as ballast:
        while True:
            usage = os.statvfs(file.parent)
            wanted = usage.f_bavail * usage.f_frsize - leave_bytes
            if wanted <= 0:
                return
            try:
                ballast.write(bytes(min(wanted, BALLAST_BYTES)))
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    return
                raise
