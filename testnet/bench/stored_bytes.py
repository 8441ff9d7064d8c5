"""What a large object costs on the nine disks: shard bytes held over object bytes, from 64 KiB upwards."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from node.client import bytes_source, open_client, read_client_home
from testnet.bench.figures import Better, Figure
from testnet.bench.small_objects import held_bytes

if TYPE_CHECKING:
    from testnet.cluster import Cluster

OBJECT_BYTES: Final = (64 * 1024, 1024 * 1024, 20 * 1024 * 1024)
BUCKET: Final = "bench-stored"
STORED_REACH: Final = 1.53


async def measure(cluster: Cluster) -> tuple[Figure, ...]:
    """Store one object of each size alone."""
    worst = 0.0
    async with open_client(read_client_home(cluster.home / "client")) as client:
        for byte_count in OBJECT_BYTES:
            before = held_bytes(cluster)
            await client.put(BUCKET, secrets.token_hex(8), bytes_source(secrets.token_bytes(byte_count)))
            worst = max(worst, (held_bytes(cluster) - before) / byte_count)
    name = "stored / object bytes, worst of 64 KiB, 1 MiB, 20 MiB"
    return (Figure(name=name, amount=worst, unit="", better=Better.LOWER, reach=STORED_REACH),)
