"""The executable specification holds, and each mutant of the rules is caught: a small, seeded part of `make spec`."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    """Let make fetch the tools that are missing, for one worker at a time."""
    folder = HOUSE / ".build"
    folder.mkdir(exist_ok=True)
    with (folder / "tools.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(["make", "--no-print-directory", ".build/spec/.ready"], cwd=HOUSE, check=True)  # noqa: S607 (make of the machine)


def outcome(check: str) -> str:
    """Return what a check came to; the tool itself exits with 1 if that is not what it states."""
    command = [sys.executable, "docs/spec/check.py", check]
    finished = subprocess.run(command, cwd=HOUSE, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    mark, name, came_to = finished.stdout.split()[:3]
    assert (mark, name) == ("ok", check)
    return came_to


@pytest.mark.parametrize(
    "check",
    [
        "four-agree",
        "four-accuse-nobody",
        "nine-agree",
        "fork-named",
        "four-decide-in-2",
        "nine-decide-in-4",
        "four-with-a-liar-in-2",
        "nine-with-liars-in-4",
        "named-runs",
        "walk-turns-four",
        "walk-members",
    ],
)
def test_the_rules_hold_in_every_schedule_explored(check: str) -> None:
    assert outcome(check) == "holds"


@pytest.mark.parametrize(
    "mutant",
    [
        "mutant-no-lock-rule",
        "mutant-quorum-of-five",
        "mutant-papers-clause",
        "mutant-any-block-of-the-round",
        "mutant-no-override",
        "mutant-no-earlier-polka",
        "mutant-fast-nil-by-precommits",
        "mutant-members-at-the-next-height",
    ],
)
def test_a_mutant_of_the_rules_has_a_counterexample(mutant: str) -> None:
    assert outcome(mutant) == "broken"
