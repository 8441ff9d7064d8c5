"""Objects of 10 KB and one of 256 MiB through the gateway of one operator, with boto3 as its users have it, 8 threads.

boto3 runs in this process: its CPU is the client's. Every byte read is compared.
"""

from __future__ import annotations

import importlib
import random
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import TYPE_CHECKING, Final, Protocol, cast

import trio

from node.errors import ConfigurationError, NodeError
from storage.identifiers import SeatIndex
from testnet.bench.figures import Better, Figure, measured, percentile, rate_of_bytes, rate_of_items
from testnet.cluster import gateway_access

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from testnet.cluster import Cluster

SMALL_BYTES: Final = 10_000
SMALL_OBJECTS: Final = 800
LARGE_BYTES: Final = 256 * 1024 * 1024
LONE_READS: Final = 100
WARM_UP: Final = 8
THREADS: Final = 8
READ_BYTES: Final = 1024 * 1024
BUCKET: Final = "bench-s3"
LARGE_NAME: Final = "large"
SMALL_PUT_REACH: Final = 300.0
SMALL_GET_REACH: Final = 800.0
LARGE_PUT_REACH: Final = 120.0
LARGE_GET_REACH: Final = 330.0
FIRST_BYTE_REACH: Final = 10.0


class Body(Protocol):
    """An object's bytes on their way."""

    def read(self, byte_count: int | None = None) -> bytes:
        """Return that many bytes, or all that is left."""
        ...


class S3(Protocol):
    """What is used of boto3's client, which is made at run time and has no types."""

    def create_bucket(self, **arguments: object) -> Mapping[str, object]:
        """Make a bucket."""
        ...

    def put_object(self, **arguments: object) -> Mapping[str, object]:
        """Store an object by one request."""
        ...

    def get_object(self, **arguments: object) -> Mapping[str, object]:
        """Read an object by one request."""
        ...

    def upload_fileobj(self, source: BytesIO, bucket: str, name: str, **arguments: object) -> None:
        """Store an object in parts."""
        ...

    def download_fileobj(self, bucket: str, name: str, target: BytesIO, **arguments: object) -> None:
        """Read an object in ranges."""
        ...

    def delete_object(self, **arguments: object) -> Mapping[str, object]:
        """Delete an object."""
        ...


async def measure(cluster: Cluster) -> tuple[Figure, ...]:
    """Store and read by one gateway, in threads of this process."""
    return await trio.to_thread.run_sync(_measure, cluster, open_s3(cluster, SeatIndex(0)))


def open_s3(cluster: Cluster, seat: SeatIndex) -> S3:
    """Return boto3's client of a seat's gateway, with its default settings but for the number of connections.

    Raises:
        ConfigurationError: No gateway stands there, or boto3 is not installed.
    """
    access = gateway_access(cluster, seat)
    if access is None:
        raise ConfigurationError("this testnet has no gateways: leave --home out, or name one of `testnet up`")
    try:
        boto3, config = importlib.import_module("boto3"), importlib.import_module("botocore.config")
    except ImportError as error:
        raise ConfigurationError(f"boto3 is needed to measure S3 ({error}): `make setup` installs it") from error
    made = boto3.client(
        "s3",
        endpoint_url=access.endpoint,
        aws_access_key_id=access.access_key,
        aws_secret_access_key=access.secret_key,
        region_name=access.region,
        config=config.Config(max_pool_connections=THREADS),
    )
    return cast("S3", made)


def _measure(cluster: Cluster, s3: S3) -> tuple[Figure, ...]:
    bucket = f"{BUCKET}-{secrets.token_hex(4)}"
    s3.create_bucket(Bucket=bucket)
    return (*_small(cluster, s3, bucket), *_large(cluster, s3, bucket))


