"""A file that is in its place when it is whole: written beside it under another name, renamed at the end."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole_file(target: Path) -> Generator[BinaryIO]:
    """Give a file to write; after an error nothing is left and what was in its place stays.

    A device or a pipe is written as it is and never replaced; directories on the way are made. Who may read a file may
    read the one that takes its place.

    Raises:
        OSError: The place is a directory, a file that may not be written, or cannot be written.
    """
    if target.exists() and not target.is_file():
        with target.open("wb") as file:
            yield file
        return
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
    if mode is not None and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "it may not be written", str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with unfinished.open("xb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            yield file
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
