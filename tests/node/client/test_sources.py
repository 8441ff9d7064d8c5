"""Sources give the same bytes however they come, and a pipe without a writer keeps nobody waiting who gives up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from node.client.sources import FileSource, PipeSource, bytes_source, is_pipe

CONTENTS = bytes(range(256)) * 2_000
PIECE_BYTES = 100_000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENTS)
    return path


async def test_a_pipe_gives_whole_pieces_until_its_writer_ends() -> None:
    reading, writing = os.pipe()
    assert is_pipe(reading)

    def write() -> None:
        with os.fdopen(writing, "wb", buffering=0) as pipe:
            for start in range(0, len(CONTENTS), 7_777):
                pipe.write(CONTENTS[start : start + 7_777])

    pieces: list[bytes] = []
    source = PipeSource(reading)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, write)
        while piece := await source.read(PIECE_BYTES):
            pieces.append(piece)
    os.close(reading)
    assert [len(piece) for piece in pieces[:-1]] == [PIECE_BYTES] * (len(CONTENTS) // PIECE_BYTES)
    assert b"".join(pieces) == CONTENTS


async def test_who_waits_for_a_writer_that_never_comes_can_give_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    descriptor = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with trio.move_on_after(0.01) as scope:
        await PipeSource(descriptor).read(PIECE_BYTES)
    os.close(descriptor)
    assert scope.cancelled_caught


async def test_a_file_and_memory_give_the_same(file: Path) -> None:
    with FileSource(file.open("rb")) as opened:
        from_file = [await opened.read(PIECE_BYTES) for _ in range(7)]
    source = bytes_source(CONTENTS)
    assert from_file == [bytes(await source.read(PIECE_BYTES)) for _ in range(7)]
    assert b"".join(from_file) == CONTENTS


def test_a_file_is_no_pipe(file: Path) -> None:
    with file.open("rb") as opened:
        assert not is_pipe(opened.fileno())
