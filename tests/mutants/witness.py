"""A pytest plugin that says which assertion of the suite failed first, and stops there.

Only an assertion that stands in a test counts: not an error on the way, not an assertion of the product's own code, not
a failing fixture. The testimony goes to the file that GRANDEST_TESTIMONY names, as JSON; no file, no testimony.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Final, cast

import msgspec
import pytest

TESTIMONY: Final = "GRANDEST_TESTIMONY"
STATEMENT_CHARACTERS_MAX: Final = 160


class Testimony(msgspec.Struct, frozen=True, kw_only=True):
    """The assertion that noticed."""

    test: str
    statement: str


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Testify to a failed assertion."""
    report = yield
    place = os.environ.get(TESTIMONY)
    if place is None or call.when != "call" or call.excinfo is None:
        return report
    statement = asserted(call.excinfo, item.config.rootpath / "tests")
    if statement is not None:
        testimony = Testimony(test=item.nodeid, statement=statement)
        Path(place).write_bytes(msgspec.json.encode(testimony))
        item.session.shouldstop = "an assertion has noticed"
    return report


def asserted(error: pytest.ExceptionInfo[BaseException], tests: Path) -> str | None:
    """Return the assertion of the suite that an error comes from, None for any other error."""
    found = error.value
    while isinstance(found, BaseExceptionGroup):  # a nursery wraps what its task raises
        found = cast("BaseExceptionGroup[BaseException]", found).exceptions[0]
    if not isinstance(found, AssertionError | pytest.fail.Exception):
        return None
    # What pytest.raises() says comes from below the test that says it.
    traceback = pytest.ExceptionInfo[BaseException].from_exception(found).traceback
    frames = [entry for entry in traceback if "_pytest" not in Path(entry.path).parts]
    if not frames or not Path(frames[-1].path).is_relative_to(tests):
        return None
    return " ".join(str(frames[-1].statement).split())[:STATEMENT_CHARACTERS_MAX]
