"""The object and audit commands as scripts use them, and the examples of the pages, on nine real nodes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from testnet.cluster import Cluster

GRANDEST = (sys.executable, "-m", "testnet.cli")
DOCS = Path(__file__).parents[2] / "docs"
VERIFIER = DOCS / "examples" / "verify_frame.py"
"""Asked in test_s3.py: it takes a proof, and none of our code."""
EXAMPLES = sorted(set((DOCS / "examples").glob("*.py")) - {VERIFIER})
CLIENT_PAGE = DOCS / "client.md"
SECONDS_MAX = 60


def ran(*words: str, contents: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(words, input=contents, capture_output=True, check=False, timeout=SECONDS_MAX)


def grandest(cluster: Cluster, *words: str, contents: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return ran(*GRANDEST, *words, "--home", str(cluster.home), contents=contents)


def test_what_is_put_from_a_pipe_is_got_to_a_pipe(healthy_nodes: Cluster) -> None:
    contents = bytes(range(256)) * 5_000
    put = grandest(healthy_nodes, "put", "-", "pipes/one", "--json", contents=contents)
    assert (put.returncode, json.loads(put.stdout)["state"]) == (0, "sealed")
    assert grandest(healthy_nodes, "get", "pipes/one", "-").stdout == contents


def test_a_tree_comes_back_as_it_was(healthy_nodes: Cluster, tmp_path: Path) -> None:
    files = {"a": b"", "b/c": b"one", "b/d/e.txt": bytes(70_000)}
    for name, contents in files.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents)
    assert grandest(healthy_nodes, "put", str(tmp_path / "tree"), "trees/kept").returncode == 0
    listed = json.loads(grandest(healthy_nodes, "ls", "trees/kept/", "--json").stdout)
    assert {(entry["path"], entry["bytes"]) for entry in listed} == {
        (f"trees/kept/{name}", len(contents)) for name, contents in files.items()
    }
    assert grandest(healthy_nodes, "get", "trees/kept/", str(tmp_path / "back")).returncode == 0
    assert {name: (tmp_path / "back" / name).read_bytes() for name in files} == files


def test_stat_and_verify_say_where_every_column_is(healthy_nodes: Cluster) -> None:
    grandest(healthy_nodes, "put", "-", "looked/at", contents=b"contents")
    status = json.loads(grandest(healthy_nodes, "stat", "looked/at", "--json").stdout)
    assert (status["state"], status["k"], status["bytes"], status["columns_live"]) == ("sealed", 6, 8, 9)
    (segment,) = status["segments"]
    assert (segment["k"], segment["receipts"]) == (6, 9)
    assert sorted(column["seat"] for column in segment["columns"]) == list(range(9))
    proven = json.loads(grandest(healthy_nodes, "verify", "looked/at", "--json").stdout)
    assert proven["verified"]
    assert proven["signers"] >= 6


def test_what_was_removed_is_not_found(healthy_nodes: Cluster) -> None:
    grandest(healthy_nodes, "put", "-", "gone/soon", contents=b"contents")
    assert grandest(healthy_nodes, "rm", "gone/soon").returncode == 0
    for command in (("get", "gone/soon", "-"), ("stat", "gone/soon"), ("verify", "gone/soon"), ("rm", "gone/soon")):
        missing = grandest(healthy_nodes, *command)
        assert (missing.returncode, missing.stderr.count(b"\n")) == (6, 1), command
        assert missing.stderr.startswith(b"grandest: no object gone/soon"), command


def test_any_node_will_do(healthy_nodes: Cluster) -> None:
    keys = str(healthy_nodes.home / "client")
    for seat in (1, 7):
        where = ("--node", healthy_nodes.api_address(healthy_nodes.all_seats()[seat]), "--keys", keys)
        name = f"anywhere/{seat}"
        assert ran(*GRANDEST, "put", "-", name, *where, contents=b"x").returncode == 0
        assert ran(*GRANDEST, "get", name, "-", *where).stdout == b"x"


def test_an_audit_pins_the_genesis_hash_or_says_that_it_did_not(healthy_nodes: Cluster, tmp_path: Path) -> None:
    grandest(healthy_nodes, "put", "-", "audited/one", contents=b"contents")
    export = str(tmp_path / "export")
    assert grandest(healthy_nodes, "audit", "export", "--out", export).returncode == 0
    loose = ran(*GRANDEST, "audit", "replay", export)
    assert (loose.returncode, b"not pinned" in loose.stdout) == (0, True)
    report = json.loads(ran(*GRANDEST, "audit", "replay", export, "--json").stdout)
    assert report["valid"]
    assert not report["pinned"]
    pinned = ran(*GRANDEST, "audit", "replay", export, "--genesis-hash", report["genesis_hash"], "--json")
    assert json.loads(pinned.stdout)["pinned"]
    another = ran(*GRANDEST, "audit", "replay", export, "--genesis-hash", "ab" * 32)
    assert (another.returncode, b"a lie at height 0: bad_genesis" in another.stderr) == (1, True)


def test_ctrl_c_ends_a_put_that_waits_for_the_writer_of_a_pipe(healthy_nodes: Cluster, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    words = (*GRANDEST, "put", str(pipe), "pipes/given-up", "--home", str(healthy_nodes.home))
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as put:
        assert put.stderr is not None
        assert put.stderr.readline() == f"{pipe} is a pipe: storing what comes until its writer ends\n"
        put.send_signal(signal.SIGINT)
        assert (put.wait(timeout=SECONDS_MAX), put.stderr.read()) == (130, "")


def test_what_comes_through_a_named_pipe_is_stored(healthy_nodes: Cluster, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    words = (*GRANDEST, "put", str(pipe), "pipes/named", "--home", str(healthy_nodes.home))
    with subprocess.Popen(words, stderr=subprocess.PIPE) as put:
        pipe.write_bytes(bytes(200_000))
        assert put.wait(timeout=SECONDS_MAX) == 0
    assert grandest(healthy_nodes, "get", "pipes/named", "-").stdout == bytes(200_000)


def test_an_empty_directory_is_said_to_be_one(healthy_nodes: Cluster, tmp_path: Path) -> None:
    put = grandest(healthy_nodes, "put", str(tmp_path), "trees/empty")
    assert (put.returncode, put.stderr.decode()) == (0, f"nothing stored: {tmp_path} holds no regular file\n")


def test_a_full_error_output_does_not_fail_what_was_stored(healthy_nodes: Cluster) -> None:
    words = (*GRANDEST, "put", "-", "pipes/unsaid", "--home", str(healthy_nodes.home))
    with Path("/dev/full").open("wb") as full:
        assert subprocess.run(words, input=b"contents", stderr=full, check=False, timeout=SECONDS_MAX).returncode == 0


def test_the_page_of_the_client_shows_a_program_that_runs(healthy_nodes: Cluster, tmp_path: Path) -> None:
    page = CLIENT_PAGE.read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    path = tmp_path / "program.py"
    path.write_text(program.replace("HOME/client", str(healthy_nodes.home / "client")))
    shown = ran(sys.executable, "-W", "error", str(path))
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert shown.stdout.startswith(b"sealed 9 ")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_run(healthy_nodes: Cluster, example: Path) -> None:
    shown = ran(sys.executable, "-W", "error", str(example), str(healthy_nodes.home))
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert shown.stdout
