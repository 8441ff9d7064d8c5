"""Nine real processes, made once for the tests that only need them running, or fresh for those that hurt them."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage.genesis import StorageParameters
from testnet.cluster import Cluster, open_cluster, start_all, stop_all
from testnet.genesis import USUAL_PARAMETERS, Gateways, make_testnet


@contextmanager
def running_testnet(
    home: Path,
    parameters: StorageParameters = USUAL_PARAMETERS,
    settings: str = "",
    gateways: Gateways = Gateways.NONE,
) -> Generator[Cluster]:
    """A testnet of nine voting nodes; stopped by their own process ids whatever happens.

    Args:
        home: Of the testnet.
        parameters: Of its genesis.
        settings: Lines for every node's config.toml.
        gateways: Whether each node has a gateway beside it.
    """
    make_testnet(home, parameters=parameters, gateways=gateways)
    for path in home.glob("seat-*/config.toml"):
        path.write_text(path.read_text() + settings)
    cluster = open_cluster(home)
    try:
        start_all(cluster)
        yield cluster
    finally:
        stop_all(cluster)


@pytest.fixture
def nine_nodes(tmp_path: Path) -> Iterator[Cluster]:
    """A fresh testnet, for a test that hurts it."""
    with running_testnet(tmp_path / "testnet") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def healthy_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One testnet for all tests that leave every seat as it was; each takes a bucket of its own."""
    home = tmp_path_factory.mktemp("healthy") / "testnet"
    with running_testnet(home, gateways=Gateways.BESIDE_NODES) as cluster:
        yield cluster
