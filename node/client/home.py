"""A client's home: the few small files that a person who stores objects keeps, and nobody else sees.

    signing   64 hex digits  seed of the client's Ed25519 key: its transactions and its TLS certificate (mode 0600)
    master    64 hex digits  the tenant's master keys, one a line, the latest last: all names and records are sealed
                             under keys that hang from them (mode 0600)
    tenant    32 hex digits  the tenant's handle on chain
    genesis   canonical      the chain's genesis; its hash pins everything that the client believes
    nodes     text, optional base URLs of nodes, one a line; without it the seats of the genesis. Any live one will do
    spool/    files          columns of absent holders that wait for them (node/client/spool.py)

In a testnet this is HOME/client/. `--node URL --keys DIR` takes the same folder, with the URL in place of `nodes`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from consensus.errors import RejectionError
from consensus.genesis import Genesis, decode_genesis
from consensus.signing import SigningKey
from node.addresses import api_url
from node.errors import ConfigurationError
from storage.genesis import storage_genesis
from storage.identifiers import TenantId
from storage.sealing import SecretKey
from storage.tags import MasterKey

SIGNING_FILE: Final = "signing"
MASTER_FILE: Final = "master"
TENANT_FILE: Final = "tenant"
GENESIS_FILE: Final = "genesis"
NODES_FILE: Final = "nodes"
SPOOL_FOLDER: Final = "spool"
SMALL_FILE_BYTES_MAX: Final = 16 * 1024
"""Keys and addresses; a larger file is not one of ours."""
GENESIS_FILE_BYTES_MAX: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientHome:
    """What a client needs to speak for a tenant; secrets are not shown."""

    folder: Path
    signing_key: SigningKey
    master_keys: tuple[MasterKey, ...]
    """The latest last: it seals, any may open."""
    tenant: TenantId
    genesis: Genesis
    nodes: tuple[str, ...]

    @property
    def spool(self) -> Path:
        """Where columns wait for their absent holders."""
        return self.folder / SPOOL_FOLDER


def write_client_home(
    folder: Path,
    *,
    signing_seed: bytes,
    master_seed: bytes,
    tenant: TenantId,
    genesis: bytes,
    nodes: tuple[str, ...] = (),
) -> None:
    """Make a client's home; the genesis maker calls it.

    Args:
        folder: Made with mode 0700; its files are replaced.
        signing_seed: 32 bytes, seed of the granted client key.
        master_seed: 32 bytes.
        tenant: The tenant that granted the key.
        genesis: The encoded genesis.
        nodes: Base URLs such as "http://127.0.0.1:8080"; without any, those of the seats in the genesis.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write_secret(folder / SIGNING_FILE, signing_seed)
    _write_secret(folder / MASTER_FILE, master_seed)
    (folder / TENANT_FILE).write_text(tenant.hex() + "\n")
    (folder / GENESIS_FILE).write_bytes(genesis)
    if nodes:
        (folder / NODES_FILE).write_text("".join(f"{node}\n" for node in nodes))


def read_client_home(folder: Path, nodes: tuple[str, ...] = ()) -> ClientHome:
    """Read a client's home.

    Args:
        folder: HOME/client of a testnet, or the folder given by --keys.
        nodes: Base URLs that replace those of the folder; needed when it names none.

    Raises:
        ConfigurationError: A file is absent, unreadable or malformed; says which and what to do.
    """
    signing_seed = _read_hex(folder / SIGNING_FILE, 32)
    master_seeds = _read_lines(folder / MASTER_FILE, 32)
    tenant = _read_hex(folder / TENANT_FILE, 16)
    try:
        genesis = decode_genesis(_read(folder / GENESIS_FILE, GENESIS_FILE_BYTES_MAX))
    except RejectionError as error:
        raise ConfigurationError(
            f"{folder / GENESIS_FILE} is no genesis ({error}); copy it from an operator"
        ) from error
    return ClientHome(
        folder=folder,
        signing_key=SigningKey(signing_seed),
        master_keys=tuple(MasterKey(SecretKey(seed)) for seed in master_seeds),
        tenant=TenantId(tenant),
        genesis=genesis,
        nodes=tuple(node.rstrip("/") for node in nodes or _read_nodes(folder / NODES_FILE, genesis)),
    )


def _write_secret(path: Path, secret: bytes) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret.hex() + "\n")


def _read(path: Path, bytes_max: int) -> bytes:
    try:
        with path.open("rb") as file:
            found = file.read(bytes_max + 1)
    except OSError as error:
        detail = f"{path}: {error.strerror}; give --home of a testnet or --node URL --keys DIR"
        raise ConfigurationError(detail) from error
    if len(found) > bytes_max:
        raise ConfigurationError(f"{path} has more than {bytes_max} bytes and is not the client's file")
    return found


def _read_hex(path: Path, byte_count: int) -> bytes:
    return _bytes_of(path, _read(path, SMALL_FILE_BYTES_MAX), byte_count)


def _read_lines(path: Path, byte_count: int) -> list[bytes]:
    """Read a file of one secret a line, at least one."""
    lines = _read(path, SMALL_FILE_BYTES_MAX).split(b"\n")
    return [_bytes_of(path, line, byte_count) for line in lines if line] or [_bytes_of(path, b"", byte_count)]


def _bytes_of(path: Path, text: bytes, byte_count: int) -> bytes:
    try:
        found = bytes.fromhex(text.decode("ascii"))
    except ValueError as error:
        raise ConfigurationError(f"{path} must hold {2 * byte_count} hex digits") from error
    if len(found) != byte_count:
        raise ConfigurationError(f"{path} must hold {2 * byte_count} hex digits, not {2 * len(found)}")
    return found


def _read_nodes(path: Path, genesis: Genesis) -> tuple[str, ...]:
    if path.exists():
        lines = _read(path, SMALL_FILE_BYTES_MAX).decode("utf-8", "replace").split()
        if not lines:
            raise ConfigurationError(f"{path} names no node; put one base URL a line or give --node URL")
        return tuple(lines)
    return tuple(api_url(seat.host, seat.api_port) for seat in storage_genesis(genesis).seats)
