"""Secrets are drawn once, kept from other accounts, and never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.errors import ConfigurationError
from node.keys import create_keys, load_keys, read_key, write_key


def said(path: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read_key(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_was_drawn_is_read_back_and_only_its_owner_can(tmp_path: Path) -> None:
    drawn = create_keys(tmp_path / "keys")
    loaded = load_keys(tmp_path / "keys")
    assert (loaded.signing.seed(), loaded.network.seed()) == (drawn.signing.seed(), drawn.network.seed())
    assert drawn.signing.seed() != drawn.network.seed()
    for name in ("signing", "network"):
        path = tmp_path / "keys" / name
        assert path.stat().st_mode & 0o777 == 0o600
        assert len(path.read_text()) == 65
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700


def test_a_secret_is_never_printed(tmp_path: Path) -> None:
    keys = create_keys(tmp_path)
    shown = f"{keys!r} {keys}"
    assert "redacted" in shown
    for secret in (keys.signing.seed(), keys.network.seed()):
        assert secret.hex()[:16] not in shown


@pytest.mark.parametrize("name", ["signing", "network"])
def test_a_secret_is_never_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("kept")
    with pytest.raises(ConfigurationError) as caught:
        create_keys(tmp_path)
    assert str(caught.value) == (
        f"cannot write keys under {tmp_path} (File exists): name a directory without keys that can be written"
    )
    assert (tmp_path / name).read_text() == "kept"


def test_a_missing_key_comes_from_the_safe(tmp_path: Path) -> None:
    path = tmp_path / "signing"
    assert said(path) == f"key file {path} cannot be read (No such file or directory): restore it from the safe"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o777])
def test_a_key_that_others_may_open_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "signing"
    write_key(path, bytes(32))
    path.chmod(mode)
    assert said(path) == f"key file {path} is readable by others: chmod 600 {path}"


@pytest.mark.parametrize(
    "content", [b"", b"ab" * 31, b"ab" * 33, b"zz" * 32, b"ab " * 32 + b"c", b"0x" + b"ab" * 31, b"ab" * 100_000]
)
def test_anything_but_64_hex_digits_is_damage(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "signing"
    path.write_bytes(content)
    path.chmod(0o600)
    assert said(path) == f"key file {path} is damaged: restore it from the safe"


def test_bytes_that_are_no_text_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "signing"
    path.write_bytes(b"\xff" * 64)
    path.chmod(0o600)
    assert said(path) == f"key file {path} cannot be read (not text): restore it from the safe"
