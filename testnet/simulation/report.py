"""What a campaign has found so far: `python -m testnet.simulation.report FOLDER` adds up what its parts left.

Worlds and years are JSON files of `grandest simulate`; twins and crash points the lines that they print; mutants a
verdict each. A part that has not run counts nothing.
"""

from __future__ import annotations

import re
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


class Others(msgspec.Struct, frozen=True, kw_only=True):
    """How much the parts without worlds have tried."""

    twins: int = 0
    crash_points: int = 0
    mutants: int = 0


def report(runs: list[WorldsRun], others: Others | None = None) -> str:
    """Return the report, in Markdown."""
    others = others or Others()
    virtual_s = sum(run.virtual_seconds for run in runs)
    rows = (
        ("worlds", sum(run.worlds for run in runs)),
        ("heights decided", sum(run.heights for run in runs)),
        ("events", sum(run.events for run in runs)),
        ("restarts", sum(run.restarts for run in runs)),
        ("decisions above round 0", sum(run.decided_above_round_0 for run in runs)),
        ("node-years of virtual time", round(NODES * virtual_s / YEAR_S, 3)),
        ("hours of the machine", round(sum(run.seconds for run in runs) / 3600, 2)),
        ("scenarios of twins", others.twins),
        ("crash points", others.crash_points),
        ("mutants killed", others.mutants),
        ("worlds in which an invariant broke", sum(len(run.failures) for run in runs)),
    )
    broken = [f"    {command}" for run in runs for command in run.failures]
    return "\n".join(
        ["| What | So many |", "|---|---|", *(f"| {what} | {count:,} |" for what, count in rows), "", *broken]
    )


def read_runs(folder: Path) -> list[WorldsRun]:
    """Return what worlds have left: a hundred or, in an earlier campaign, a thousand a file; node-years besides."""
    thousands = {file.stem.removeprefix("worlds-") for file in folder.glob("worlds-*.json")}
    files = [
        file
        for pattern in ("worlds-*.json", "hundred-*.json", "years-*.json")
        for file in sorted(folder.glob(pattern))
        if not (pattern == "hundred-*.json" and file.stem.removeprefix("hundred-")[:-1] in thousands)
    ]
    return [msgspec.json.decode(file.read_bytes(), type=WorldsRun) for file in files]


def read_others(folder: Path) -> Others:
    """Return what twins, crash points and mutants have left in a campaign's folder."""
    verdicts = [file.read_bytes() for file in sorted((folder / "mutants").glob("*.json"))]
    return Others(
        twins=_total(folder / "twins.done", r"^(\d+) of \d+ scenarios kept every promise"),
        crash_points=_total(folder / "crash_points.done", r"hurt at (\d+) points"),
        mutants=sum(b'"type":"killed"' in verdict for verdict in verdicts),
    )


def _total(path: Path, pattern: str) -> int:
    said = path.read_text() if path.exists() else ""
    return sum(int(count) for count in re.findall(pattern, said, re.MULTILINE))


def main() -> None:
    """Read, add up, print."""
    folder = Path(sys.argv[1])
    print(report(read_runs(folder), read_others(folder)))


if __name__ == "__main__":
    main()
