"""What one gateway acknowledged, all nine show at once, also beside a node that stands still for seconds.

GRANDEST_TRIALS=10000 makes it long (make campaign).
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest
from botocore.exceptions import ClientError

from testnet.cluster import Cluster, process_of
from testnet.genesis import Gateways
from testnet.processes import end_process
from tests.integration.conftest import running_testnet
from tests.integration.s3_endpoints import S3Client, gateways_by_http

TRIALS = int(os.environ.get("GRANDEST_TRIALS", "24"))
SLOW_SEAT = 8
STANDS_SECONDS = 5.0
NAMES = 5


@pytest.fixture(scope="module")
def nine_gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A testnet whose nodes are held up."""
    with running_testnet(tmp_path_factory.mktemp("held") / "testnet", gateways=Gateways.BESIDE_NODES) as cluster:
        yield cluster


@contextmanager
def standing_still(cluster: Cluster) -> Generator[None]:
    """Hold one node up for STANDS_SECONDS at a time, with as long between, until the block ends."""
    process = process_of(cluster, cluster.all_seats()[SLOW_SEAT])
    assert process is not None
    over = threading.Event()

    def hold() -> None:
        while not over.is_set():
            end_process(process, signal.SIGSTOP)
            over.wait(STANDS_SECONDS)
            end_process(process, signal.SIGCONT)
            over.wait(STANDS_SECONDS)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def current(s3: S3Client, bucket: str, name: str) -> bytes | None:
    """Return what a gateway has under a name."""
    try:
        contents: bytes = s3.get_object(Bucket=bucket, Key=name)["Body"].read()
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchKey":
            raise
        return None
    return contents


def test_no_gateway_shows_what_was_before_the_last_acknowledgement(nine_gateways: Cluster) -> None:
    """One writes or deletes, two others read and list at once: any one, and the one beside the slow node."""
    chance = random.Random(20261125)
    clients = [endpoint.client() for endpoint in gateways_by_http(nine_gateways)]
    clients[0].create_bucket(Bucket="trials")
    expected: dict[str, bytes] = {}
    with standing_still(nine_gateways):
        for trial in range(TRIALS):
            name, writer = f"name-{chance.randrange(NAMES)}", clients[chance.randrange(SLOW_SEAT)]
            if chance.random() < 0.2:
                writer.delete_object(Bucket="trials", Key=name)
                expected.pop(name, None)
            else:
                expected[name] = str(trial).encode()
                writer.put_object(Bucket="trials", Key=name, Body=expected[name])
            for reader in (clients[chance.randrange(SLOW_SEAT)], clients[SLOW_SEAT]):
                assert current(reader, "trials", name) == expected.get(name), (trial, name)
                listed = reader.list_objects_v2(Bucket="trials").get("Contents", [])
                assert [found["Key"] for found in listed] == sorted(expected), trial
