"""A node's home directory and its settings: read once, typed, frozen.

HOME/
    config.toml     optional; every setting below has a default
    genesis         the chain's first record, the same file at every member
    keys/           signing, network: secret, mode 0600 (node/keys.py); back them up in a safe
    signer          what was signed last (node/signer.py); never copy it, never restore it
    wal/            the inputs of the current height (node/write_ahead_log.py)
    chain/          blocks, ledger and state tree (LevelDB)
    units/ index/   shards (LevelDB)
    records/        sealed, erasable metadata (LevelDB)
    gateway/        optional: the home of a gateway that runs beside the node (node/gateway/home.py)
    scrub           where the rereading of all shards stands (node/scrub_task.py)
    snapshots/      states for members that are far behind, or one being fetched
    log             what the process wrote when it runs under `testnet up`
    lock            held while the node runs

config.toml, all optional:

    seat = 3                        refused at start if the keys belong to another seat
    genesis_hash = "hex"            refused at start if HOME/genesis has another hash
    listen_host = "0.0.0.0"         where libp2p and the shard channel listen; default: the seat's host of genesis
    libp2p_port, shard_port         default: the seat's ports of genesis
    api_host, api_port              default: 127.0.0.1 and the seat's port of genesis
    reserve_bytes = 67108864        disk kept free for consensus
    history_heights = 100000        blocks below the snapshots that keep their transactions; default: all
    log_level = "info"              debug, info, warning, error
    log_format = "text"             text, json
    [object_store]                  shards lie in an S3 bucket instead of units/ and index/
    endpoint = "https://ceph:7480"
    bucket = "grandest"
    prefix = "seat-3"               of this seat alone; keys/object-store holds two lines: access key id, secret
    region = "us-east-1"
    [peers.5]                       another member reached elsewhere than genesis says
    host = "10.0.0.5"
    libp2p_port = 4001
    shard_port = 4002
"""

from __future__ import annotations

import fcntl
import os
import tomllib
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from consensus.errors import RejectionError
from consensus.genesis import GENESIS_BYTES_MAX, Genesis, decode_genesis, genesis_hash, genesis_members
from consensus.identifiers import MEMBERS_MAX, GenesisHash, MemberIndex
from consensus.members import MemberSet
from node.addresses import api_url
from node.errors import ConfigurationError
from node.keys import OperatorKeys, finish_next_keys, load_keys
from storage.genesis import StorageGenesis, storage_genesis
from storage.stores.leveldb import RESERVE_BYTES_DEFAULT

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path

CONFIG_BYTES_MAX: Final = 1024 * 1024
Port = Annotated[int, Meta(ge=1, le=65_535)]


class LogLevel(StrEnum):
    """How much the log says."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """For whom the log is written: people or collectors."""

    TEXT = "text"
    JSON = "json"


class PeerOverride(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where this node reaches another member, if not where genesis says."""

    host: str | None = None
    libp2p_port: Port | None = None
    shard_port: Port | None = None


class ObjectStoreSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where an operator's own cluster keeps the shards."""

    endpoint: Annotated[str, Meta(pattern="^https?://[^/]+$")]
    bucket: Annotated[str, Meta(min_length=3, max_length=63)]
    prefix: Annotated[str, Meta(min_length=1, max_length=512)]
    region: str = "us-east-1"


class ConfigFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """config.toml as it is written; an unknown setting is refused, so that a typing error is not silent."""

    seat: Annotated[int, Meta(ge=0, le=63)] | None = None
    genesis_hash: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")] | None = None
    listen_host: str | None = None
    libp2p_port: Port | None = None
    shard_port: Port | None = None
    api_host: str = "127.0.0.1"
    api_port: Port | None = None
    reserve_bytes: Annotated[int, Meta(ge=0)] = RESERVE_BYTES_DEFAULT
    history_heights: Annotated[int, Meta(ge=0)] | None = None
    log_level: LogLevel = LogLevel.INFO
    log_format: LogFormat = LogFormat.TEXT
    object_store: ObjectStoreSettings | None = None
    peers: dict[str, PeerOverride] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class SeatAddress:
    """Where a member is reached, after overrides."""

    seat: MemberIndex
    host: str
    libp2p_port: int
    shard_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Everything a node knows when it starts; nothing of it changes afterwards."""

    home: Path
    genesis: Genesis
    genesis_hash: GenesisHash
    storage_genesis: StorageGenesis
    members: MemberSet
    seat: MemberIndex
    keys: OperatorKeys
    listen_host: str
    libp2p_port: int
    shard_port: int
    api_host: str
    api_port: int
    reserve_bytes: int
    history_heights: int | None
    """Blocks below the snapshots that keep their transactions; None for all."""
    log_level: LogLevel
    log_format: LogFormat
    peers: tuple[SeatAddress, ...]
    """Every other member of genesis, in seat order."""
    overrides: Mapping[MemberIndex, PeerOverride]
    """Members that this node reaches elsewhere than their seats' records say."""
    object_store: ObjectStoreSettings | None = None

    @property
    def own_api(self) -> str:
        """Return the base URL of this node's API, for who runs beside it."""
        return api_url(self.api_host, self.api_port)


def load_config(home: Path) -> NodeConfig:
    """Read a home directory.

    Raises:
        ConfigurationError: Something is missing, unreadable, or does not fit together; the message says what to do.
    """
    if not home.is_dir():
        raise ConfigurationError(f"{home} is not a directory: make one with `grandest testnet make`")
    settings = read_config_file(home / "config.toml")
    genesis = read_genesis(home / "genesis")
    pin = genesis_hash(genesis)
    if settings.genesis_hash is not None and settings.genesis_hash != pin.hex():
        raise ConfigurationError(
            f"{home / 'genesis'} has the hash {pin.hex()}, config.toml pins {settings.genesis_hash}: wrong genesis file"
        )
    finish_next_keys(home)
    keys = load_keys(home / "keys")
    storage = _storage_part(genesis)
    seat = _own_seat(home, settings, genesis, storage, keys)
    own = _own_address(home, settings, storage, seat)
    return NodeConfig(
        home=home,
        genesis=genesis,
        genesis_hash=pin,
        storage_genesis=storage,
        members=genesis_members(genesis),
        seat=seat,
        keys=keys,
        listen_host=own.host,
        libp2p_port=own.libp2p_port,
        shard_port=own.shard_port,
        api_host=settings.api_host,
        api_port=own.api_port,
        reserve_bytes=settings.reserve_bytes,
        history_heights=settings.history_heights,
        log_level=settings.log_level,
        log_format=settings.log_format,
        object_store=settings.object_store,
        peers=_peer_addresses(settings, storage, seat),
        overrides={MemberIndex(int(number)): override for number, override in settings.peers.items()},
    )


def read_config_file(path: Path) -> ConfigFile:
    """Read config.toml; an absent file means all defaults."""
    try:
        with path.open("rb") as stream:
            encoded = stream.read(CONFIG_BYTES_MAX + 1)
    except FileNotFoundError:
        return ConfigFile()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error.strerror}): let this account read it") from error
    if len(encoded) > CONFIG_BYTES_MAX:
        raise ConfigurationError(f"{path} is larger than {CONFIG_BYTES_MAX} bytes: put the right file there")
    try:
        return msgspec.convert(tomllib.loads(encoded.decode()), ConfigFile, strict=True)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise ConfigurationError(f"{path}: {error}; correct that setting or remove it") from error


def read_genesis(path: Path) -> Genesis:
    """Read a genesis file or raise ConfigurationError."""
    try:
        with path.open("rb") as stream:
            encoded = stream.read(GENESIS_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error.strerror}): copy it from another member") from error
    try:
        return decode_genesis(encoded)
    except RejectionError as error:
        raise ConfigurationError(f"{path} is no genesis ({error.detail}): copy it from another member") from error


