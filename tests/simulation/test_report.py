"""A campaign's files are added up, and what broke is named with its command."""

from __future__ import annotations

from testnet.simulation.report import WorldsRun, report


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
