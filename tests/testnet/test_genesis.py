"""A testnet's home is whole, secret where it must be, and never written over anything."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

import testnet.genesis
from consensus.genesis import Genesis, genesis_members
from node.errors import ConfigurationError
from node.keys import load_keys, read_key
from storage.genesis import storage_genesis
from testnet.genesis import OPERATORS, free_ports, make_testnet, read_testnet

FOUR = OPERATORS[:4]


def test_the_consortium_has_nine_operators_with_example_sites() -> None:
    assert [operator.name for operator in OPERATORS] == [
        "Adista", "Alekso", "Advanced", "Mediamatrix", "Data-Sup", "Hexanet", "Ikoula", "nLighten", "SDV",
    ]  # fmt: skip
    assert all(operator.site.endswith("(example)") for operator in OPERATORS)


def test_every_seat_holds_the_keys_that_genesis_names(tmp_path: Path) -> None:
    genesis = make_testnet(tmp_path / "home", FOUR)
    seats = storage_genesis(genesis).seats
    members = genesis_members(genesis).public_keys
    for index in range(4):
        home = tmp_path / "home" / f"seat-{index}"
        keys = load_keys(home / "keys")
        assert keys.signing.public == members[index]
        assert keys.network.public == seats[index].network_key
        assert (home / "genesis").read_bytes() == (tmp_path / "home" / "genesis").read_bytes()


def test_the_client_holds_the_granted_key_and_the_master_key(tmp_path: Path) -> None:
    genesis = make_testnet(tmp_path / "home", FOUR)
    (tenant,) = storage_genesis(genesis).tenants
    client = tmp_path / "home" / "client"
    assert read_key(client / "signing").public == tenant.grants[0].public_key
    assert read_key(tmp_path / "home" / "tenant" / "signing").public == tenant.public_key
    assert bytes.fromhex((client / "tenant").read_text()) == tenant.tenant
    assert len(bytes.fromhex((client / "master").read_text())) == 32


def test_secrets_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    make_testnet(tmp_path / "home", FOUR)
    secrets = [*tmp_path.glob("home/seat-*/keys/*"), *tmp_path.glob("home/*/signing"), tmp_path / "home/client/master"]
    assert len(secrets) == 2 * 4 + 3
    assert all(path.stat().st_mode & 0o077 == 0 for path in secrets)


def test_no_two_seats_share_a_port(tmp_path: Path) -> None:
    seats = storage_genesis(make_testnet(tmp_path / "home", FOUR)).seats
    ports = [port for seat in seats for port in (seat.libp2p_port, seat.shard_port, seat.api_port)]
    assert len(set(ports)) == 12


def test_a_run_with_a_port_in_use_is_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    first = free_ports(8)[0]
    monkeypatch.setattr(testnet.genesis, "PORT_MIN", first)
    monkeypatch.setattr(testnet.genesis, "PORT_MAX", first + 8)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", first + 1))
        listener.listen()
        assert {free_ports(4) for _ in range(20)} == {tuple(range(first + 4, first + 8))}
        with pytest.raises(ConfigurationError, match="no 8 free ports in a row"):
            free_ports(8)


def test_the_home_reads_back_as_the_genesis_that_was_made(tmp_path: Path) -> None:
    made: Genesis = make_testnet(tmp_path / "home", FOUR)
    assert read_testnet(tmp_path / "home") == made


def test_a_directory_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="is not empty: name an empty or absent directory"):
        make_testnet(tmp_path, FOUR)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_home_without_genesis_is_refused_with_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds no testnet: make one with `grandest testnet up --home"):
        read_testnet(tmp_path)
