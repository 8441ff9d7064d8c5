"""What every test shares: Hypothesis profiles, and the groups that keep integration tests one after the other."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, settings
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from xdist.remote import Producer

TESTS = Path(__file__).parent

# No deadline and no complaint about slowness: the machine is shared, and a slow example is not a wrong one.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("campaign", settings.get_profile("default"), max_examples=20_000)
# A trial of a mutant wants the first failure, the same one every time (tests/mutants).
settings.register_profile(
    "mutants",
    settings.get_profile("default"),
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
    phases=[Phase.explicit, Phase.generate],
)
settings.load_profile(os.environ.get("GRANDEST_HYPOTHESIS_PROFILE", "default"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lives under tests/integration."""
    for item in items:
        if item.path.is_relative_to(TESTS / "integration"):
            item.add_marker(pytest.mark.integration)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Keep the tests of one group on one worker; the marks that xdist has for this are not seen under pytest 9.2."""
    return GroupedScheduling(config, log)


class GroupedScheduling(LoadScopeScheduling):
    """Spreads tests over the workers one by one, but for groups: they share what is dear, or hurt what they share."""

    def _split_scope(self, nodeid: str) -> str:
        """Return the group of a test: what hurts nodes, S3's clients, mutants, or itself alone."""
        if nodeid.startswith("tests/integration/test_s3"):
            return "s3"
        if nodeid.startswith("tests/integration/"):
            return "integration"
        return "mutants" if nodeid.startswith("tests/mutants/") else nodeid
