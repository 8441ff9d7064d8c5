"""One line for every error, with the exit code that the manual promises."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from node.cli import ExitCode
from testnet.cli import command_parser, main
from testnet.genesis import OPERATORS, make_testnet

CPU_SECONDS_MAX = 0.5
"""What a person still takes for "at once"; processor time, since the tests share their cores."""


def run_main(words: list[str]) -> int:
    """Run a command line in this process; argparse ends it by SystemExit."""
    try:
        return main(words)
    except SystemExit as end:
        return int(str(end.code))


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], ExitCode.USAGE, "the following arguments are required: COMMAND; see `grandest --help`"),
        (["no-such"], ExitCode.USAGE, "invalid choice: 'no-such'"),
        (
            ["testnet", "kill", "--home", "/nowhere", "two"],
            ExitCode.USAGE,
            "'two' is no seat: a whole number",
        ),
        (
            ["testnet", "status", "--home", "/nowhere"],
            ExitCode.CONFIGURATION,
            "/nowhere holds no testnet: make one with",
        ),
        (["node", "run", "--home", "/nowhere"], ExitCode.USAGE, "/nowhere is not a directory"),
        (["ls"], ExitCode.USAGE, "give either --home DIR of a testnet, or --node URL and --keys DIR"),
        (["put", "-", "/key", "--home", "/nowhere"], ExitCode.USAGE, "an object is named BUCKET/KEY"),
        (["ls", "--node", "127.0.0.1:80", "--keys", "/k"], ExitCode.USAGE, "'127.0.0.1:80' is no address of a node"),
        (["simulate", "--seeds", "many"], ExitCode.USAGE, "argument --seeds: 'many' is no positive whole number"),
        (["simulate", "--only", "1,x"], ExitCode.USAGE, "'1,x' is neither whole numbers with commas"),
        (["simulate", "--faults", "rain"], ExitCode.USAGE, "no such fault: rain; there are loss,"),
        (
            ["audit", "replay", "/nowhere", "--genesis-hash", "ab"],
            ExitCode.USAGE,
            "'ab' is no genesis hash: 64 hex digits",
        ),
        (["tenant", "show", "zz", "--node", "http://h"], ExitCode.USAGE, "'zz' is no tenant: 32 hex digits are needed"),
        (["tenant", "move", "T", "64"], ExitCode.USAGE, "'64' is no seat: a whole number from 0 to 63 is needed"),
        (["tenant", "keys", "T", "--days", "0"], ExitCode.USAGE, "'0' is no number of days: a whole number from 1 to"),
        (["tenant", "keys", "T", "--bucket", ""], ExitCode.USAGE, "a bucket's name has 1 to 63 bytes"),
    ],
)
def test_an_error_is_one_line_with_its_code(
    words: list[str], code: ExitCode, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(words) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("grandest: ")
    assert said in shown.err
    assert shown.err.count("\n") == 1


def leaf_commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Give the parsers of all commands below a parser, itself if it has none."""
    offered = [cast("object", action.choices) for action in parser._actions]
    groups = [cast("dict[str, argparse.ArgumentParser]", each) for each in offered if isinstance(each, dict)]
    for group in groups:
        for below in group.values():
            yield from leaf_commands(below)
    if not groups:
        yield parser


def test_whatever_prints_has_json() -> None:
    silent = {"grandest node run", "grandest gateway run"}
    without = {leaf.prog for leaf in leaf_commands(command_parser()) if "--json" not in leaf.format_help()}
    assert without == silent


def test_a_directory_with_other_files_is_refused_and_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert run_main(["testnet", "up", "--home", str(tmp_path)]) == ExitCode.CONFIGURATION
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_status_of_a_stopped_testnet_shows_every_seat_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_testnet(tmp_path / "home", OPERATORS)
    assert run_main(["testnet", "status", "--json", "--home", str(tmp_path / "home")]) == ExitCode.DONE
    seats = json.loads(capsys.readouterr().out)
    assert [seat["seat"] for seat in seats] == list(range(9))
    assert {"seat", "operator", "pid", "alive", "height", "block_hash", "state_root", "api"} <= seats[0].keys()
    assert not any(seat["alive"] for seat in seats)


def test_killing_and_stopping_what_does_not_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_testnet(tmp_path / "home", OPERATORS)
    assert run_main(["testnet", "kill", "--home", str(tmp_path / "home"), "2"]) == ExitCode.DONE
    assert run_main(["testnet", "down", "--home", str(tmp_path / "home")]) == ExitCode.DONE
    assert capsys.readouterr().out == "seat 2 was not running\nno node was running\n"


def test_a_seat_beyond_the_last_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_testnet(tmp_path / "home", OPERATORS)
    assert run_main(["testnet", "burn", "--home", str(tmp_path / "home"), "9"]) == ExitCode.CONFIGURATION
    assert capsys.readouterr().err == "grandest: there is no seat 9: seats are 0 to 8\n"


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    make_testnet(tmp_path / "home", OPERATORS)
    reading, writing = os.pipe()
    os.close(reading)
    command = (sys.executable, "-m", "testnet.cli", "testnet", "status", "--home", str(tmp_path / "home"))
    finished = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert finished.stderr == b""


def test_a_closed_output_and_a_narrow_encoding_are_no_errors(tmp_path: Path) -> None:
    make_testnet(tmp_path / "home", OPERATORS)
    command = (sys.executable, "-m", "testnet.cli", "testnet", "status", "--home", str(tmp_path / "home"))
    for redirection in (">&-", "2>&-"):
        closed = subprocess.run(
            ("/bin/sh", "-c", f'"$@" {redirection}', "sh", *command), capture_output=True, check=False
        )
        assert (closed.returncode, closed.stderr) == (ExitCode.DONE, b"")
    narrow = {**os.environ, "PYTHONIOENCODING": "ascii"}
    shown = subprocess.run(command, capture_output=True, check=False, env=narrow)
    assert (shown.returncode, shown.stderr) == (ExitCode.DONE, b"")
    assert rb"\xc9pinal" in shown.stdout


def test_help_appears_at_once() -> None:
    before = os.times()
    began = time.monotonic()
    subprocess.run((sys.executable, "-m", "testnet.cli", "--help"), capture_output=True, check=True)
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    assert spent < CPU_SECONDS_MAX, f"{spent:.2f} s of processor time, {time.monotonic() - began:.2f} s in all"


def test_running_without_assertions_is_refused() -> None:
    finished = subprocess.run((sys.executable, "-O", "-m", "testnet.cli", "--help"), capture_output=True, check=False)
    assert finished.returncode == ExitCode.CONFIGURATION
    assert b"run it without -O" in finished.stderr
