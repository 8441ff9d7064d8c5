"""Objects of 10 KB with 64 writers, then 64 readers, of one native client; and what they cost on the nine disks."""

from __future__ import annotations

import random
import secrets
from typing import TYPE_CHECKING, Final

import trio

from node.client import bytes_source, open_client, read_client_home
from node.errors import NodeError
from testnet.bench.figures import Better, Figure, measured, rate_of_items
from testnet.cluster import cluster_states

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from testnet.cluster import Cluster

OBJECT_BYTES: Final = 10_000
OBJECTS: Final = 3_000
AT_ONCE: Final = 64
BUCKET: Final = "bench-small"
PUT_REACH: Final = 1_000.0
GET_REACH: Final = 2_500.0
STORED_REACH: Final = 1.55


async def measure(cluster: Cluster) -> tuple[Figure, ...]:
    """Store OBJECTS objects and read each back once; every byte is compared."""
    run = secrets.token_hex(4)
    contents = {f"{run}/{number}": secrets.token_bytes(OBJECT_BYTES) for number in range(OBJECTS)}
    held_before = held_bytes(cluster)
    async with open_client(read_client_home(cluster.home / "client")) as client:

        async def put(name: str) -> None:
            await client.put(BUCKET, name, bytes_source(contents[name]))

        async def get(name: str) -> None:
            if await client.get(BUCKET, name) != contents[name]:
                raise NodeError(f"{name} read back is not what was stored")

        with measured(cluster) as puts:
            await _all(list(contents), put)
        # In another order than they were packed in: neighbours in a pack are cheaper to read together.
        shuffled = random.Random(OBJECTS).sample(list(contents), OBJECTS)  # noqa: S311 (an order, no secret)
        with measured(cluster) as gets:
            await _all(shuffled, get)
    stored = held_bytes(cluster) - held_before
    return (
        rate_of_items("10 KB objects, 64 writers, PUT", puts, OBJECTS, PUT_REACH),
        rate_of_items("10 KB objects, 64 readers, GET", gets, OBJECTS, GET_REACH),
        Figure(
            name="stored / object bytes, packed 10 KB",
            amount=stored / (OBJECTS * OBJECT_BYTES),
            unit="",
            better=Better.LOWER,
            reach=STORED_REACH,
        ),
    )


def held_bytes(cluster: Cluster) -> int:
    """Return the shard bytes that all nodes hold."""
    return sum(state.status.holder_bytes for state in cluster_states(cluster) if state.status is not None)


async def _all(names: list[str], act: Callable[[str], Awaitable[None]]) -> None:
    """Act on every name, AT_ONCE at a time."""
    waiting = iter(names)

    async def work() -> None:
        for name in waiting:
            await act(name)

    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(work)