def _small(cluster: Cluster, s3: S3, bucket: str) -> tuple[Figure, ...]:
    contents = {f"{number}": secrets.token_bytes(SMALL_BYTES) for number in range(SMALL_OBJECTS)}
    names = list(contents)

    def put(name: str) -> None:
        s3.put_object(Bucket=bucket, Key=name, Body=contents[name])

    def get(name: str) -> None:
        if body_of(s3, bucket, name).read() != contents[name]:
            raise NodeError(f"{name} read back is not what was stored")

    with ThreadPoolExecutor(THREADS) as pool:
        _all(pool, put, names[:WARM_UP])
        with measured(cluster) as puts:
            _all(pool, put, names)
        shuffled = random.Random(SMALL_OBJECTS).sample(names, SMALL_OBJECTS)  # noqa: S311 (an order, no secret)
        with measured(cluster) as gets:
            _all(pool, get, shuffled)
        with measured(cluster) as again:
            _all(pool, get, shuffled)
    return (
        rate_of_items("S3, 10 KB objects, 8 threads, PUT", puts, SMALL_OBJECTS, SMALL_PUT_REACH),
        rate_of_items("S3, 10 KB objects, 8 threads, GET", gets, SMALL_OBJECTS, SMALL_GET_REACH),
        rate_of_items("S3, 10 KB objects, 8 threads, GET again", again, SMALL_OBJECTS, SMALL_GET_REACH),
        _first_byte(s3, bucket, names),
    )


def _first_byte(s3: S3, bucket: str, names: list[str]) -> Figure:
    """Time one read after the other, alone, up to its first byte."""
    seconds: list[float] = []
    for name in names[:LONE_READS]:
        began = time.perf_counter()
        body = body_of(s3, bucket, name)
        body.read(1)
        seconds.append(time.perf_counter() - began)
        body.read()
    return Figure(
        name="S3, 10 KB object, first byte of a GET, p50",
        amount=1000 * percentile(seconds, 50),
        unit="ms",
        better=Better.LOWER,
        reach=FIRST_BYTE_REACH,
    )


def _large(cluster: Cluster, s3: S3, bucket: str) -> tuple[Figure, ...]:
    """One object by one request each way, then in parts and ranges by boto3's own threads."""
    contents = secrets.token_bytes(LARGE_BYTES)
    in_threads = _in_threads()
    with measured(cluster) as put:
        s3.put_object(Bucket=bucket, Key=LARGE_NAME, Body=contents)
    received = BytesIO()
    with measured(cluster) as get:
        body = body_of(s3, bucket, LARGE_NAME)
        while piece := body.read(READ_BYTES):
            received.write(piece)
    _compare(received, contents)
    with measured(cluster) as parts:
        s3.upload_fileobj(BytesIO(contents), bucket, LARGE_NAME, Config=in_threads)
    received = BytesIO()
    with measured(cluster) as ranges:
        s3.download_fileobj(bucket, LARGE_NAME, received, Config=in_threads)
    _compare(received, contents)
    s3.delete_object(Bucket=bucket, Key=LARGE_NAME)
    return (
        rate_of_bytes("S3, 256 MiB object, one PUT", put, LARGE_BYTES, LARGE_PUT_REACH),
        rate_of_bytes("S3, 256 MiB object, one GET", get, LARGE_BYTES, LARGE_GET_REACH),
        rate_of_bytes("S3, 256 MiB object, PUT in parts", parts, LARGE_BYTES, LARGE_PUT_REACH),
        rate_of_bytes("S3, 256 MiB object, GET in ranges", ranges, LARGE_BYTES, LARGE_GET_REACH),
    )


def _in_threads() -> object:
    return importlib.import_module("boto3.s3.transfer").TransferConfig(max_concurrency=THREADS)


def _compare(received: BytesIO, contents: bytes) -> None:
    if received.getvalue() != contents:
        raise NodeError("the object read back is not the one that was stored")


def body_of(s3: S3, bucket: str, name: str) -> Body:
    """Ask for an object; its head has come."""
    return cast("Body", s3.get_object(Bucket=bucket, Key=name)["Body"])


def _all(pool: ThreadPoolExecutor, act: Callable[[str], None], names: list[str]) -> None:
    for _ in pool.map(act, names):
        pass
