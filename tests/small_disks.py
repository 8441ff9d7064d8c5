"""Disks of a few megabytes, to be filled: a tmpfs of its own for a folder. Needs the right to mount (root)."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

BALLAST_BYTES = 256 * 1024


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
