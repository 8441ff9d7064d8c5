"""The page of who kills what, docs/mutants.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tests.mutants.catalogue import CHAPTERS, MUTANTS
from tests.mutants.mutant import Mutant
from tests.mutants.trial import Killed

HEAD: Final = """# Mutants: who notices what

Deliberate faults of the agreement's core and its shell, put in one at a time by `python -m tests.mutants` (the whole
list is part of `make campaign`, a seeded sample of `make test`). Each is killed by the named assertion of the suite; a
time-out, a crash, an import error or an assertion of the product's own code does not count. The tool writes this page.
"""


def page(verdicts: Mapping[Mutant, Killed]) -> str:
    """Return the page; every mutant has its verdict."""
    parts = [HEAD, f"{len(MUTANTS)} mutants, none survives.\n"]
    for chapter, mutants in CHAPTERS.items():
        parts.append(f"## {chapter}\n\n| Mutant | Rule | Killed by |\n|---|---|---|")
        parts += [f"| {mutant.name} | {mutant.rule} | {_test(verdicts[mutant])} |" for mutant in mutants]
        parts.append("")
    return "\n".join(parts)


def _test(verdict: Killed) -> str:
    file, _, test = verdict.test.partition("::")
    return f"`{file.removeprefix('tests/')}` {test.split('[')[0]}"
