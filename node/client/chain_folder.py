"""Which chain a folder speaks of, and who answers for it: the files `genesis` and `nodes` (base URLs, one a line)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from consensus.errors import RejectionError
from consensus.genesis import decode_genesis
from node.client.home import GENESIS_FILE, NODES_FILE
from node.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from consensus.genesis import Genesis


def write_chain(folder: Path, genesis: Path, node: str) -> None:
    """Copy a genesis into a folder, made with mode 0700, and note one node's base URL.

    Raises:
        ConfigurationError: It is no genesis, or the folder cannot be written.
    """
    try:
        contents = genesis.read_bytes()
        decode_genesis(contents)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / GENESIS_FILE).write_bytes(contents)
        (folder / NODES_FILE).write_text(node + "\n")
    except OSError as error:
        raise ConfigurationError(f"{error.filename}: {error.strerror}") from error
    except RejectionError as error:
        raise ConfigurationError(f"{genesis} is no genesis ({error}); copy it from an operator") from error


def read_chain(folder: Path) -> tuple[Genesis, tuple[str, ...]]:
    """Return a folder's genesis and the base URLs of its nodes; raises ConfigurationError."""
    try:
        return decode_genesis((folder / GENESIS_FILE).read_bytes()), tuple((folder / NODES_FILE).read_text().split())
    except OSError as error:
        raise ConfigurationError(f"{error.filename}: {error.strerror}") from error
    except RejectionError as error:
        raise ConfigurationError(f"{folder / GENESIS_FILE} is no genesis ({error})") from error
