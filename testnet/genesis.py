"""Makes a testnet's home: nine operators with keys, one tenant with a granted client, one genesis.

All nine on this machine, each with free ports of loopback; or each on a machine of its own, with the usual ports.

Layout of a testnet's home (all secrets are files of mode 0600 that hold hex and a line end):

    genesis                     what every hash and signature of this chain is bound to
    seat-0 .. seat-8            each a node's whole home, movable to a machine of its own:
        config.toml             which seat this is, the pinned genesis hash; settings of node/config.py
        genesis
        keys/signing            32-byte seed: votes, receipts, the seat's transactions
        keys/network            32-byte seed: libp2p identity and TLS certificate
        log                     what the node printed
        pid                     the running process (testnet/processes.py)
        gateway/                the home of its gateway (node/gateway/home.py), which the demo tenant granted
    client                      a granted client of the demo tenant (node/client/home.py)
    tenant/signing              32-byte seed of the tenant itself: grants and revokes

The home's genesis is written last: a home without it was not finished and is refused.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from consensus.encoding import encode
from consensus.genesis import GENESIS_BYTES_MAX, ConsensusParameters, Genesis, decode_genesis, genesis_hash
from consensus.signing import SigningKey
from node.addresses import api_url
from node.client.home import write_client_home
from node.clock import now_ms
from node.errors import ConfigurationError
from node.gateway.home import TENANTS_FOLDER, new_access_key, write_access_keys
from node.gateway.own_key import OWN_FOLDER, make_own_key
from node.gateway_process import GATEWAY_FOLDER, SETTINGS_FILE
from node.keys import SEED_BYTES, OperatorKeys, create_keys, write_key
from node.network.certificates import make_certificate
from node.signer import create_signer_record
from storage.genesis import GenesisTenant, Grant, Seat, StorageGenesis, StorageParameters, encode_storage_genesis
from storage.identifiers import TenantId

LOOPBACK: Final = "127.0.0.1"
PORT_MIN: Final = 15_000
PORT_MAX: Final = 32_000
"""Below the ports that Linux gives to outgoing connections (from 32768): a seat that was down finds its own free."""
PORTS_PER_SEAT: Final = 4
LIBP2P_PORT: Final = 4001
SHARD_PORT: Final = 4002
API_PORT: Final = 8080
S3_PORT: Final = 9000
"""Where a node listens that has a machine of its own."""
CONFIGURATION: Final = """# Settings of one node; node/config.py names them all.
seat = {seat}
genesis_hash = "{pin}"
api_host = "{host}"
"""
USUAL_PARAMETERS: Final = StorageParameters()
DEMO_TENANT: Final = "demo"
PORT_ATTEMPTS_MAX: Final = 200
TENANT_BYTES: Final = 16
FOLDER_MODE: Final = 0o700


class Gateways(Enum):
    """Whether a testnet serves S3."""

    NONE = "none"
    BESIDE_NODES = "beside nodes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """A legal person of the consortium and a placeholder for where its site might stand."""

    name: str
    site: str


OPERATORS: Final = (
    Operator(name="Adista", site="Nancy (example)"),
    Operator(name="Alekso", site="Metz (example)"),
    Operator(name="Advanced", site="Strasbourg (example)"),
    Operator(name="Mediamatrix", site="Mulhouse (example)"),
    Operator(name="Data-Sup", site="Reims (example)"),
    Operator(name="Hexanet", site="Troyes (example)"),
    Operator(name="Ikoula", site="Épinal (example)"),
    Operator(name="nLighten", site="Colmar (example)"),
    Operator(name="SDV", site="Charleville-Mézières (example)"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a seat's node is reached: an IP address or name, and its TCP ports."""

    host: str
    libp2p_port: int = LIBP2P_PORT
    shard_port: int = SHARD_PORT
    api_port: int = API_PORT
    s3_port: int = S3_PORT


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantKeys:
    """The demo tenant: its handle, its own key, its client's, and those of the nine gateways."""

    tenant: TenantId
    owner: SigningKey
    client: SigningKey
    gateways: tuple[SigningKey, ...]
    master_seed: bytes


def make_testnet(
    home: Path,
    operators: tuple[Operator, ...] = OPERATORS,
    addresses: tuple[Address, ...] | None = None,
    parameters: StorageParameters = USUAL_PARAMETERS,
    gateways: Gateways = Gateways.NONE,
) -> Genesis:
    """Fill an empty or absent directory with a testnet's home and return its genesis.

    Args:
        home: Of the whole testnet; each folder seat-N in it may move to the machine of that seat.
        operators: Who holds the seats.
        addresses: Of the seats, in order; free ports of loopback when None.
        gateways: Whether each node has a gateway beside it.
        parameters: Limits that all nodes share.

    Raises:
        ConfigurationError: The directory holds something, or no free ports were found.
        OSError: It cannot be written.
    """
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise ConfigurationError(f"{home} is not empty: name an empty or absent directory")
    home.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    seat_homes = tuple(home / f"seat-{index}" for index in range(len(operators)))
    seat_keys = tuple(create_keys(seat_home / "keys") for seat_home in seat_homes)
    tenant_keys = TenantKeys(
        tenant=TenantId(secrets.token_bytes(TENANT_BYTES)),
        owner=SigningKey(secrets.token_bytes(SEED_BYTES)),
        client=SigningKey(secrets.token_bytes(SEED_BYTES)),
        gateways=tuple(SigningKey(secrets.token_bytes(SEED_BYTES)) for _ in operators),
        master_seed=secrets.token_bytes(SEED_BYTES),
    )
    if addresses is None:
        addresses = loopback_addresses(len(operators))
    genesis = _genesis(operators, seat_keys, tenant_keys, addresses, parameters)
    encoded = encode(genesis)
    for index, seat_home in enumerate(seat_homes):
        (seat_home / "genesis").write_bytes(encoded)
        settings = CONFIGURATION.format(seat=index, pin=genesis_hash(genesis).hex(), host=addresses[index].host)
        (seat_home / "config.toml").write_text(settings)
        create_signer_record(seat_home)
    _write_tenant(home, encoded, tenant_keys)
    if gateways is Gateways.BESIDE_NODES:
        write_gateways(seat_homes, addresses, encoded, tenant_keys)
    (home / "genesis").write_bytes(encoded)
    return genesis


