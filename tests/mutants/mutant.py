"""A mutant: one deliberate fault of the product, by the text that it replaces, and the tests that must notice it.

The text stands exactly once in its file. When the code changes and it no longer does, the mutant is stale: that is an
error of the catalogue, never a kill.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class StaleMutantError(Exception):
    """The code has changed under a mutant: write its text anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One fault.

    Attributes:
        name: What is wrong then, in words joined by hyphens; unique.
        file: Below the house's root.
        before: Text that stands there exactly once.
        after: What stands there instead.
        rule: The number in docs/protocol.md that is broken.
        killers: Test files, or single tests by their pytest id, one of which must notice.
    """

    name: str
    file: str
    before: str
    after: str
    rule: str
    killers: tuple[str, ...]


def mutated(mutant: Mutant, house: Path) -> str:
    """Return the mutant's file with its fault in it.

    Raises:
        StaleMutantError: Its text is not there, or more than once.
    """
    source = (house / mutant.file).read_text()
    count = source.count(mutant.before)
    if count != 1:
        raise StaleMutantError(f"{mutant.name}: its text stands {count} times in {mutant.file}")
    if mutant.before == mutant.after:
        raise StaleMutantError(f"{mutant.name} changes nothing")
    return source.replace(mutant.before, mutant.after)
