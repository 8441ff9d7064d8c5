"""Runs the executable specification: `python docs/spec/check.py [--effort sample|full|campaign] [NAME...]`.

Each check states what is explored and whether it must hold. A mutant of the rules must be broken: a model in which
nothing can go wrong proves nothing. One line a check; exit status 1 if one of them turns out otherwise.
Tools: `.ci/spec-tools` (make spec runs it first).
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

SPEC = Path(__file__).parent
QUINT = SPEC.parent.parent / ".build" / "spec" / "node_modules" / ".bin" / "quint"
SEED = "20260101"
WORKERS = 2
DEPTH_MAX = 200_000
SPIN_MEMORY_MIB = 12_000
"""The largest campaign check stores 77 million states in 4.9 GB."""


class Effort(StrEnum):
    """How much to explore; each includes the checks of the one before."""

    SAMPLE = "sample"
    FULL = "full"
    CAMPAIGN = "campaign"


class Outcome(StrEnum):
    """What a check must come to."""

    HOLDS = "holds"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a check came to, and how much it saw."""

    outcome: Outcome
    seen: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhaustive:
    """All states of a Promela model, by spin."""

    name: str
    model: str
    macros: str
    expected: Outcome = Outcome.HOLDS
    effort: Effort = Effort.SAMPLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """The named runs of the Quint models."""

    name: str
    main: str
    expected: Outcome = Outcome.HOLDS
    effort: Effort = Effort.SAMPLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """Random walks through a Quint model, with its invariants."""

    name: str
    model: str
    main: str
    invariants: str
    steps: int
    samples: int
    campaign_samples: int
    expected: Outcome = Outcome.HOLDS
    effort: Effort = Effort.FULL


Check = Exhaustive | Runs | Walk

FOUR = "N=4 Q=3 LIARS=1"
NINE = "N=9 Q=6 LIARS=2"
AGREEMENT = "agreement lockSafety nobodyAccused"
TURNS = "atMostUAreSuspended decidedWithinFiveRounds whoIsUpKeepsItsTurn whoIsDownIsSkipped skippedCostsNothing"
MEMBERS = "knownInTime quorumsMeet approvedByThePresent oneAtATime neverWeaker"
BROKEN, FULL, CAMPAIGN = Outcome.BROKEN, Effort.FULL, Effort.CAMPAIGN

