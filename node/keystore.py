"""A file of secrets under a passphrase: what a tenant's owner keeps, and nobody else's machine ever sees.

    keystore = canonical [1, salt, operations, memory bytes, sealed]
    key      = Argon2id(passphrase, salt, operations, memory bytes), 32 bytes     RFC 9106
    sealed   = XSalsa20-Poly1305 under it, its random nonce in front: canonical OwnerSecrets

Mode 0600, replaced whole and durably. The passphrase comes from a terminal or from a file with mode 0600; it is never
an argument or an environment variable, which other accounts of a machine can read.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta
from nacl.exceptions import CryptoError
from nacl.pwhash import argon2id
from nacl.secret import SecretBox
from nacl.utils import random as random_bytes

from consensus.encoding import Record, decode, encode
from consensus.errors import RejectionError
from consensus.signing import SigningKey
from node.errors import ConfigurationError
from node.keys import OTHERS_MASK
from storage.tenant_records import ACCESS_KEYS_MAX, AccessKeyRecord, MasterKeys

if TYPE_CHECKING:
    from pathlib import Path

KEYSTORE_FILE: Final = "keystore"
KEYSTORE_BYTES_MAX: Final = 256 * 1024
PASSPHRASE_BYTES_MAX: Final = 1_024
OPERATIONS: Final = argon2id.OPSLIMIT_MODERATE
MEMORY_BYTES: Final = argon2id.MEMLIMIT_MODERATE
"""256 MiB and about 0.7 s: what a guess costs."""
MEMORY_BYTES_MAX: Final = 1 << 30
SEED = Meta(min_length=32, max_length=32)


class OwnerSecrets(Record):
    """All secrets of a tenant's owner.

    Attributes:
        signing_seed: Of the tenant's own key.
        client_seed: Of the key of its own client, which it grants to itself.
        master_keys: All of them; the last one seals.
        access_keys: S3 access keys that gateways honour.
    """

    signing_seed: Annotated[bytes, SEED]
    client_seed: Annotated[bytes, SEED]
    master_keys: MasterKeys
    access_keys: Annotated[tuple[AccessKeyRecord, ...], Meta(max_length=ACCESS_KEYS_MAX)]

    def __repr__(self) -> str:
        """Name the public half only."""
        return f"OwnerSecrets(public={self.signing_key.public.hex()[:16]}, redacted)"

    @property
    def signing_key(self) -> SigningKey:
        """Return the tenant's own key."""
        return SigningKey(self.signing_seed)

    @property
    def client_key(self) -> SigningKey:
        """Return the key of the tenant's own client."""
        return SigningKey(self.client_seed)


class KeystoreFile(Record):
    """What lies on the disk."""

    format_version: Annotated[int, Meta(ge=1, le=1)]
    salt: Annotated[bytes, Meta(min_length=argon2id.SALTBYTES, max_length=argon2id.SALTBYTES)]
    operations: Annotated[int, Meta(ge=1, le=64)]
    memory_bytes: Annotated[int, Meta(ge=argon2id.MEMLIMIT_MIN, le=MEMORY_BYTES_MAX)]
    sealed: Annotated[bytes, Meta(max_length=KEYSTORE_BYTES_MAX)]


def write_keystore(
    path: Path,
    secrets: OwnerSecrets,
    passphrase: bytes,
    operations: int = OPERATIONS,
    memory_bytes: int = MEMORY_BYTES,
) -> None:
    """Write a keystore in place of the one that is there, durably.

    Raises:
        ConfigurationError: An empty passphrase, or a folder that cannot be written.
        RejectionError: Secrets that could not be read again; what is there stays.
    """
    if not passphrase:
        raise ConfigurationError("an empty passphrase protects nothing: choose one")
    plain = encode(secrets)
    decode(plain, OwnerSecrets, bytes_max=KEYSTORE_BYTES_MAX)  # it takes the place of the only copy
    salt = random_bytes(argon2id.SALTBYTES)
    box = _box(passphrase, salt, operations, memory_bytes)
    kept = KeystoreFile(
        format_version=1,
        salt=salt,
        operations=operations,
        memory_bytes=memory_bytes,
        sealed=bytes(box.encrypt(plain)),
    )
    try:
        write_private(path, encode(kept))
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written ({error.strerror})") from error


def read_keystore(path: Path, passphrase: bytes) -> OwnerSecrets:
    """Open a keystore.

    Raises:
        ConfigurationError: Absent, readable by others, damaged, or another passphrase.
    """
    try:
        kept = decode(read_private(path, KEYSTORE_BYTES_MAX), KeystoreFile, bytes_max=KEYSTORE_BYTES_MAX)
        plain = _box(passphrase, kept.salt, kept.operations, kept.memory_bytes).decrypt(kept.sealed)
        return decode(bytes(plain), OwnerSecrets, bytes_max=KEYSTORE_BYTES_MAX)
    except RejectionError as error:
        raise ConfigurationError(f"{path} is damaged: restore it from the safe") from error
    except CryptoError as error:
        raise ConfigurationError(f"{path} does not open: another passphrase, or it is damaged") from error


def read_passphrase(path: Path) -> bytes:
    """Read a passphrase from a file of one line with mode 0600; raises ConfigurationError."""
    return read_private(path, PASSPHRASE_BYTES_MAX).rstrip(b"\r\n")


def read_private(path: Path, bytes_max: int) -> bytes:
    """Read a file that nobody else may read; raises ConfigurationError."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            contents = file.read(bytes_max + 1)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error.strerror})") from error
    if mode & OTHERS_MASK:
        raise ConfigurationError(f"{path} is readable by others: chmod 600 {path}")
    if len(contents) > bytes_max:
        raise ConfigurationError(f"{path} has more than {bytes_max} bytes")
    return contents


def write_private(path: Path, contents: bytes) -> None:
    """Write a file that nobody else may read, in place of the one that is there, durably; raises OSError."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(contents)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _box(passphrase: bytes, salt: bytes, operations: int, memory_bytes: int) -> SecretBox:
    return SecretBox(argon2id.kdf(SecretBox.KEY_SIZE, passphrase, salt, opslimit=operations, memlimit=memory_bytes))
