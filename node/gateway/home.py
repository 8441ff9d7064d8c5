"""A gateway's home: where it listens, which nodes it asks, whose tenants it serves.

    gateway.toml              settings, below
    tenants/NAME/             a client's home (node/client/home.py) of each tenant that has granted this gateway, and
    tenants/NAME/access-keys  its S3 access keys, JSON (mode 0600)
    own/                      the gateway's own key (own_key.py): tenants that grant it are served as the chain says
    index/                    plaintext indexes, made again when they are gone
    outbox/                   events that webhooks have not taken yet
    certificate, key          PEM, for TLS; without them plain HTTP

Settings: host, port (9000), metrics_port (0: none), mode ("gateway-trusted" on an operator's machine, "end-to-end" on
the customer's own), requests_per_second (of each tenant, rates.py; 2,000).
"""

from __future__ import annotations

import os
import secrets
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from node.client.home import ClientHome, read_client_home
from node.errors import ConfigurationError
from node.gateway.access_keys import SECRET_BYTES_MAX, AccessKey, AccessSecret, Verb
from node.gateway.own_key import OWN_FOLDER, read_own_key
from node.gateway.rates import REQUESTS_PER_SECOND

if TYPE_CHECKING:
    from pathlib import Path

    from node.client.granted import Granted
    from node.gateway.own_key import OwnKey
    from storage.identifiers import TenantId

SETTINGS_FILE: Final = "gateway.toml"
ACCESS_KEYS_FILE: Final = "access-keys"
TENANTS_FOLDER: Final = "tenants"
INDEX_FOLDER: Final = "index"
OUTBOX_FOLDER: Final = "outbox"
CERTIFICATE_FILE: Final = "certificate"
PRIVATE_KEY_FILE: Final = "key"
PORT_DEFAULT: Final = 9000
FILE_BYTES_MAX: Final = 1024 * 1024
TENANTS_MAX: Final = 1_024
ACCESS_KEY_BYTES: Final = 10
SECRET_KEY_BYTES: Final = 20


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """gateway.toml."""

    host: str = "127.0.0.1"
    port: int = PORT_DEFAULT
    metrics_port: int = 0
    mode: str = "gateway-trusted"
    requests_per_second: Annotated[int, msgspec.Meta(ge=1)] = REQUESTS_PER_SECOND


class StoredAccessKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One access key as its file keeps it."""

    access_key: str
    secret_key: str
    verbs: tuple[str, ...] | None = None
    buckets: tuple[str, ...] | None = None
    expires_ms: int | None = None

    def __repr__(self) -> str:
        """Reveal nothing."""
        return f"StoredAccessKey({self.access_key}, redacted)"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedTenant:
    """A tenant that has granted this gateway."""

    name: str
    client_home: ClientHome
    access_keys: tuple[AccessKey, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayHome:
    """All that a gateway needs to start."""

    folder: Path
    settings: GatewaySettings
    tenants: tuple[ServedTenant, ...]
    own: OwnKey | None

    @property
    def certificate(self) -> Path | None:
        """Return the certificate's file, None for plain HTTP."""
        path = self.folder / CERTIFICATE_FILE
        return path if path.is_file() else None


def read_gateway_home(folder: Path, nodes: tuple[str, ...] = ()) -> GatewayHome:
    """Read a gateway's home.

    Args:
        folder: As described above.
        nodes: Base URLs of nodes to ask first; without any those of each tenant's home.

    Raises:
        ConfigurationError: What is absent or malformed, and what to do.
    """
    settings = _read_settings(folder / SETTINGS_FILE)
    own = read_own_key(folder / OWN_FOLDER) if (folder / OWN_FOLDER).is_dir() else None
    tenants = folder / TENANTS_FOLDER
    names = sorted(path.name for path in tenants.iterdir() if path.is_dir()) if tenants.is_dir() else []
    if not names and own is None:
        wanted = f"a tenant's home in {TENANTS_FOLDER}/, or a key: grandest tenant identity {folder / OWN_FOLDER}"
        raise ConfigurationError(f"{folder} serves nobody; it needs {wanted}")
    if len(names) > TENANTS_MAX:
        raise ConfigurationError(f"{tenants} holds {len(names)} tenants; at most {TENANTS_MAX} can be served")
    served = tuple(_read_tenant(tenants / name, nodes) for name in names)
    known = [access_key.access_key for tenant in served for access_key in tenant.access_keys]
    if len(set(known)) != len(known):
        raise ConfigurationError(f"{tenants}: one access key belongs to two tenants")
    return GatewayHome(folder=folder, settings=settings, tenants=served, own=own)


