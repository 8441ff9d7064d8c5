"""Nine real processes, made once for the tests that only need them running, or fresh for those that hurt them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from testnet.cluster import Cluster, open_cluster, start_seat, stop_all, votes, wait_for_seats
from testnet.genesis import make_testnet


@pytest.fixture
def nine_nodes(tmp_path: Path) -> Iterator[Cluster]:
    """A fresh testnet of nine voting nodes; stopped by their own process ids whatever the test does."""
    home = tmp_path / "testnet"
    make_testnet(home)
    cluster = open_cluster(home)
    try:
        for seat in cluster.all_seats():
            start_seat(cluster, seat)
        wait_for_seats(cluster, cluster.all_seats(), votes)
        yield cluster
    finally:
        stop_all(cluster)
