"""Trials: a copy of the house, one mutant in it at a time, and the tests that must notice.

A mutant is killed when a named assertion of the suite fails. A time-out, an import error, a crash or an assertion of
the product's own code is no kill: whoever reads the suite could not say what was noticed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from tests.mutants.mutant import Mutant, mutated
from tests.mutants.witness import TESTIMONY, Testimony

HOUSE: Final = Path(__file__).parent.parent.parent
COPIED: Final = ("consensus", "storage", "node", "testnet", "tests", "pyproject.toml")
TRIAL_S: Final = 120.0
"""Thirty times what the slowest named file takes."""


class Killed(msgspec.Struct, frozen=True, kw_only=True, tag="killed"):
    """A test noticed, by this assertion."""

    test: str
    statement: str


class Survived(msgspec.Struct, frozen=True, kw_only=True, tag="survived"):
    """No assertion noticed; the reason says what happened instead."""

    reason: str


Verdict = Killed | Survived


@dataclass(frozen=True, slots=True)
class Workshop:
    """A copy of the house in a folder of its own; one trial at a time."""

    root: Path

    def try_mutant(self, mutant: Mutant) -> Verdict:
        """Put a mutant in, run its killers, take it out again.

        Raises:
            StaleMutantError: Its text is not in the code any more.
        """
        source, place = mutated(mutant, HOUSE), self.root / mutant.file
        place.write_text(source)
        changed_at = zlib.crc32(source.encode()) // 4
        os.utime(place, (changed_at, changed_at))  # Python knows compiled files by length and second
        try:
            return self.run(mutant.killers)
        finally:
            shutil.copy2(HOUSE / mutant.file, place)

    def run(self, killers: tuple[str, ...]) -> Verdict:
        """Run tests in the copy; say which assertion failed first."""
        testimony = self.root / "testimony.json"
        testimony.unlink(missing_ok=True)
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.root),
            "GRANDEST_HYPOTHESIS_PROFILE": "mutants",
            TESTIMONY: str(testimony),
        }
        environment.pop("PYTEST_XDIST_WORKER", None)
        options = ("-p", "tests.mutants.witness", "--numprocesses=0", "--tb=line", "--durations=0")
        command = [sys.executable, "-m", "pytest", *options, "-p", "no:cacheprovider", *killers]
        try:
            finished = subprocess.run(
                command, cwd=self.root, env=environment, capture_output=True, text=True, check=False, timeout=TRIAL_S
            )
        except subprocess.TimeoutExpired:
            return Survived(reason=f"no end within {TRIAL_S:.0f} s")
        if testimony.exists():
            told = msgspec.json.decode(testimony.read_bytes(), type=Testimony)
            return Killed(test=told.test, statement=told.statement)
        if finished.returncode == 0:
            return Survived(reason="every test passes")
        last = (finished.stdout.strip() or finished.stderr.strip()).splitlines()
        return Survived(reason=f"no assertion: {' / '.join(line.strip() for line in last[-3:])}")


def open_workshop(folder: Path) -> Workshop:
    """Copy the house, without what was compiled of it."""
    root = folder / "house"
    root.mkdir()
    for name in COPIED:
        if (HOUSE / name).is_dir():
            shutil.copytree(HOUSE / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        else:
            shutil.copy2(HOUSE / name, root / name)
    return Workshop(root)