def granted_home(own: OwnKey, granted: Granted, nodes: tuple[str, ...]) -> ClientHome:
    """Return the client's home of a tenant that has granted a gateway's own key; its keys are on no disk."""
    tenant = granted.master_keys.tenant
    return ClientHome(
        folder=own.folder / tenant.hex(),
        signing_key=own.signing_key,
        master_keys=granted.master_keys.keys(),
        tenant=tenant,
        genesis=own.genesis,
        nodes=(*nodes, *(node for node in own.nodes if node not in nodes)),
    )


def granted_access_keys(granted: Granted) -> tuple[AccessKey, ...]:
    """Return a tenant's access keys as a gateway knows them."""
    return tuple(
        AccessKey(
            access_key=found.access_key,
            secret=AccessSecret(found.secret_key.encode()),
            tenant=granted.master_keys.tenant,
            verbs=frozenset(Verb) if found.verbs is None else frozenset(Verb(verb.value) for verb in found.verbs),
            buckets=None if found.buckets is None else frozenset(found.buckets),
            expires_ms=found.expires_ms,
        )
        for found in granted.access_keys
        if found.access_key.isascii() and len(found.secret_key.encode()) <= SECRET_BYTES_MAX
    )


def new_access_key() -> StoredAccessKey:
    """Draw an access key that may do everything."""
    name = f"GR{secrets.token_hex(ACCESS_KEY_BYTES - 1).upper()}"
    return StoredAccessKey(access_key=name, secret_key=secrets.token_hex(SECRET_KEY_BYTES))


def write_access_keys(tenant_folder: Path, access_keys: tuple[StoredAccessKey, ...]) -> None:
    """Write a tenant's access keys, replacing the file."""
    path = tenant_folder / ACCESS_KEYS_FILE
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(access_keys))
    fresh.replace(path)


def read_access_keys(tenant_folder: Path) -> tuple[StoredAccessKey, ...]:
    """Read a tenant's access keys.

    Raises:
        ConfigurationError: Absent or malformed.
    """
    path = tenant_folder / ACCESS_KEYS_FILE
    try:
        return msgspec.json.decode(_read(path), type=tuple[StoredAccessKey, ...])
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ConfigurationError(f"{path} holds no access keys") from error


def _read_tenant(folder: Path, nodes: tuple[str, ...]) -> ServedTenant:
    client_home = read_client_home(folder)
    if nodes:
        client_home = read_client_home(folder, (*nodes, *(node for node in client_home.nodes if node not in nodes)))
    access_keys = tuple(_access_key(folder, stored, client_home.tenant) for stored in read_access_keys(folder))
    return ServedTenant(name=folder.name, client_home=client_home, access_keys=access_keys)


def _access_key(folder: Path, stored: StoredAccessKey, tenant: TenantId) -> AccessKey:
    secret = stored.secret_key.encode()
    if not 1 <= len(secret) <= SECRET_BYTES_MAX or not stored.access_key.isascii() or not stored.access_key:
        raise ConfigurationError(f"{folder / ACCESS_KEYS_FILE} holds a malformed access key")
    try:
        verbs = frozenset(Verb) if stored.verbs is None else frozenset(Verb(verb) for verb in stored.verbs)
    except ValueError as error:
        raise ConfigurationError(f"{folder / ACCESS_KEYS_FILE} names a verb that is none: {error}") from error
    return AccessKey(
        access_key=stored.access_key,
        secret=AccessSecret(secret),
        tenant=tenant,
        verbs=verbs,
        buckets=None if stored.buckets is None else frozenset(stored.buckets),
        expires_ms=stored.expires_ms,
    )


def _read_settings(path: Path) -> GatewaySettings:
    try:
        return msgspec.convert(tomllib.loads(_read(path).decode()), GatewaySettings)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: {error}") from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            found = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    if len(found) > FILE_BYTES_MAX:
        raise ConfigurationError(f"{path} has more than {FILE_BYTES_MAX} bytes")
    return found
