"""The catalogue fits the code, the judge is strict, and a seeded sample of the mutants is killed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Final

import pytest

from tests.mutants.catalogue import CHAPTERS, MUTANTS
from tests.mutants.mutant import Mutant, StaleMutantError, mutated
from tests.mutants.trial import HOUSE, Killed, Survived, Workshop, open_workshop

SAMPLE: Final = Random(9).sample(MUTANTS, 8)
RULES: Final = (HOUSE / "docs" / "protocol.md").read_text()
ONE: Final = Mutant(
    name="one",
    file="consensus/quorum.py",
    before="    liars = (members - 1) // 3\n",
    after="    liars = (members - 1) // 3 + 0\n",
    rule="A1",
    killers=("tests/consensus/test_quorum.py",),
)


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    with TemporaryDirectory(prefix="grandest-mutants-") as folder:
        yield open_workshop(Path(folder))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_fits_the_code_breaks_a_rule_and_names_its_tests(mutant: Mutant) -> None:
    compile(mutated(mutant, HOUSE), mutant.file, "exec")
    assert f"**{mutant.rule} " in RULES
    assert all((HOUSE / killer.split("::")[0]).is_file() for killer in mutant.killers)


def test_there_are_enough_and_each_has_its_own_name() -> None:
    assert max(Counter(mutant.name for mutant in MUTANTS).values()) == 1
    assert len(MUTANTS) >= 100
    assert len(CHAPTERS["Locks and polkas"]) + len(CHAPTERS["Certificates and evidence"]) >= 30


def test_the_page_shows_every_mutant() -> None:
    page = (HOUSE / "docs" / "mutants.md").read_text()
    assert [mutant.name for mutant in MUTANTS if f"| {mutant.name} | {mutant.rule} |" not in page] == []


@pytest.mark.parametrize("mutant", SAMPLE, ids=lambda mutant: mutant.name)
def test_a_named_assertion_notices(workshop: Workshop, mutant: Mutant) -> None:
    verdict = workshop.try_mutant(mutant)
    assert isinstance(verdict, Killed), verdict


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        ("    liars = (members - 1) // 3 + 0\n", "every test passes"),
        ("    import nowhere\n    liars = (members - 1) // 3\n", "no assertion"),
        ("    assert members < 0\n    liars = (members - 1) // 3\n", "no assertion"),
    ],
    ids=["nothing-wrong", "an-import-that-fails", "an-assertion-of-the-product"],
)
def test_what_no_test_asserts_is_no_kill(workshop: Workshop, after: str, reason: str) -> None:
    verdict = workshop.try_mutant(replace(ONE, after=after))
    assert isinstance(verdict, Survived)
    assert verdict.reason.startswith(reason)


def test_a_mutant_that_the_code_has_left_behind_is_an_error() -> None:
    for stale in (replace(ONE, before="no such text"), replace(ONE, before="members"), replace(ONE, after=ONE.before)):
        with pytest.raises(StaleMutantError):
            mutated(stale, HOUSE)
