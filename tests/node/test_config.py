"""A home is read once and fits together, or one line says what does not and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from consensus.encoding import encode
from consensus.genesis import Genesis, genesis_hash
from consensus.identifiers import PublicKey
from node.config import (
    CONFIG_BYTES_MAX,
    LogFormat,
    LogLevel,
    NodeConfig,
    SeatAddress,
    load_config,
    locked_home,
    read_config_file,
)
from node.errors import ConfigurationError
from node.keys import write_key
from storage.stores.leveldb import RESERVE_BYTES_DEFAULT
from tests.node.homes import NETWORK_KEYS, Home, home_genesis, make_home
from tests.node.small_chain import KEYS


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return make_home(tmp_path / "home")


def said(home: Home | Path) -> str:
    path = home.path if isinstance(home, Home) else home
    with pytest.raises(ConfigurationError) as caught:
        load_config(path)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(path), "HOME")


def test_an_empty_configuration_is_what_genesis_says_of_the_seat(home: Home) -> None:
    config = load_config(home.path)
    assert config.seat == 3
    assert (config.listen_host, config.libp2p_port, config.shard_port) == ("10.0.0.3", 4004, 5004)
    assert (config.api_host, config.api_port) == ("127.0.0.1", 8004)
    assert (config.log_level, config.log_format) == (LogLevel.INFO, LogFormat.TEXT)
    assert config.reserve_bytes == RESERVE_BYTES_DEFAULT
    assert [peer.seat for peer in config.peers] == [0, 1, 2, 4, 5, 6, 7, 8]
    assert config.genesis_hash == genesis_hash(home_genesis())
    assert "redacted" in repr(config)
    assert KEYS[3].seed().hex() not in repr(config)


def test_every_setting_is_taken(home: Home) -> None:
    home.configure(f"""
        seat = 3
        genesis_hash = "{genesis_hash(home_genesis()).hex()}"
        listen_host = "0.0.0.0"
        libp2p_port = 1
        shard_port = 2
        api_host = "::1"
        api_port = 65535
        reserve_bytes = 0
        log_level = "debug"
        log_format = "json"
        [peers.5]
        host = "10.1.1.1"
        shard_port = 7
    """)
    config = load_config(home.path)
    assert (config.listen_host, config.libp2p_port, config.shard_port) == ("0.0.0.0", 1, 2)  # noqa: S104 (read, not bound)
    assert (config.api_host, config.api_port, config.reserve_bytes) == ("::1", 65_535, 0)
    assert (config.log_level, config.log_format) == (LogLevel.DEBUG, LogFormat.JSON)
    five, *_ = (peer for peer in config.peers if peer.seat == 5)
    assert five == SeatAddress(seat=five.seat, host="10.1.1.1", libp2p_port=4006, shard_port=7)


def test_there_has_to_be_a_home(tmp_path: Path) -> None:
    assert said(tmp_path / "none") == ("HOME is not a directory: make one with `grandest testnet make`")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("seat = ", "Invalid value"),
        ("seats = 3", "Object contains unknown field `seats`"),
        ("seat = 64", "Expected `int` <= 63 - at `$.seat`"),
        ('seat = "3"', "Expected `int | null`, got `str`"),
        ("seat = 3.0", "Expected `int | null`, got `float`"),
        ("libp2p_port = 0", "Expected `int` >= 1"),
        ("api_port = 65536", "Expected `int` <= 65535"),
        ("reserve_bytes = -1", "Expected `int` >= 0"),
        ('log_level = "loud"', "Invalid enum value 'loud'"),
        ('genesis_hash = "AB"', "Expected `str` matching regex"),
        ("[peers.5]\nport = 1", "Object contains unknown field `port`"),
    ],
)
def test_a_wrong_setting_is_named(home: Home, text: str, reason: str) -> None:
    home.configure(text)
    message = said(home)
    assert message.startswith("HOME/config.toml: ")
    assert reason in message
    assert message.endswith("; correct that setting or remove it")


def test_a_file_that_is_no_configuration_is_refused_unread(home: Home) -> None:
    home.configure("#" * (CONFIG_BYTES_MAX + 1))
    assert said(home) == "HOME/config.toml is larger than 1048576 bytes: put the right file there"
    (home.path / "config.toml").write_bytes(b"\xff")
    assert said(home).endswith("; correct that setting or remove it")
    (home.path / "config.toml").unlink()
    (home.path / "config.toml").mkdir()
    assert said(home) == "HOME/config.toml cannot be read (Is a directory): let this account read it"


def test_an_absent_file_means_all_defaults(tmp_path: Path) -> None:
    assert read_config_file(tmp_path / "config.toml").seat is None


def test_a_genesis_that_is_missing_or_none_comes_from_another_member(home: Home) -> None:
    (home.path / "genesis").write_bytes(b"\x90")
    assert said(home).startswith("HOME/genesis is no genesis (")
    assert said(home).endswith("): copy it from another member")
    (home.path / "genesis").unlink()
    assert said(home) == ("HOME/genesis cannot be read (No such file or directory): copy it from another member")


def with_genesis(change: Callable[[Genesis], Genesis]) -> Callable[[Home], object]:
    return lambda home: (home.path / "genesis").write_bytes(encode(change(home_genesis())))


def configured(text: str) -> Callable[[Home], object]:
    def change(home: Home) -> None:
        home.configure(text)

    return change


def missing_key(name: str) -> Callable[[Home], object]:
    def change(home: Home) -> None:
        (home.path / "keys" / name).unlink()

    return change


def without_key(name: str, seed: bytes) -> Callable[[Home], object]:
    def change(home: Home) -> None:
        (home.path / "keys" / name).unlink()
        write_key(home.path / "keys" / name, seed)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            with_genesis(lambda genesis: replace(genesis, application=b"\x90")),
            "genesis names no seats (Expected `array` of at least length 4, got 0): copy it from another member",
        ),
        (
            with_genesis(lambda genesis: replace(genesis, members=(*genesis.members, PublicKey(b"x" * 32)))),
            "genesis has 9 seats for 10 members: copy it from another member",
        ),
        (
            without_key("signing", b"?" * 32),
            "the signing key in HOME/keys holds no seat of this genesis: wrong key or genesis",
        ),
        (
            without_key("network", NETWORK_KEYS[4].seed()),
            "the network key in HOME/keys is not that of seat 3 in genesis: restore it from the safe",
        ),
        (
            without_key("signing", KEYS[4].seed()),
            "the network key in HOME/keys is not that of seat 4 in genesis: restore it from the safe",
        ),
        (
            configured("seat = 4"),
            "config.toml says seat 4, the signing key belongs to seat 3: correct whichever is wrong",
        ),
        (
            configured("[peers.64]"),
            "config.toml: [peers.64] is no seat: seats are 0 to 63",
        ),
        (
            configured(f'genesis_hash = "{"0" * 64}"'),
            f"HOME/genesis has the hash {genesis_hash(home_genesis()).hex()}, config.toml pins {'0' * 64}: wrong",
        ),
        (
            missing_key("network"),
            "key file HOME/keys/network cannot be read (No such file or directory): restore it from the safe",
        ),
    ],
)
def test_what_does_not_fit_together_is_said_in_one_line(
    home: Home, change: Callable[[Home], object], message: str
) -> None:
    change(home)
    assert said(home).startswith(message)


def test_a_home_is_one_process_s_own(home: Home) -> None:
    with locked_home(home.path):
        with pytest.raises(ConfigurationError) as caught, locked_home(home.path):
            pass
        assert str(caught.value) == f"{home.path} is in use by another node: stop it, or name another home"
    with locked_home(home.path):
        pass


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught, locked_home(tmp_path / "none"):
        pass
    expected = f"{tmp_path / 'none'} cannot be written (No such file or directory): check its owner and the disk"
    assert str(caught.value) == expected


def test_a_loaded_configuration_never_changes(home: Home) -> None:
    config: NodeConfig = load_config(home.path)
    with pytest.raises(AttributeError):
        config.seat = config.peers[0].seat  # type: ignore[misc]
