"""Real input for a scenario: this repository, the running Python's standard library, and one large file.

An input is stored under its name and compared byte by byte with its source when it is read back.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

LEFT_OUT: Final = frozenset({"__pycache__", "site-packages", "node_modules", "dist"})
"""Folders that are made, not written; so are hidden ones: caches, environments, homes of testnets."""
KEYSTREAM_PIECE_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A file to store, and the object name that it gets."""

    name: str
    path: Path
    file_bytes: int


def demo_tree(limit: int | None = None) -> tuple[Input, ...]:
    """Return a few thousand real files of all sizes, or the first `limit` of them spread evenly over the tree."""
    repository = Path(__file__).resolve().parents[2]
    stdlib = Path(sysconfig.get_paths()["stdlib"]).resolve()
    found = (*_files("grandest", repository), *_files("python", stdlib))
    if limit is None or limit >= len(found):
        return found
    return tuple(found[index * len(found) // limit] for index in range(limit))


def write_large_file(path: Path, file_bytes: int) -> Input:
    """Write a file that no compression shortens: an AES-CTR keystream, the same in every run."""
    keystream = Cipher(algorithms.AES(bytes(32)), modes.CTR(bytes(16))).encryptor()
    with path.open("wb") as file:
        left = file_bytes
        while left:
            piece = bytes(min(left, KEYSTREAM_PIECE_BYTES))
            file.write(keystream.update(piece))
            left -= len(piece)
    return Input(name=path.name, path=path, file_bytes=file_bytes)


def _files(prefix: str, root: Path) -> Iterator[Input]:
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if any(part in LEFT_OUT or part.startswith(".") for part in parts):
            continue
        if path.is_symlink() or not path.is_file():
            continue
        yield Input(name="/".join((prefix, *parts)), path=path, file_bytes=path.stat().st_size)
