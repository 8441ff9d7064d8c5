"""A gateway over stores in memory for the tests that hurt one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.loopback_authority import write_loopback_certificate
from tests.node.gateway.memory_gateway import MemoryGateway, memory_gateway


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemoryGateway]:
    """One gateway for all tests, each with buckets of its own."""
    certificates = tmp_path_factory.mktemp("certificates")
    write_loopback_certificate(certificates)
    with memory_gateway(certificates) as running:
        yield running
        assert 500 not in running.statuses, "a request met a bug"
