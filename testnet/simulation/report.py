"""What a campaign of worlds has found so far: `python -m testnet.simulation.report FOLDER` adds up its JSON files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import msgspec

NODES: Final = 9
YEAR_S: Final = 365.25 * 24 * 3600


class WorldsRun(msgspec.Struct):
    """One file, as `grandest simulate --json` prints it."""

    worlds: int
    seconds: float
    failures: list[str]
    events: int = 0
    heights: int = 0
    restarts: int = 0
    decided_above_round_0: int = 0
    virtual_seconds: int = 0


def report(runs: list[WorldsRun]) -> str:
    """Return the report, in Markdown."""
    virtual_s = sum(run.virtual_seconds for run in runs)
    rows = (
        ("worlds", sum(run.worlds for run in runs)),
        ("heights decided", sum(run.heights for run in runs)),
        ("events", sum(run.events for run in runs)),
        ("restarts", sum(run.restarts for run in runs)),
        ("decisions above round 0", sum(run.decided_above_round_0 for run in runs)),
        ("node-years of virtual time", round(NODES * virtual_s / YEAR_S, 3)),
        ("hours of the machine", round(sum(run.seconds for run in runs) / 3600, 2)),
        ("worlds in which an invariant broke", sum(len(run.failures) for run in runs)),
    )
    broken = [f"    {command}" for run in runs for command in run.failures]
    return "\n".join(
        ["| What | So many |", "|---|---|", *(f"| {what} | {count:,} |" for what, count in rows), "", *broken]
    )


def main() -> None:
    """Read, add up, print."""
    files = sorted(Path(sys.argv[1]).glob("worlds-*.json"))
    print(report([msgspec.json.decode(file.read_bytes(), type=WorldsRun) for file in files]))


if __name__ == "__main__":
    main()
