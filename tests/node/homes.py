"""Home directories of the small chain's seats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from consensus.encoding import encode
from consensus.genesis import ConsensusParameters, Genesis
from consensus.identifiers import Milliseconds
from consensus.signing import SigningKey
from node.keys import write_key
from storage.genesis import Seat, StorageGenesis, StorageParameters, encode_storage_genesis
from tests.node.small_chain import KEYS

NETWORK_KEYS = tuple(SigningKey(bytes([100 + index]) * 32) for index in range(len(KEYS)))


def seat_of(index: int) -> Seat:
    return Seat(
        operator=f"operator {index}",
        site="somewhere",
        network_key=NETWORK_KEYS[index].public,
        certificate=b"certificate",
        host=f"10.0.0.{index}",
        libp2p_port=4001 + index,
        shard_port=5001 + index,
        api_port=8001 + index,
    )


def home_genesis(seats: int = len(KEYS)) -> Genesis:
    part = StorageGenesis(
        seats=tuple(seat_of(index) for index in range(seats)), tenants=(), parameters=StorageParameters()
    )
    return Genesis(
        chain_id="homes",
        time_ms=Milliseconds(1_000),
        members=tuple(signing_key.public for signing_key in KEYS),
        parameters=ConsensusParameters(),
        application=encode_storage_genesis(part),
    )


@dataclass(frozen=True, slots=True)
class Home:
    """One seat's home on disk."""

    path: Path

    def configure(self, text: str) -> None:
        (self.path / "config.toml").write_text(text)


def make_home(path: Path, seat: int = 3) -> Home:
    """Write genesis and keys of a seat."""
    (path / "keys").mkdir(parents=True)
    (path / "genesis").write_bytes(encode(home_genesis()))
    write_key(path / "keys" / "signing", KEYS[seat].seed())
    write_key(path / "keys" / "network", NETWORK_KEYS[seat].seed())
    return Home(path)
