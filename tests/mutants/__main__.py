"""Try the mutants: `python -m tests.mutants [NAME ...]`; all of them when none is named.

Prints who kills what; a verdict is kept in .campaign/mutants, so that an interrupted run goes on where it stopped
(`rm -r .campaign/mutants` begins anew). When all were tried and none survived, docs/mutants.md is written. Exits 1 if
any survived.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Final

import msgspec

from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import Mutant
from tests.mutants.page import page
from tests.mutants.trial import HOUSE, Killed, Survived, Verdict, Workshop, open_workshop

KEPT: Final = HOUSE / ".campaign" / "mutants"
PAGE: Final = HOUSE / "docs" / "mutants.md"
WORKERS: Final = 2


def main(arguments: list[str]) -> int:
    """Try what is asked for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutants to try anew; default: all not yet tried")
    names = parser.parse_args(arguments).names
    unknown = set(names) - {mutant.name for mutant in MUTANTS}
    if unknown:
        parser.error(f"no such mutant: {', '.join(sorted(unknown))}")
    wanted = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    KEPT.mkdir(parents=True, exist_ok=True)
    verdicts = {} if names else {mutant: found for mutant in wanted if (found := kept(mutant)) is not None}
    for mutant, verdict in tried([mutant for mutant in wanted if mutant not in verdicts]):
        (KEPT / f"{mutant.name}.json").write_bytes(msgspec.json.encode(verdict))
        verdicts[mutant] = verdict
        print(said(mutant, verdict), flush=True)
    survivors = [mutant for mutant in wanted if not isinstance(verdicts[mutant], Killed)]
    print(f"{len(wanted) - len(survivors)} of {len(wanted)} mutants killed by a named assertion")
    if not survivors and not names:
        PAGE.write_text(page({mutant: found for mutant, found in verdicts.items() if isinstance(found, Killed)}))
    return 1 if survivors else 0


def kept(mutant: Mutant) -> Verdict | None:
    """Return the verdict of an earlier run; survivors are tried again."""
    try:
        verdict = msgspec.json.decode((KEPT / f"{mutant.name}.json").read_bytes(), type=Killed | Survived)
    except FileNotFoundError:
        return None
    return verdict if isinstance(verdict, Killed) else None


def tried(mutants: list[Mutant]) -> Iterator[tuple[Mutant, Verdict]]:
    """Try mutants in as many workshops as there are workers."""
    with ExitStack() as stack:
        workshops = SimpleQueue[Workshop]()
        for _ in range(WORKERS):
            workshops.put(open_workshop(Path(stack.enter_context(TemporaryDirectory(prefix="grandest-mutants-")))))
        workers = stack.enter_context(ThreadPoolExecutor(WORKERS))

        def try_one(mutant: Mutant) -> tuple[Mutant, Verdict]:
            workshop = workshops.get()
            try:
                return mutant, workshop.try_mutant(mutant)
            finally:
                workshops.put(workshop)

        yield from workers.map(try_one, mutants)


def said(mutant: Mutant, verdict: Verdict) -> str:
    """Return a line about a verdict."""
    match verdict:
        case Killed(test=test, statement=statement):
            return f"killed    {mutant.name} ({mutant.rule}) by {test}: {statement}"
        case Survived(reason=reason):
            return f"SURVIVED  {mutant.name} ({mutant.rule}): {reason}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
