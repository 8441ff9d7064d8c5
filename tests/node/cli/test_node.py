"""What an operator asks of its own node: the scrub's state is told from the home, and a pass needs a running node."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec import structs

from consensus.identifiers import Milliseconds
from node.cli import ExitCode
from node.config import is_locked, locked_home
from node.scrub_task import REQUEST_FILE, STATE_FILE
from storage.identifiers import ColumnIndex, SegmentId
from storage.scrubbing import NEVER_SCRUBBED, ScrubCounts, ShardRef, begin_pass, encode_scrub, end_pass
from testnet.cli import main

SUSPECT = ShardRef(segment_id=SegmentId(b"s" * 32), column=ColumnIndex(4))


def keep_state(home: Path, *, suspects: tuple[ShardRef, ...] = ()) -> None:
    counts = ScrubCounts(shards=7, shard_bytes=7 << 20, damaged=2, missing=1, dead=3)
    state = structs.replace(begin_pass(NEVER_SCRUBBED, 7 << 20, Milliseconds(1_000)), counts=counts, suspects=suspects)
    (home / STATE_FILE).write_bytes(encode_scrub(end_pass(state, 5, Milliseconds(3_500))))


@pytest.fixture(autouse=True)
def home_of_a_node(tmp_path: Path) -> None:
    (tmp_path / "genesis").touch()


def test_what_is_no_home_of_a_node_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "genesis").unlink()
    assert main(["node", "scrub", "--home", str(tmp_path)]) == ExitCode.CONFIGURATION
    assert capsys.readouterr().err == f"grandest: {tmp_path} is no node's home: it has no genesis\n"


def test_a_damaged_state_of_the_scrub_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / STATE_FILE).write_bytes(b"\xc1")
    assert main(["node", "scrub", "--home", str(tmp_path)]) == ExitCode.CONFIGURATION
    assert "remove it, and the next pass begins anew" in capsys.readouterr().err


def test_a_home_without_a_pass_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["node", "scrub", "--home", str(tmp_path)]) == ExitCode.DONE
    assert capsys.readouterr().out == "no pass has ended yet\n"


def test_the_last_pass_is_told_to_people_and_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep_state(tmp_path)
    assert main(["node", "scrub", "--home", str(tmp_path)]) == ExitCode.DONE
    assert capsys.readouterr().out == (
        "passes     1; the last took 2.5 s\n"
        "reread     7 shards, 7.0 MiB: every leaf and its index\n"
        "damaged    2, of which 0 wait for repair\n"
        "missing    1: repair has been told\n"
        "deleted    3 shards that the chain does not know, 5 orphaned rows\n"
    )
    keep_state(tmp_path, suspects=(SUSPECT,))
    assert main(["node", "scrub", "--home", str(tmp_path), "--json"]) == ExitCode.FAILED
    told = json.loads(capsys.readouterr().out)
    assert told["waiting_for_repair"] == ["73" * 32 + "/4"]
    assert (told["last"]["damaged"], told["last"]["orphans"], told["running"]) == (2, 5, False)


def test_a_pass_now_needs_a_running_node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["node", "scrub", "--home", str(tmp_path), "--now"]) == ExitCode.CONFIGURATION
    assert "start it, then ask again" in capsys.readouterr().err
    assert not (tmp_path / REQUEST_FILE).exists()
    assert not is_locked(tmp_path)
    with locked_home(tmp_path):
        assert is_locked(tmp_path)
