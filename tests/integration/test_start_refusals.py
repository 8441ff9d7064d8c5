"""What forbids a node to start is said in one line that names it, with the exit code for settings, before it votes."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from node.config import locked_home
from node.runner import run
from storage.errors import StoreDamagedError
from storage.genesis import storage_genesis
from testnet.genesis import LOOPBACK, OPERATORS, make_testnet, read_testnet
from tests.integration.clocks import shifted_clock

START = (
    # Imported before the rights are dropped: the user "nobody" may not read where the program lies.
    "import os, sys, node.runner\nfrom testnet.cli import command_parser, main\ncommand_parser()\n"
    "if os.geteuid() == 0 and sys.argv.pop(1) == 'nobody': os.setuid(65534)\n"
    "sys.exit(main(sys.argv[1:]))"
)
START_SECONDS_MAX = 60


@pytest.fixture
def home(tmp_path: Path) -> Path:
    make_testnet(tmp_path / "net", OPERATORS[:4])
    return tmp_path / "net" / "seat-0"


def start(home: Path, user: str = "root", environment: Mapping[str, str] | None = None) -> str:
    """Start a node that must not start; return its last line."""
    command = (sys.executable, "-P", "-c", START, user, "node", "run", "--home", str(home))
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=START_SECONDS_MAX,
        env={**os.environ, **(environment or {})},
    )
    assert ended.returncode == 3, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr.strip().split("\n")[-1]


@pytest.mark.parametrize("port", ["libp2p_port", "shard_port", "api_port"])
def test_a_port_in_use_is_named(home: Path, port: str) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        number = taken.getsockname()[1]
        with (home / "config.toml").open("a") as file:
            file.write(f"{port} = {number}\n")
        named = {"libp2p_port": "libp2p", "shard_port": "shard", "api_port": "API"}[port]
        assert re.search(rf"{named} port [\d.]+:{number} cannot be used \(.*in use\)", start(home))


def test_a_home_in_use_is_refused(home: Path) -> None:
    with locked_home(home):
        assert f"{home} is in use by another node: stop it, or name another home" in start(home)


@pytest.mark.parametrize("closed", ["config.toml", "genesis", "keys/signing"])
def test_a_home_that_may_not_be_read_is_refused(closed: str) -> None:
    with TemporaryDirectory() as folder:  # pytest closes its own to everybody else
        make_testnet(Path(folder) / "net", OPERATORS[:4])
        home = Path(folder) / "net" / "seat-0"
        for each in (home / "keys", home, home.parent, home.parent.parent):
            each.chmod(0o711)
        for file in ("config.toml", "genesis", "keys/signing", "keys/network"):
            (home / file).chmod(0 if file == closed else 0o644)
        said = start(home, user="nobody")
    assert str(home / closed) in said
    assert "Permission denied" in said


def test_a_home_that_may_not_be_written_is_refused(home: Path) -> None:
    (home / "lock").mkdir()
    assert f"{home} cannot be written (Is a directory)" in start(home)


def test_another_genesis_than_the_pinned_one_is_refused(home: Path, tmp_path: Path) -> None:
    make_testnet(tmp_path / "other", OPERATORS[:4])
    shutil.copy(tmp_path / "other" / "genesis", home / "genesis")
    assert "wrong genesis file" in start(home)
    (home / "config.toml").write_text("")
    assert f"the signing key in {home / 'keys'} holds no seat of this genesis: wrong key or genesis" in start(home)


def test_a_chain_of_another_genesis_is_refused(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "seat-0"
    make_testnet(tmp_path / "other", OPERATORS[:4])
    (home / "config.toml").write_text("")
    with socket.create_server((LOOPBACK, api_port_of(home))):
        start(home)  # made its chain, then found its port in use
    for name in ("genesis", "keys"):
        moved = home / name
        if moved.is_dir():
            shutil.rmtree(moved)
            shutil.copytree(other / name, moved)
        else:
            shutil.copy(other / name, moved)
    assert "another chain" in start(home)


def api_port_of(home: Path) -> int:
    return storage_genesis(read_testnet(home.parent)).seats[0].api_port


@pytest.mark.parametrize("database", ["chain", "records", "units", "index"])
def test_a_damaged_database_is_named_with_what_to_do(home: Path, database: str) -> None:
    (home / database).mkdir()
    (home / database / "CURRENT").write_bytes(b"MANIFEST-000001")
    with pytest.raises(StoreDamagedError, match=rf"^{home}/{database} cannot be opened: Corruption: .* start again"):
        run(home)


def test_a_clock_an_hour_behind_the_chain_is_refused(home: Path, tmp_path: Path) -> None:
    said = start(home, environment=shifted_clock(tmp_path, -3600))
    assert re.search(r"the clock of this machine is (59|60) minutes behind the last block of its chain: set it", said)
