"""The executable specification holds, and each mutant of the rules is caught: a small, seeded part of `make spec`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent.parent
LINE = re.compile(r"^(ok |NOT) (\S+) +(holds|broken) ", re.MULTILINE)


@pytest.fixture(scope="module")
def came_to() -> dict[str, str]:
    """What each check of the sample came to; make fetches the tools that are missing."""
    ready = ["make", "--no-print-directory", ".build/spec/.ready"]
    subprocess.run(ready, cwd=HOUSE, check=True)
    command = [sys.executable, "docs/spec/check.py", "--effort", "sample"]
    finished = subprocess.run(command, cwd=HOUSE, capture_output=True, text=True, check=False)
    assert not finished.stderr, finished.stderr
    found = {name: outcome for _, name, outcome in LINE.findall(finished.stdout)}
    assert found, finished.stdout + finished.stderr
    return found


@pytest.mark.xdist_group("spec")
@pytest.mark.parametrize(
    "check",
    [
        "four-agree",
        "four-accuse-nobody",
        "nine-agree",
        "fork-named-with-polka-0",
        "four-decide-in-2",
        "nine-decide-in-4",
        "named-runs",
        "walk-turns-four",
    ],
)
def test_the_rules_hold_in_every_schedule_explored(came_to: dict[str, str], check: str) -> None:
    assert came_to[check] == "holds"


@pytest.mark.xdist_group("spec")
@pytest.mark.parametrize(
    "mutant",
    [
        "mutant-no-lock-rule",
        "mutant-quorum-of-five",
        "mutant-papers-clause",
        "mutant-no-override",
        "mutant-no-earlier-polka",
    ],
)
def test_a_mutant_of_the_rules_has_a_counterexample(came_to: dict[str, str], mutant: str) -> None:
    assert came_to[mutant] == "broken"


@pytest.mark.xdist_group("spec")
@pytest.mark.parametrize("finding", ["found-fork-after-round-0", "found-liars-and-fast-nil"])
def test_what_the_models_found_stands_until_the_rules_change(came_to: dict[str, str], finding: str) -> None:
    assert came_to[finding] == "broken"
