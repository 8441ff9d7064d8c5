"""One object of 4 GiB through a gateway and back: how much memory gateway and nodes take for it.

Memory is what it is however busy the machine: more than MEMORY_REACH is an error, not a slow day.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from typing import TYPE_CHECKING, Final

import trio

from node.errors import ConfigurationError, NodeError
from storage.identifiers import SeatIndex
from testnet.bench.figures import Better, Figure, child_processes, node_processes
from testnet.bench.idle import KIB_PER_MIB, anonymous_kib
from testnet.bench.s3 import S3, body_of, open_s3

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from testnet.cluster import Cluster

OBJECT_BYTES: Final = 4 * 1024 * 1024 * 1024
DISK_FACTOR: Final = 3.5
"""Of the object's bytes: 1.5 in shards, as much in LevelDB's logs and merges meanwhile, and the file."""
PIECE_BYTES: Final = 4 * 1024 * 1024
LOOK_SECONDS: Final = 0.25
MEMORY_REACH: Final = 256.0
BUCKET: Final = "bench-one-large"
NAME: Final = "large"


class _Peaks:
    """The most anonymous memory that any of some processes had at a look."""

    def __init__(self, processes: Sequence[int]) -> None:
        self._processes = processes
        self.kib = 0

    async def watch(self) -> None:
        """Look until cancelled."""
        while True:
            found = await trio.to_thread.run_sync(lambda: [anonymous_kib(pid) for pid in self._processes])
            self.kib = max(self.kib, *found)
            await trio.sleep(LOOK_SECONDS)


async def measure(cluster: Cluster) -> tuple[Figure, ...]:
    """Store and read it by one request each way, looking at memory meanwhile."""
    free = os.statvfs(cluster.home)
    if free.f_bavail * free.f_frsize < OBJECT_BYTES * DISK_FACTOR:
        raise ConfigurationError(f"{OBJECT_BYTES * DISK_FACTOR / 1e9:.0f} GB of free disk are needed")
    s3 = open_s3(cluster, SeatIndex(0))
    nodes = node_processes(cluster)
    peaks = {"node": _Peaks(nodes), "gateway": _Peaks([pid for node in nodes for pid in child_processes(node)])}
    async with trio.open_nursery() as nursery:
        for watched in peaks.values():
            nursery.start_soon(watched.watch)
        await trio.to_thread.run_sync(_there_and_back, s3)
        nursery.cancel_scope.cancel()
    figures = tuple(_figure(f"anonymous memory of a {kind}", found.kib) for kind, found in peaks.items())
    too_large = [figure for figure in figures if not figure.is_reached]
    if too_large:
        raise NodeError("; ".join(f"{figure.name}: {figure.amount:.0f} MiB" for figure in too_large))
    return figures


def _there_and_back(s3: S3) -> None:
    s3.create_bucket(Bucket=BUCKET)
    with tempfile.TemporaryFile() as file:
        written = _fill(file.write)
        file.seek(0)
        s3.put_object(Bucket=BUCKET, Key=NAME, Body=file, ContentLength=OBJECT_BYTES)
    found = hashlib.sha256()
    body = body_of(s3, BUCKET, NAME)
    while piece := body.read(PIECE_BYTES):
        found.update(piece)
    if found.digest() != written:
        raise NodeError("the object read back is not the one that was stored")
    s3.delete_object(Bucket=BUCKET, Key=NAME)


def _fill(write: Callable[[bytes], object]) -> bytes:
    """Write OBJECT_BYTES that differ from piece to piece; return their SHA-256."""
    noise, written = os.urandom(PIECE_BYTES), hashlib.sha256()
    for number in range(OBJECT_BYTES // PIECE_BYTES):
        piece = number.to_bytes(8, "big") + noise[8:]
        write(piece)
        written.update(piece)
    return written.digest()


def _figure(name: str, kib: int) -> Figure:
    return Figure(
        name=f"4 GiB object, {name}", amount=kib / KIB_PER_MIB, unit="MiB", better=Better.LOWER, reach=MEMORY_REACH
    )
