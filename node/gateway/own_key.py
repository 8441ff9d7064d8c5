"""A gateway's own key, by which tenants grant it: the folder `own/` of its home.

    signing    64 hex digits: seed of the Ed25519 key (mode 0600)
    genesis    the chain's
    nodes      base URLs of nodes, one a line
    identity   JSON of what a tenant needs to grant it: public key and certificate; nothing of it is secret

What tenants have sealed to this key (their master keys, and access keys under them) is fetched from the nine and kept
in memory alone (grants.py).
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from consensus.identifiers import PublicKey
from consensus.signing import SigningKey
from node.client.chain_folder import read_chain, write_chain
from node.client.home import SIGNING_FILE
from node.errors import ConfigurationError
from node.keystore import read_private, write_private
from node.network.certificates import make_certificate

if TYPE_CHECKING:
    from pathlib import Path

    from consensus.genesis import Genesis

OWN_FOLDER: Final = "own"
IDENTITY_FILE: Final = "identity"
SEED_BYTES: Final = 32
SEED_FILE_BYTES_MAX: Final = 128


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What a gateway shows a tenant that is to grant it: nothing of it is secret."""

    public_key: str
    certificate: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnKey:
    """A gateway's own key, and the chain on which tenants grant it."""

    folder: Path
    signing_key: SigningKey
    genesis: Genesis
    nodes: tuple[str, ...]


def make_own_key(folder: Path, genesis: Path, node: str) -> Identity:
    """Draw a key into a folder that has none, and return what tenants are shown.

    Raises:
        ConfigurationError: The folder has a key, or the genesis is none.
    """
    if (folder / SIGNING_FILE).exists():
        raise ConfigurationError(f"{folder} has a key: name another folder")
    signing_key = SigningKey(secrets.token_bytes(SEED_BYTES))
    identity = Identity(public_key=signing_key.public.hex(), certificate=make_certificate(signing_key).hex())
    write_chain(folder, genesis, node)
    try:
        (folder / IDENTITY_FILE).write_bytes(msgspec.json.encode(identity))
    except OSError as error:
        raise ConfigurationError(f"{error.filename}: {error.strerror}") from error
    write_private(folder / SIGNING_FILE, signing_key.seed().hex().encode() + b"\n")
    return identity


def read_own_key(folder: Path) -> OwnKey:
    """Read a gateway's own key.

    Raises:
        ConfigurationError: A file is absent or malformed, or the key readable by others.
    """
    try:
        seed = bytes.fromhex(read_private(folder / SIGNING_FILE, SEED_FILE_BYTES_MAX).decode())
        genesis, nodes = read_chain(folder)
    except (OSError, ValueError, ConfigurationError) as error:
        raise ConfigurationError(f"{folder} is no gateway's folder ({error}): make its identity first") from error
    if len(seed) != SEED_BYTES:
        raise ConfigurationError(f"{folder / SIGNING_FILE} must hold {2 * SEED_BYTES} hex digits")
    return OwnKey(folder=folder, signing_key=SigningKey(seed), genesis=genesis, nodes=nodes)


def read_identity(path: Path) -> tuple[PublicKey, bytes]:
    """Read what a gateway shows; raises ConfigurationError."""
    try:
        identity = msgspec.json.decode(path.read_bytes(), type=Identity)
        return PublicKey(bytes.fromhex(identity.public_key)), bytes.fromhex(identity.certificate)
    except (OSError, msgspec.DecodeError, ValueError) as error:
        raise ConfigurationError(f"{path} is no identity ({error}): the gateway makes one") from error