@contextmanager
def locked_home(home: Path) -> Generator[None]:
    """Hold the home for this process alone.

    Raises:
        ConfigurationError: Another process holds it, or it cannot be written.
    """
    try:
        descriptor = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(
            f"{home} cannot be written ({error.strerror}): check its owner and the disk"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise ConfigurationError(f"{home} is in use by another node: stop it, or name another home") from error
    finally:
        os.close(descriptor)


def is_locked(home: Path) -> bool:
    """Say whether a process runs the node of a home."""
    try:
        descriptor = os.open(home / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _storage_part(genesis: Genesis) -> StorageGenesis:
    try:
        part = storage_genesis(genesis)
    except RejectionError as error:
        raise ConfigurationError(f"genesis names no seats ({error.detail}): copy it from another member") from error
    if len(part.seats) != len(genesis.members):
        counted = f"genesis has {len(part.seats)} seats for {len(genesis.members)} members"
        raise ConfigurationError(f"{counted}: copy it from another member")
    return part


def _own_seat(
    home: Path, settings: ConfigFile, genesis: Genesis, storage: StorageGenesis, keys: OperatorKeys
) -> MemberIndex:
    if keys.signing.public not in genesis.members:
        if settings.seat is None:
            raise ConfigurationError(
                f"the signing key in {home / 'keys'} holds no seat of this genesis: wrong key or genesis, or"
                " config.toml does not say which seat it is offered"
            )
        return MemberIndex(settings.seat)
    seat = MemberIndex(genesis.members.index(keys.signing.public))
    if settings.seat is not None and settings.seat != seat:
        differ = f"config.toml says seat {settings.seat}, the signing key belongs to seat {seat}"
        raise ConfigurationError(f"{differ}: correct whichever is wrong")
    if storage.seats[seat].network_key != keys.network.public:
        raise ConfigurationError(
            f"the network key in {home / 'keys'} is not that of seat {seat} in genesis: restore it from the safe"
        )
    return seat


def _own_address(home: Path, settings: ConfigFile, storage: StorageGenesis, number: MemberIndex) -> _OwnAddress:
    """Return where this node listens: what config.toml says, else its seat of genesis."""
    seat = storage.seats[number] if number < len(storage.seats) else None
    host = settings.listen_host or (seat.host if seat else None)
    ports = (
        settings.libp2p_port or (seat.libp2p_port if seat else None),
        settings.shard_port or (seat.shard_port if seat else None),
        settings.api_port or (seat.api_port if seat else None),
    )
    libp2p_port, shard_port, api_port = ports
    if host is None or libp2p_port is None or shard_port is None or api_port is None:
        raise ConfigurationError(
            f"{home / 'config.toml'} must say listen_host, libp2p_port, shard_port and api_port: this seat is not of"
            " genesis"
        )
    return _OwnAddress(host=host, libp2p_port=libp2p_port, shard_port=shard_port, api_port=api_port)


@dataclass(frozen=True, slots=True, kw_only=True)
class _OwnAddress:
    host: str
    libp2p_port: int
    shard_port: int
    api_port: int


def _peer_addresses(settings: ConfigFile, storage: StorageGenesis, own: MemberIndex) -> tuple[SeatAddress, ...]:
    if strangers := sorted(name for name in settings.peers if not name.isdecimal() or int(name) >= MEMBERS_MAX):
        raise ConfigurationError(f"config.toml: [peers.{strangers[0]}] is no seat: seats are 0 to {MEMBERS_MAX - 1}")
    found: list[SeatAddress] = []
    for index, seat in enumerate(storage.seats):
        override = settings.peers.get(str(index), PeerOverride())
        found.append(
            SeatAddress(
                seat=MemberIndex(index),
                host=override.host or seat.host,
                libp2p_port=override.libp2p_port or seat.libp2p_port,
                shard_port=override.shard_port or seat.shard_port,
            )
        )
    return tuple(address for address in found if address.seat != own)