SAFETY: tuple[Check, ...] = (
    Exhaustive(name="four-agree", model="rounds", macros=f"{FOUR} ROUNDS=3 AGREEMENT LOCK_SAFETY"),
    Exhaustive(name="four-accuse-nobody", model="rounds", macros=f"{FOUR} ROUNDS=3 ACCOUNTABILITY"),
    Exhaustive(name="nine-agree", model="rounds", macros=f"{NINE} ROUNDS=3 AGREEMENT LOCK_SAFETY"),
    Exhaustive(name="nine-accuse-nobody", model="rounds", macros=f"{NINE} ROUNDS=3 ACCOUNTABILITY", effort=FULL),
    Exhaustive(name="four-agree-4", model="rounds", macros=f"{FOUR} ROUNDS=4 AGREEMENT LOCK_SAFETY", effort=FULL),
    Exhaustive(name="four-accuse-4", model="rounds", macros=f"{FOUR} ROUNDS=4 ACCOUNTABILITY", effort=FULL),
    Exhaustive(
        name="liars-beyond-accuse", model="rounds", macros="N=4 Q=3 LIARS=2 ROUNDS=3 ACCOUNTABILITY", effort=FULL
    ),
    Exhaustive(
        name="nine-liars-beyond-accuse",
        model="rounds",
        macros="N=9 Q=6 LIARS=3 ROUNDS=3 ACCOUNTABILITY",
        effort=CAMPAIGN,
    ),
    Exhaustive(name="fork-named", model="rounds", macros="N=4 Q=3 LIARS=2 ROUNDS=3 CULPRITS"),
    Exhaustive(
        name="any-block-named-with-polka-0",
        model="rounds",
        macros="N=4 Q=3 LIARS=2 ROUNDS=3 CULPRITS ANY_BLOCK_OF_THE_ROUND POLKA_OF_ROUND_0",
        effort=FULL,
    ),
)
LIVENESS: tuple[Check, ...] = (
    Exhaustive(name="four-decide-in-2", model="healing", macros=f"{FOUR} BOUND=2"),
    Exhaustive(name="nine-decide-in-4", model="healing", macros=f"{NINE} BOUND=4"),
    Exhaustive(name="four-with-a-liar-in-2", model="healing", macros=f"{FOUR} ACTIVE=1 BOUND=2"),
    Exhaustive(name="nine-with-liars-in-4", model="healing", macros=f"{NINE} ACTIVE=2 BEFORE=0 BOUND=4"),
    Exhaustive(
        name="nine-stormy-with-liars-in-4", model="healing", macros=f"{NINE} ACTIVE=2 BEFORE=1 BOUND=4", effort=FULL
    ),
    Exhaustive(
        name="blocks-withheld-need-more-than-5",
        model="healing",
        macros=f"{NINE} ACTIVE=2 BEFORE=0 BOUND=5 WITHHOLD",
        expected=BROKEN,
        effort=FULL,
    ),
    Exhaustive(name="seven-up-decide-in-5", model="healing", macros=f"{NINE} CORRECT=7 BOUND=5", effort=CAMPAIGN),
)
MUTANTS: tuple[Check, ...] = (
    Exhaustive(
        name="mutant-no-lock-rule", model="rounds", macros=f"{NINE} ROUNDS=3 AGREEMENT NO_LOCK", expected=BROKEN
    ),
    Exhaustive(
        name="mutant-quorum-of-five", model="rounds", macros="N=9 Q=5 LIARS=2 ROUNDS=2 AGREEMENT", expected=BROKEN
    ),
    Exhaustive(
        name="mutant-papers-clause", model="rounds", macros=f"{FOUR} ROUNDS=4 ACCOUNTABILITY PAPER", expected=BROKEN
    ),
    Exhaustive(name="mutant-no-override", model="healing", macros=f"{NINE} BOUND=8 NO_OVERRIDE", expected=BROKEN),
    Exhaustive(
        name="mutant-no-earlier-polka", model="healing", macros=f"{NINE} BOUND=5 NO_EARLIER_POLKA", expected=BROKEN
    ),
    Exhaustive(
        name="mutant-any-block-of-the-round",
        model="rounds",
        macros="N=9 Q=6 LIARS=3 ROUNDS=2 CULPRITS ANY_BLOCK_OF_THE_ROUND",
        expected=BROKEN,
    ),
    Exhaustive(
        name="mutant-fast-nil-by-precommits",
        model="healing",
        macros=f"{NINE} ACTIVE=2 BEFORE=0 BOUND=5 FAST_NIL_BY_PRECOMMITS",
        expected=BROKEN,
    ),
)
QUINT_CHECKS: tuple[Check, ...] = (
    Runs(name="named-runs", main="runs"),
    Walk(
        name="walk-members",
        model="members",
        main="membersChange",
        invariants=MEMBERS,
        steps=30,
        samples=20,
        campaign_samples=5_000,
        effort=Effort.SAMPLE,
    ),
    Walk(
        name="mutant-members-at-the-next-height",
        model="members",
        main="atTheNextHeight",
        invariants="knownInTime",
        steps=30,
        samples=20,
        campaign_samples=20,
        expected=BROKEN,
    ),
    Walk(
        name="walk-four",
        model="agreement_test",
        main="ours",
        invariants=AGREEMENT,
        steps=80,
        samples=20,
        campaign_samples=5_000,
    ),
    Walk(
        name="walk-nine",
        model="agreement_test",
        main="nine",
        invariants=AGREEMENT,
        steps=80,
        samples=1,
        campaign_samples=100,
        effort=CAMPAIGN,
    ),
    Walk(
        name="walk-turns-four",
        model="turns",
        main="turnsOfFour",
        invariants=TURNS,
        steps=120,
        samples=10,
        campaign_samples=5_000,
        effort=Effort.SAMPLE,
    ),
    Walk(
        name="walk-turns-four-liar",
        model="turns",
        main="turnsOfFourWithALiar",
        invariants=TURNS,
        steps=120,
        samples=10,
        campaign_samples=5_000,
    ),
    Walk(
        name="walk-turns-nine",
        model="turns",
        main="turnsOfNine",
        invariants=TURNS,
        steps=150,
        samples=5,
        campaign_samples=1_000,
    ),
    Walk(
        name="walk-turns-nine-liars",
        model="turns",
        main="turnsOfNineWithLiars",
        invariants=TURNS,
        steps=150,
        samples=10,
        campaign_samples=2_000,
    ),
)
CHECKS: tuple[Check, ...] = (*SAFETY, *LIVENESS, *MUTANTS, *QUINT_CHECKS)


class SpecError(Exception):
    """A tool failed where it should have judged the model."""


