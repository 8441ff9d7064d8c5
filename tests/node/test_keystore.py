"""The keystore opens under its passphrase alone, and shows nothing to anybody else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from nacl.pwhash import argon2id

from consensus.errors import RejectionError
from consensus.identifiers import Milliseconds
from node.errors import ConfigurationError
from node.keystore import OwnerSecrets, read_keystore, read_passphrase, write_keystore
from storage.identifiers import TenantId
from storage.tenant_records import AccessKeyRecord, AccessVerb, MasterKeys

SECRETS = OwnerSecrets(
    signing_seed=b"s" * 32,
    client_seed=b"c" * 32,
    master_keys=MasterKeys(tenant=TenantId(b"T" * 16), secrets=(b"m" * 32,)),
    access_keys=(
        AccessKeyRecord(
            access_key="GR1", secret_key="x" * 40, buckets=("photos",), verbs=(AccessVerb.READ,), expires_ms=None
        ),
    ),
)


def write(path: Path, passphrase: bytes = b"correct horse") -> None:
    write_keystore(path, SECRETS, passphrase, argon2id.OPSLIMIT_MIN, argon2id.MEMLIMIT_MIN)


def test_a_keystore_opens_under_its_passphrase_alone(tmp_path: Path) -> None:
    path = tmp_path / "keystore"
    write(path)
    assert read_keystore(path, b"correct horse") == SECRETS
    with pytest.raises(ConfigurationError, match="another passphrase"):
        read_keystore(path, b"wrong horse")
    assert path.stat().st_mode & 0o777 == 0o600


def test_secrets_that_could_not_be_read_again_replace_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keystore"
    write(path)
    endless = replace(SECRETS.access_keys[0], expires_ms=Milliseconds(2**53))
    with pytest.raises(RejectionError):
        write_keystore(path, replace(SECRETS, access_keys=(endless,)), b"correct horse")
    assert read_keystore(path, b"correct horse") == SECRETS


def test_nothing_of_its_secrets_shows(tmp_path: Path) -> None:
    path = tmp_path / "keystore"
    write(path)
    kept = path.read_bytes()
    for secret in (b"s" * 32, b"c" * 32, b"m" * 32, b"x" * 40, b"photos"):
        assert secret not in kept
    assert "73" * 8 not in repr(SECRETS)
    assert "x" * 40 not in repr(SECRETS)
    assert "x" * 40 not in repr(SECRETS.access_keys)


def test_a_keystore_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keystore"
    write(path)
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="readable by others"):
        read_keystore(path, b"correct horse")


def test_an_empty_passphrase_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="empty passphrase"):
        write(tmp_path / "keystore", b"")


def test_a_passphrase_file_is_private_and_has_one_line(tmp_path: Path) -> None:
    path = tmp_path / "passphrase"
    path.write_bytes(b"correct horse\n")
    path.chmod(0o600)
    assert read_passphrase(path) == b"correct horse"
    path.chmod(0o604)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        read_passphrase(path)


@settings(max_examples=50)
@given(st.data())
def test_no_damage_goes_unnoticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("damaged") / "keystore"
    write(path)
    kept = bytearray(path.read_bytes())
    kept[-1 - data.draw(st.integers(0, 200))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(kept)
    with pytest.raises(ConfigurationError, match="damaged"):
        read_keystore(path, b"correct horse")
