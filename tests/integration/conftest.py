"""Nine real processes, made once for the tests that only need them running, or fresh for those that hurt them."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage.genesis import StorageParameters
from testnet.cluster import Cluster, open_cluster, start_all, stop_all
from testnet.genesis import USUAL_PARAMETERS, Gateways, make_testnet
from tests.integration.s3_endpoints import Endpoint, S3Client, gateway_by_tls, gateways_by_http


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


@contextmanager
def shared_testnet(folder: Path) -> Generator[Cluster]:
    """One testnet for all workers of a run: the first that needs it starts it, the last that leaves it stops it."""
    folder.mkdir(exist_ok=True)
    home = folder / "testnet"
    with counted(folder) as users:
        if not home.is_dir():
            make_testnet(home, gateways=Gateways.BESIDE_NODES)
        cluster = open_cluster(home)
        if not users:
            start_or_stop(cluster)
        users.add(os.getpid())
    try:
        yield cluster
    finally:
        with counted(folder) as users:
            users.discard(os.getpid())
            if not users:
                stop_all(cluster)


def start_or_stop(cluster: Cluster) -> None:
    """Start every seat; leave none behind when one does not."""
    try:
        start_all(cluster)
    except BaseException:
        stop_all(cluster)
        raise


@contextmanager
def counted(folder: Path) -> Generator[set[int]]:
    """Give the processes that use what a folder holds, to one worker at a time."""
    path = folder / "users"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        users = {int(line) for line in path.read_text().splitlines()} if path.exists() else set[int]()
        yield users
        path.write_text("".join(f"{user}\n" for user in sorted(users)))


@pytest.fixture
def nine_nodes(tmp_path: Path) -> Iterator[Cluster]:
    """A fresh testnet, for a test that hurts it."""
    with running_testnet(tmp_path / "testnet") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def healthy_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One testnet for all tests that leave every seat as it was; each takes a bucket of its own."""
    session = tmp_path_factory.getbasetemp()
    folder = session.parent if "PYTEST_XDIST_WORKER" in os.environ else session
    with shared_testnet(folder / "healthy") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def endpoints(healthy_nodes: Cluster) -> tuple[Endpoint, ...]:
    """The gateways of the nine operators for one tenant, by HTTP."""
    return gateways_by_http(healthy_nodes)


@pytest.fixture(scope="session")
def secure_endpoint(healthy_nodes: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """A gateway of the tenant's own, by TLS."""
    with gateway_by_tls(healthy_nodes, tmp_path_factory.mktemp("gateway")) as endpoint:
        yield endpoint


@pytest.fixture(params=["http", "https"])
def endpoint(request: pytest.FixtureRequest) -> Endpoint:
    """One gateway by each scheme in turn."""
    if request.param == "https":
        secure: Endpoint = request.getfixturevalue("secure_endpoint")
        return secure
    every: tuple[Endpoint, ...] = request.getfixturevalue("endpoints")
    return every[1]


@pytest.fixture
def s3(endpoints: tuple[Endpoint, ...]) -> S3Client:
    """boto3 with its default settings, at some gateway."""
    return secrets.choice(endpoints).client()


@pytest.fixture
def bucket(endpoints: tuple[Endpoint, ...]) -> str:
    """A bucket of this test alone."""
    name = f"bucket-{secrets.token_hex(6)}"
    endpoints[0].client().create_bucket(Bucket=name)
    return name
