"""Trees in and out: no name leads outside or takes another's place, and nothing is left out in silence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from node.cli.object_work import get_tree, put_tree
from node.cli.output import Json
from node.client import Client
from node.client.sources import bytes_source
from tests.node.client.nine import Nine

SHOW_TREE = "import os, sys; os.setuid(65534); print(object_work._tree_of(Path(sys.argv[1])).unread)"
"""Run as somebody who may not read everything."""
STRANGE_NAMES = ("/etc/passwd", "a/../../b", "..", "a//b", "./a", "a/./b", ".", "a\0b", "a/", "/")


class Shown:
    """What a command showed last."""

    def __init__(self) -> None:
        self.value: dict[str, Json] = {}
        self.line = ""

    def __call__(self, value: Json, line: str) -> None:
        assert isinstance(value, dict), "results are objects"
        self.value, self.line = dict(value), line


@pytest.fixture
def nine(tmp_path: Path) -> Nine:
    return Nine(tmp_path / "nine")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


def below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


async def put_all(client: Client, *names: str) -> None:
    for name in names:
        await client.put("bucket", name, bytes_source(name.encode()))


async def test_no_name_leads_outside_or_takes_another_ones_place(nine: Nine, place: Path) -> None:
    shown = Shown()
    async with nine.client() as client:
        await put_all(client, "a/b", "good", *STRANGE_NAMES)
        assert await get_tree(client, ("bucket", ""), str(place), shown) == 1
    assert below(place) == ["a", "a/b", "good"]
    assert (place / "a/b").read_bytes() == b"a/b"
    failed = shown.value["failed"]
    assert isinstance(failed, list)
    assert len(failed) == len(STRANGE_NAMES)
    assert all("is no path below" in str(line) for line in failed)


async def test_an_empty_folder_of_s3_comes_back_as_a_folder(nine: Nine, place: Path) -> None:
    shown = Shown()
    async with nine.client() as client:
        for name in ("docs/", "docs/empty/", "docs/full/"):
            await client.put("bucket", name, bytes_source(b""))
        await put_all(client, "docs/full/file")
        assert await get_tree(client, ("bucket", "docs/"), str(place), shown) == 0
    assert below(place) == ["empty", "full", "full/file"]
    assert shown.value["objects"] == 4


async def test_what_is_left_out_is_said(nine: Nine, place: Path) -> None:
    shown = Shown()
    (place / "inside").mkdir(parents=True)
    (place / "inside" / "file").write_bytes(b"1")
    (place / "to-file").symlink_to(place / "inside" / "file")
    (place / "to-folder").symlink_to(place / "inside")
    os.mkfifo(place / "pipe")
    async with nine.client() as client:
        assert await put_tree(client, str(place), ("bucket", "kept"), shown) == 0
        assert [listed.object_record.name async for listed in client.listing("bucket", "")] == ["kept/inside/file"]
    assert (shown.value["objects"], shown.value["left_out"]) == (1, 3)
    assert shown.line.endswith("; left out what is no regular file: 3")


async def test_names_begin_as_they_were_typed(nine: Nine, place: Path) -> None:
    (place / "file").write_bytes(b"1")
    async with nine.client() as client:
        for prefix in ("", "a", "a/", "a//", "./a"):
            await put_tree(client, str(place), ("bucket", prefix), Shown())
        names = sorted([listed.object_record.name async for listed in client.listing("bucket", "")])
    assert names == ["./a/file", "a//file", "a/file", "file"]


def test_a_folder_that_may_not_be_read_is_said(place: Path) -> None:
    (place / "closed").mkdir(parents=True)
    (place / "closed").chmod(0)
    for folder in (place, *place.parents[:4]):  # as deep as a worker of the suite puts it
        folder.chmod(folder.stat().st_mode | 0o055)
    program = f"from pathlib import Path; from node.cli import object_work; {SHOW_TREE}"
    command = (sys.executable, "-P", "-c", program, str(place))
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    (place / "closed").chmod(0o700)
    assert shown.stdout == f"['{place}/closed: Permission denied']\n"
