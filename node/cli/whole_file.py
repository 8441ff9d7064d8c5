"""A file that is in its place when it is whole: written beside it under another name, renamed at the end."""

from __future__ import annotations

import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole_file(target: Path) -> Generator[BinaryIO]:
    """Give a file to write; after an error nothing is left and what was in its place stays.

    A device or a pipe is written as it is and never replaced; directories on the way are made.

    Raises:
        OSError: The place is a directory or cannot be written.
    """
    if target.exists() and not target.is_file():
        with target.open("wb") as file:
            yield file
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with unfinished.open("xb") as file:
            yield file
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
