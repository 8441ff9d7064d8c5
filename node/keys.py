"""An operator's two secret keys on disk, and the only code that reads or writes their files.

HOME/keys/signing signs votes, receipts and the seat's transactions; HOME/keys/network is the libp2p identity and the
TLS certificate's key. Each file: 64 hex digits (the 32-byte seed of RFC 8032) and a newline, mode 0600.

HOME/keys-next/ holds the keys that a member has offered for its own seat, with their empty signer record. From the
height at which the chain seats them they take the place of HOME/keys, which is kept as HOME/keys-of-PUBLIC.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from consensus.signing import SigningKey
from node.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from consensus.identifiers import PublicKey

SEED_BYTES: Final = 32
FOLDER: Final = "keys"
NEXT_FOLDER: Final = "keys-next"
RECORD_NAME: Final = "signer"
SIGNING_NAME: Final = "signing"
NETWORK_NAME: Final = "network"
OTHERS_MASK: Final = 0o077
"""Mode bits that would let another account of the machine read a secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorKeys:
    """The two secrets of a seat; both print their public half only."""

    signing: SigningKey
    network: SigningKey


def create_keys(directory: Path) -> OperatorKeys:
    """Draw both keys and write their files; refuses to overwrite any.

    Raises:
        ConfigurationError: A key file exists already, or the directory cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        signing = write_key(directory / SIGNING_NAME, secrets.token_bytes(SEED_BYTES))
        network = write_key(directory / NETWORK_NAME, secrets.token_bytes(SEED_BYTES))
    except OSError as error:
        raise ConfigurationError(
            f"cannot write keys under {directory} ({error.strerror}): name a directory without keys that can be written"
        ) from error
    return OperatorKeys(signing=signing, network=network)


def load_keys(directory: Path) -> OperatorKeys:
    """Read both keys.

    Raises:
        ConfigurationError: Missing, unreadable, readable by others, or not 64 hex digits.
    """
    return OperatorKeys(signing=read_key(directory / SIGNING_NAME), network=read_key(directory / NETWORK_NAME))


def take_next_keys(home: Path, keys: OperatorKeys, seated: PublicKey | None) -> bool:
    """Put HOME/keys-next in the place of HOME/keys if the chain has seated them; say whether it did.

    What the old key signed says nothing of the new one, which has signed nothing: record and log begin anew. Each step
    can be the last before a crash: finish_next_keys() goes on from there.

    Raises:
        ConfigurationError: The files cannot be moved.
    """
    following = home / NEXT_FOLDER
    if seated is None or seated == keys.signing.public or not (following / SIGNING_NAME).exists():
        return False
    if read_key(following / SIGNING_NAME).public != seated:
        return False
    before = home / f"keys-of-{keys.signing.public.hex()[:16]}"
    try:
        (home / "wal" / "log").unlink(missing_ok=True)
        if (home / RECORD_NAME).exists():
            (home / RECORD_NAME).rename(home / FOLDER / RECORD_NAME)
        for path in (home / FOLDER).iterdir():
            if path.name not in {SIGNING_NAME, NETWORK_NAME, RECORD_NAME}:  # secrets that stay the operator's
                path.rename(following / path.name)
        (home / FOLDER).rename(before)
    except OSError as error:
        detail = f"{home} cannot be changed ({error.strerror}): check its owner and the disk"
        raise ConfigurationError(detail) from error
    finish_next_keys(home)
    return True


def finish_next_keys(home: Path) -> None:
    """Finish what take_next_keys() began before a crash; otherwise do nothing."""
    if not (home / FOLDER).exists() and (home / NEXT_FOLDER).exists():
        (home / NEXT_FOLDER).rename(home / FOLDER)
    inside = home / FOLDER / RECORD_NAME
    if inside.exists() and not (home / RECORD_NAME).exists():
        inside.rename(home / RECORD_NAME)


def write_key(path: Path, seed: bytes) -> SigningKey:
    """Write a seed to a new file, durably, and return its key; raises FileExistsError rather than replace a secret."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(seed.hex() + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    return SigningKey(seed)


def read_key(path: Path) -> SigningKey:
    """Read one key file or raise ConfigurationError."""
    try:
        mode = path.stat().st_mode
        text = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise ConfigurationError(f"key file {path} cannot be read ({reason}): restore it from the safe") from error
    if mode & OTHERS_MASK:
        raise ConfigurationError(f"key file {path} is readable by others: chmod 600 {path}")
    try:
        seed = bytes.fromhex(text)
    except ValueError:
        seed = b""
    if len(seed) != SEED_BYTES:
        raise ConfigurationError(f"key file {path} is damaged: restore it from the safe")
    return SigningKey(seed)


def read_object_store_keys(path: Path) -> tuple[str, str]:
    """Return access key id and secret of an operator's own cluster: the two lines of a file that nobody else may read.

    Raises:
        ConfigurationError: Missing, unreadable, readable by others, or not two lines.
    """
    try:
        mode = path.stat().st_mode
        lines = path.read_text("ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise ConfigurationError(f"{path} cannot be read ({reason}): write access key id and secret into it") from error
    if mode & OTHERS_MASK:
        raise ConfigurationError(f"{path} is readable by others: chmod 600 {path}")
    if len(lines) != len(("access key id", "secret")):
        raise ConfigurationError(f"{path} holds {len(lines)} lines: access key id and secret are needed, one a line")
    return lines[0], lines[1]