def perform(check: Check, effort: Effort) -> Verdict:
    """Carry one check out.

    Raises:
        SpecError: The tool itself failed, or the exploration was cut short.
    """
    match check:
        case Exhaustive():
            with tempfile.TemporaryDirectory() as folder:
                return explore(check, Path(folder))
        case Runs():
            return judge_runs(call(quint("test", "runs.qnt", check.main), SPEC))
        case Walk():
            samples = check.campaign_samples if effort is Effort.CAMPAIGN else check.samples
            command = quint("run", f"{check.model}.qnt", check.main)
            command += ["--max-samples", str(samples), "--max-steps", str(check.steps), "--verbosity", "1"]
            return judge_walk(call([*command, "--invariants", *check.invariants.split()], SPEC), samples)


def explore(check: Exhaustive, folder: Path) -> Verdict:
    """Translate, compile and run one Promela model to the end."""
    macros = [f"-D{macro}" for macro in check.macros.split()]
    translated = call(["spin", *macros, "-a", str(SPEC / f"{check.model}.pml")], folder)
    if not (folder / "pan.c").exists():
        raise SpecError(translated)
    call(["cc", "-O1", "-w", "-DSAFETY", f"-DMEMLIM={SPIN_MEMORY_MIB}", "-o", "pan", "pan.c"], folder)
    report = call([str(folder / "pan"), f"-m{DEPTH_MAX}"], folder)
    errors, states = re.search(r"errors: (\d+)", report), re.search(r"([\de+.]+) states, stored", report)
    if errors is None or states is None or "max search depth too small" in report or "out of memory" in report:
        raise SpecError(report)
    broken = errors[1] != "0"
    if broken and "assertion violated" not in report:
        raise SpecError(report)
    return Verdict(outcome=BROKEN if broken else Outcome.HOLDS, seen=f"{int(float(states[1])):,} states")


def quint(verb: str, file: str, main: str) -> list[str]:
    """Return the start of a command line; the TypeScript simulator needs nothing downloaded at run time."""
    return [str(QUINT), verb, file, "--main", main, "--backend", "typescript", "--seed", SEED]


def judge_runs(report: str) -> Verdict:
    """Read what `quint test` says."""
    passing = re.search(r"(\d+) passing", report)
    if re.search(r"(\d+) failed", report) is not None:
        return Verdict(outcome=BROKEN, seen=report)
    if passing is None:
        raise SpecError(report)
    return Verdict(outcome=Outcome.HOLDS, seen=f"{passing[1]} runs")


def judge_walk(report: str, samples: int) -> Verdict:
    """Read what `quint run` says."""
    if "[ok] No violation found" in report:
        return Verdict(outcome=Outcome.HOLDS, seen=f"{samples:,} walks")
    if "[violation]" in report:
        return Verdict(outcome=BROKEN, seen=report)
    raise SpecError(report)


def call(command: list[str], folder: Path) -> str:
    """Run a tool in a folder; return all that it printed."""
    finished = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return finished.stdout + finished.stderr


def selected(effort: Effort, names: list[str]) -> list[Check]:
    """Return the checks that were asked for."""
    known = {check.name: check for check in CHECKS}
    if names:
        return [known[name] for name in names]
    efforts = list(Effort)
    return [check for check in CHECKS if efforts.index(check.effort) <= efforts.index(effort)]


def main() -> int:
    """Print one line a check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--effort", type=Effort, choices=list(Effort), default=Effort.FULL)
    parser.add_argument("names", nargs="*", metavar="NAME", help="all of the effort if none is named")
    arguments = parser.parse_args()
    checks = selected(arguments.effort, arguments.names)
    # The large ones need the memory for themselves.
    workers = 1 if arguments.effort is Effort.CAMPAIGN else WORKERS
    with ThreadPoolExecutor(workers) as pool:
        as_expected = list(pool.map(lambda check: report(check, arguments.effort), checks))
    return 0 if all(as_expected) else 1


def report(check: Check, effort: Effort) -> bool:
    """Print what a check came to; tell whether that was expected."""
    began = time.monotonic()
    verdict = perform(check, effort)
    as_expected = verdict.outcome is check.expected
    mark = "ok " if as_expected else "NOT"
    print(f"{mark} {check.name:38} {verdict.outcome:6} {verdict.seen} in {time.monotonic() - began:.1f} s", flush=True)
    return as_expected


if __name__ == "__main__":
    os.environ["NO_COLOR"] = "1"
    sys.exit(main())
