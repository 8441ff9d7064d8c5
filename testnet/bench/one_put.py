"""One small PUT at a time on an otherwise idle network: how long until it is acknowledged."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Final

import trio

from node.client import bytes_source, open_client, read_client_home
from testnet.bench.figures import Better, Figure, measured, percentile

if TYPE_CHECKING:
    from testnet.cluster import Cluster

OBJECT_BYTES: Final = 10_000
PUTS: Final = 100
WARM_UP: Final = 3
PAUSE_SECONDS: Final = 0.25
"""Long enough for the empty block that certifies the last one's root: the network is idle again."""
BUCKET: Final = "bench-one"
P50_REACH: Final = 40.0
P99_REACH: Final = 150.0


async def measure(cluster: Cluster) -> tuple[Figure, ...]:
    """Put PUTS objects with pauses between."""
    seconds: list[float] = []
    async with open_client(read_client_home(cluster.home / "client")) as client:
        with measured(cluster) as span:
            for number in range(WARM_UP + PUTS):
                began = time.perf_counter()
                await client.put(BUCKET, f"{number}", bytes_source(secrets.token_bytes(OBJECT_BYTES)))
                seconds.append(time.perf_counter() - began)
                await trio.sleep(PAUSE_SECONDS)
    return tuple(
        Figure(
            name=f"one small PUT, idle network, p{percent}",
            amount=1000 * percentile(seconds[WARM_UP:], percent),
            unit="ms",
            better=Better.LOWER,
            reach=reach,
            client_cpu_s=span.client_cpu_s / span.seconds,
            nodes_cpu_s=span.nodes_cpu_s / span.seconds,
        )
        for percent, reach in ((50, P50_REACH), (99, P99_REACH))
    )
