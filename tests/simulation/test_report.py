"""A campaign's files are added up, and what broke is named with its command."""

from __future__ import annotations

from pathlib import Path

import msgspec

from testnet.simulation.report import Others, WorldsRun, read_others, read_runs, report
from tests.mutants.trial import Killed, Survived


def test_files_are_added_up_and_failures_named() -> None:
    one = WorldsRun(worlds=1_000, seconds=1_800, failures=[], heights=100_000, virtual_seconds=3_506_400)
    two = WorldsRun(worlds=1_000, seconds=1_800, failures=["grandest simulate --first-seed 7"], heights=5)
    said = report([one, two])
    assert "| worlds | 2,000 |" in said
    assert "| heights decided | 100,005 |" in said
    assert "| node-years of virtual time | 1.0 |" in said
    assert "| hours of the machine | 1.0 |" in said
    assert "| worlds in which an invariant broke | 1 |" in said
    assert said.endswith("    grandest simulate --first-seed 7")


def test_what_twins_crash_points_and_mutants_left_is_counted(tmp_path: Path) -> None:
    assert read_others(tmp_path) == Others()
    line = "500000 of 9 scenarios kept every promise, 7 of them decided\n"
    (tmp_path / "twins.done").write_text(line * 2)
    (tmp_path / "crash_points.done").write_text("1000 runs, hurt at 175000 points: every invariant held\n")
    (tmp_path / "mutants").mkdir()
    killed, survived = Killed(test="test", statement="assert"), Survived(reason="nobody noticed")
    for name, verdict in (("one", killed), ("two", killed), ("three", survived)):
        (tmp_path / "mutants" / f"{name}.json").write_bytes(msgspec.json.encode(verdict))
    found = read_others(tmp_path)
    assert found == Others(twins=1_000_000, crash_points=175_000, mutants=2)
    assert "| scenarios of twins | 1,000,000 |" in report([], found)


def test_a_thousand_worlds_of_an_earlier_campaign_count_and_their_hundreds_do_not_count_again(tmp_path: Path) -> None:
    sizes = {"worlds-01": 1_000, "hundred-017": 100, "hundred-020": 100, "years-00": 20}
    for name, worlds in sizes.items():
        run = WorldsRun(worlds=worlds, seconds=1, failures=[])
        (tmp_path / f"{name}.json").write_bytes(msgspec.json.encode(run))
    assert [run.worlds for run in read_runs(tmp_path)] == [1_000, 100, 20]
