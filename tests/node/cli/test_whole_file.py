"""A file is whole or absent; devices and pipes are written, not replaced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from node.cli.whole_file import whole_file


def test_the_file_is_in_its_place_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / ("n" * 255)
    with whole_file(target) as file:
        file.write(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert list(target.parent.iterdir()) == [target]


def write_half(target: Path) -> None:
    with whole_file(target) as file:
        file.write(b"half")
        os.fstat(-1)


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "kept"
    target.write_bytes(b"before")
    with pytest.raises(OSError, match="Bad file descriptor"):
        write_half(target)
    assert target.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [target]


def test_who_may_read_a_file_may_read_what_takes_its_place(tmp_path: Path) -> None:
    target = tmp_path / "secret"
    target.touch(mode=0o600)
    with whole_file(target) as file:
        file.write(b"after")
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (b"after", 0o600)


def test_a_file_that_may_not_be_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "kept"
    target.write_bytes(b"before")

    def refuse_writing(path: Path, mode: int) -> bool:
        return path != target or mode != os.W_OK

    monkeypatch.setattr(os, "access", refuse_writing)  # root may write everything
    with pytest.raises(PermissionError), whole_file(target) as file:
        file.write(b"after")
    assert target.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [target]


def test_a_pipe_is_written_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with whole_file(pipe) as file:
        file.write(b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_directory_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), whole_file(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []
