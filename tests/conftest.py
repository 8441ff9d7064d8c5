"""What every test shares: Hypothesis profiles, and the groups that keep integration tests one after the other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

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


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in this same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lives under tests/integration, and give it two workers: one for what hurts nodes, one for S3's clients.

    They share the testnet that nobody hurts.
    """
    for item in items:
        if item.path.is_relative_to(TESTS / "integration"):
            item.add_marker(pytest.mark.integration)
            item.add_marker(pytest.mark.xdist_group("s3" if item.path.name.startswith("test_s3") else "integration"))
