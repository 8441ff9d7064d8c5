"""Shards in a real S3 server, through HTTP and signatures: kept, read, paged, refused, deleted; a whole node on it."""

from __future__ import annotations

import random
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import trio

from consensus.identifiers import Height
from node.client import read_client_home
from storage.errors import ShardCorruptError, ShardMissingError, StoreUnavailableError, WrongChainError
from storage.identifiers import UNIT_BYTES, ColumnIndex, SeatIndex, SegmentId, TenantId
from storage.merkle import leaf_hashes, root_of
from storage.segments import SegmentShape
from storage.stores import object_bucket
from storage.stores.object_bucket import BucketPlace, ObjectBucket, open_bucket
from storage.stores.object_store import ObjectShardStore
from storage.stores.protocols import ShardName
from testnet.cluster import open_cluster, start_all, stop_all
from testnet.genesis import OPERATORS, free_ports, make_testnet
from testnet.processes import OwnedProcess, kill_process, start_process
from tests.integration.rough import check_all, client_of, put

TENANT = TenantId(b"t" * 16)
SHAPE = SegmentShape(6 * 300_000, 6)
"""Five units a column, the last shorter: 19 leaves."""
SHARD = random.Random(1).randbytes(SHAPE.shard_bytes)
ROOT = root_of(leaf_hashes(SHARD))
BUCKET = "shards"
READY_S = 30.0


def name(number: int) -> ShardName:
    return ShardName(SegmentId(number.to_bytes(32, "big")), ColumnIndex(number % 9))


@contextmanager
def s3_server(folder: Path) -> Generator[str]:
    """A server of its own for the time of the block; ended by its own process id."""
    (port,) = free_ports(1)
    command = (sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port))
    running: OwnedProcess = start_process(command, folder / "s3.pid", folder / "s3.log")
    endpoint = f"http://127.0.0.1:{port}"
    try:
        transport = httpx.HTTPTransport(retries=30)
        with httpx.Client(transport=transport, timeout=READY_S, trust_env=False) as http:
            http.put(f"{endpoint}/{BUCKET}").raise_for_status()
        yield endpoint
    finally:
        kill_process(running)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3")) as address:
        yield address


def place_of(endpoint: str, prefix: str) -> BucketPlace:
    return BucketPlace(
        endpoint=endpoint,
        bucket=BUCKET,
        prefix=prefix,
        region="us-east-1",
        access_key_id="someone",
        secret_access_key="secret",
    )


def opened(endpoint: str, prefix: str, owner: bytes = b"seat 3") -> tuple[ObjectShardStore, ObjectBucket]:
    bucket = open_bucket(place_of(endpoint, prefix))
    return ObjectShardStore(bucket, owner), bucket


def keep(store: ObjectShardStore, *names: ShardName) -> None:
    for kept in names:
        for offset in reversed(range(0, len(SHARD), 2 * UNIT_BYTES)):
            store.put_units(kept, TENANT, SHAPE, offset, memoryview(SHARD)[offset : offset + 2 * UNIT_BYTES])
    assert all(store.finish(names, Height(10)))


def read(store: ObjectShardStore, wanted: ShardName) -> bytes:
    return b"".join(bytes(part) for part in store.read_leaves(wanted, 0, SHAPE.leaves))


def test_shards_are_kept_read_and_found_again_by_the_next_process(endpoint: str) -> None:
    store, _ = opened(endpoint, "kept")
    names = [name(number) for number in (5, 1, 9)]
    keep(store, *names)
    store.settle((name(1),))
    again, _ = opened(endpoint, "kept")
    assert list(again.names()) == sorted(names)
    assert list(again.names(after=name(1))) == [name(5), name(9)]
    assert again.bytes_held() == 3 * len(SHARD)
    assert {shard.name for shard in again.uncommitted()} == {name(5), name(9)}
    assert [read(again, kept) for kept in names] == [SHARD] * 3
    for first, count in ((0, 1), (3, 2), (7, 9), (18, 1)):
        leaves = b"".join(bytes(part) for part in again.read_leaves(name(5), first, count))
        assert leaves == SHARD[first * 16_384 : (first + count) * 16_384]
    again.delete(names)
    third, bucket = opened(endpoint, "kept")
    assert list(third.names()) == []
    assert [found.path for found in bucket.listing("pieces/")] == []
    assert third.bytes_held() == 0


def test_more_objects_than_one_page_are_listed(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_bucket, "LISTED_AT_ONCE", 3)
    monkeypatch.setattr(object_bucket, "DELETED_AT_ONCE", 4)
    bucket = open_bucket(place_of(endpoint, "pages"))
    paths = [f"pieces/{number:02}" for number in range(11)]
    for path in paths:
        bucket.put(path, path.encode())
    assert [found.path for found in bucket.listing("pieces/")] == paths
    assert [found.path for found in bucket.listing("pieces/", "pieces/07")] == paths[8:]
    bucket.delete([*paths, "pieces/none"])
    assert list(bucket.listing("pieces/")) == []


def test_damage_in_the_cluster_is_noticed_and_replaced(endpoint: str) -> None:
    store, bucket = opened(endpoint, "damage")
    keep(store, name(1))
    store.verify(name(1))
    damaged = next(iter(bucket.listing("pieces/"))).path
    contents = bytearray(bucket.get(damaged) or b"")
    contents[100] ^= 1
    bucket.put(damaged, contents)
    with pytest.raises(ShardCorruptError):
        store.verify(name(1))
    store.restore(name(1), TENANT, SHAPE, ROOT, SHARD)
    store.verify(name(1))
    bucket.put("pieces/" + name(7).segment_id.hex() + "/7/00000000000001", b"left over")
    assert store.drop_orphans() == 1
    assert read(store, name(1)) == SHARD
    with pytest.raises(ShardMissingError):
        store.verify(name(2))


def test_a_bucket_is_one_seats_and_a_silent_cluster_is_unavailable(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(endpoint, "owned")
    with pytest.raises(WrongChainError):
        opened(endpoint, "owned", b"seat 4")
    monkeypatch.setattr(object_bucket, "RETRY_S", 0.2)
    (port,) = free_ports(1)
    with pytest.raises(StoreUnavailableError):
        opened(f"http://127.0.0.1:{port}", "nobody")
    assert "secret" not in repr(place_of(endpoint, "x"))


async def test_a_node_keeps_its_shards_in_its_operators_cluster(endpoint: str, tmp_path: Path) -> None:
    home = tmp_path / "testnet"
    make_testnet(home, operators=OPERATORS[:4])
    cluster = open_cluster(home)
    settings = f'[object_store]\nendpoint = "{endpoint}"\nbucket = "{BUCKET}"\nprefix = "seat-2"\n'
    with (cluster.seat_home(SeatIndex(2)) / "config.toml").open("a") as file:
        file.write(settings)
    keys = cluster.seat_home(SeatIndex(2)) / "keys" / "object-store"
    keys.write_text("someone\nsecret\n")
    keys.chmod(0o600)
    try:
        await trio.to_thread.run_sync(start_all, cluster)
        assert read_client_home(home / "client").nodes
        async with client_of(cluster) as client:
            written = {"one": 1_000_000, "two": 70_000}
            for key, byte_count in written.items():
                assert await put(client, key, byte_count) == 4
            await check_all(client, written)
        kept = list(open_bucket(place_of(endpoint, "seat-2")).listing("index/"))
        assert len(kept) >= 2
    finally:
        stop_all(cluster)