def read_testnet(home: Path) -> Genesis:
    """Return the genesis of a testnet's home.

    Raises:
        ConfigurationError: There is none; the message says how to make one.
    """
    path = home / "genesis"
    if not path.is_file():
        raise ConfigurationError(f"{home} holds no testnet: make one with `grandest testnet up --home {home}`")
    with path.open("rb") as file:
        return decode_genesis(file.read(GENESIS_BYTES_MAX + 1))


def machine_addresses(hosts: Sequence[str]) -> tuple[Address, ...]:
    """Return the addresses of nine machines that use the usual ports.

    Raises:
        ConfigurationError: Not one host for each operator, or one twice.
    """
    if len(hosts) != len(OPERATORS) or len(set(hosts)) != len(hosts):
        raise ConfigurationError(
            f"{len(OPERATORS)} different hosts are needed, one a seat; {len(set(hosts))} were given"
        )
    return tuple(Address(host=host) for host in hosts)


def loopback_addresses(count: int) -> tuple[Address, ...]:
    """Return addresses of this machine, with ports that nobody listens on now."""
    ports = free_ports(PORTS_PER_SEAT * count)
    return tuple(
        Address(host=LOOPBACK, libp2p_port=libp2p_port, shard_port=shard_port, api_port=api_port, s3_port=s3_port)
        for libp2p_port, shard_port, api_port, s3_port in zip(
            ports[::4], ports[1::4], ports[2::4], ports[3::4], strict=True
        )
    )


def free_ports(count: int) -> tuple[int, ...]:
    """Return a run of loopback TCP ports on none of which anybody listens now.

    Runs begin at multiples of their length: testnets that are made at the same moment share all their ports or none,
    which is far less likely than one port out of many.

    Raises:
        ConfigurationError: No such run was found.
    """
    for _ in range(PORT_ATTEMPTS_MAX):
        first = PORT_MIN + count * secrets.randbelow((PORT_MAX - PORT_MIN) // count)
        if all(_is_free(port) for port in range(first, first + count)):
            return tuple(range(first, first + count))
    raise ConfigurationError(f"no {count} free ports in a row in {PORT_MIN} to {PORT_MAX}: stop other testnets")


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _genesis(
    operators: tuple[Operator, ...],
    seat_keys: tuple[OperatorKeys, ...],
    tenant: TenantKeys,
    addresses: tuple[Address, ...],
    parameters: StorageParameters,
) -> Genesis:
    seats = tuple(
        Seat(
            operator=operator.name,
            site=operator.site,
            network_key=keys.network.public,
            certificate=make_certificate(keys.network),
            host=address.host,
            libp2p_port=address.libp2p_port,
            shard_port=address.shard_port,
            api_port=address.api_port,
        )
        for operator, keys, address in zip(operators, seat_keys, addresses, strict=True)
    )
    grants = tuple(
        Grant(public_key=granted.public, certificate=make_certificate(granted))
        for granted in (tenant.client, *tenant.gateways)
    )
    demo = GenesisTenant(tenant=tenant.tenant, public_key=tenant.owner.public, grants=grants)
    application = StorageGenesis(seats=seats, tenants=(demo,), parameters=parameters)
    return Genesis(
        chain_id=f"grandest-testnet-{secrets.token_hex(4)}",
        time_ms=now_ms(),
        members=tuple(keys.signing.public for keys in seat_keys),
        parameters=ConsensusParameters(),
        application=encode_storage_genesis(application),
    )


def _write_tenant(home: Path, genesis: bytes, keys: TenantKeys) -> None:
    """Write the demo tenant's own key, and its client's home with a fresh master key."""
    (home / "tenant").mkdir(mode=FOLDER_MODE)
    write_key(home / "tenant" / "signing", keys.owner.seed())
    write_client_home(
        home / "client",
        signing_seed=keys.client.seed(),
        master_seed=keys.master_seed,
        tenant=keys.tenant,
        genesis=genesis,
    )


def write_gateways(seat_homes: Sequence[Path], addresses: Sequence[Address], genesis: bytes, keys: TenantKeys) -> None:
    """Write the homes of gateways beside the nodes: the demo tenant has one access key at all, each has its own key."""
    access_key = new_access_key()
    for seat_home, address, signing_key in zip(seat_homes, addresses, keys.gateways, strict=True):
        folder = seat_home / GATEWAY_FOLDER
        folder.mkdir(mode=FOLDER_MODE)
        (folder / SETTINGS_FILE).write_text(f'host = "{address.host}"\nport = {address.s3_port}\n')
        tenant_home = folder / TENANTS_FOLDER / DEMO_TENANT
        write_client_home(
            tenant_home,
            signing_seed=signing_key.seed(),
            master_seed=keys.master_seed,
            tenant=keys.tenant,
            genesis=genesis,
        )
        write_access_keys(tenant_home, (access_key,))
        make_own_key(folder / OWN_FOLDER, seat_home / "genesis", api_url(address.host, address.api_port))
