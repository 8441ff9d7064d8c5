"""`grandest tenant` without a chain: folders, passphrases, and secrets that stay where they belong."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from consensus.encoding import encode
from node.cli.tenant_work import new_owner, open_folder, write_credentials
from node.errors import ConfigurationError
from node.gateway.own_key import read_identity
from storage.identifiers import TenantId
from storage.tenant_records import AccessKeyRecord
from testnet.cli import main
from tests.storage.ledger_world import make_genesis

NODE = "http://127.0.0.1:1"


@pytest.fixture
def genesis(tmp_path: Path) -> str:
    path = tmp_path / "genesis"
    path.write_bytes(encode(make_genesis(4)))
    return str(path)


@pytest.fixture
def passphrase(tmp_path: Path) -> str:
    path = tmp_path / "passphrase"
    path.write_text("correct horse\n")
    path.chmod(0o600)
    return str(path)


def create(tmp_path: Path, genesis: str, passphrase: str) -> int:
    folder = str(tmp_path / "owner")
    return main(["tenant", "create", folder, "--genesis", genesis, "--node", NODE, "--passphrase-file", passphrase])


def test_a_tenant_without_an_operator_is_told_how_to_be_registered(
    tmp_path: Path, genesis: str, passphrase: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert create(tmp_path, genesis, passphrase) == 0
    printed = capsys.readouterr().out
    opened = open_folder(tmp_path / "owner", b"correct horse", None)
    owner_secrets = opened.owner_secrets
    assert f"--public-key {owner_secrets.signing_key.public.hex()}" in printed
    assert f"--tenant {owner_secrets.master_keys.tenant.hex()}" in printed
    for secret in (owner_secrets.signing_seed, owner_secrets.client_seed, *owner_secrets.master_keys.secrets):
        assert secret.hex() not in printed
    assert opened.nodes == (NODE,)
    assert (tmp_path / "owner").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "owner" / "keystore").stat().st_mode & 0o777 == 0o600


def test_a_keystore_is_never_replaced_by_another_tenants(
    tmp_path: Path, genesis: str, passphrase: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert create(tmp_path, genesis, passphrase) == 0
    kept = (tmp_path / "owner" / "keystore").read_bytes()
    assert create(tmp_path, genesis, passphrase) == 3
    assert "name another folder" in capsys.readouterr().err
    assert (tmp_path / "owner" / "keystore").read_bytes() == kept


def test_another_passphrase_opens_nothing(tmp_path: Path, genesis: str, passphrase: str) -> None:
    create(tmp_path, genesis, passphrase)
    Path(passphrase).write_text("wrong horse\n")
    assert main(["tenant", "keys", str(tmp_path / "owner"), "--passphrase-file", passphrase]) == 3


def test_a_passphrase_is_asked_for_on_a_terminal_alone(
    tmp_path: Path, genesis: str, passphrase: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    create(tmp_path, genesis, passphrase)
    monkeypatch.setattr("sys.stdin", io.StringIO("correct horse\n"))
    assert main(["tenant", "keys", str(tmp_path / "owner")]) == 2
    assert "--passphrase-file" in capsys.readouterr().err


def test_what_is_no_genesis_makes_no_tenant(tmp_path: Path, passphrase: str) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_bytes(b"nothing")
    assert create(tmp_path, str(wrong), passphrase) == 3
    assert not (tmp_path / "owner").exists()


def test_an_identity_holds_nothing_secret(tmp_path: Path, genesis: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "gateway"
    words = ["tenant", "identity", str(folder), "--genesis", genesis, "--node", NODE]
    assert main(words) == 0
    seed = (folder / "signing").read_text().strip()
    identity = (folder / "identity").read_text()
    assert seed not in identity
    assert seed not in capsys.readouterr().out
    public_key, _ = read_identity(folder / "identity")
    assert json.loads(identity)["public_key"] == public_key.hex()
    assert main(words) == 3, "a key is not replaced"
    with pytest.raises(ConfigurationError, match="is no identity"):
        read_identity(folder / "genesis")


def test_credentials_are_written_where_nothing_is(tmp_path: Path) -> None:
    access_key = AccessKeyRecord(access_key="GR1", secret_key="x" * 40, buckets=None, verbs=None, expires_ms=None)
    path = tmp_path / "credentials"
    write_credentials(path, access_key)
    assert path.stat().st_mode & 0o777 == 0o600
    assert "aws_secret_access_key = " + "x" * 40 in path.read_text()
    with pytest.raises(ConfigurationError, match="name another file"):
        write_credentials(path, access_key)


def test_every_owner_draws_secrets_of_its_own() -> None:
    first, second = (new_owner(TenantId(bytes(16))) for _ in range(2))
    assert first.signing_seed != second.signing_seed
    assert first.client_seed != second.client_seed
    assert first.master_keys != second.master_keys


@pytest.mark.parametrize("handle", ["11", "zz" * 16, "11" * 17])
def test_a_handle_is_32_hex_digits(handle: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["tenant", "show", handle, "--node", NODE])
    assert "argument TENANT" in capsys.readouterr().err
