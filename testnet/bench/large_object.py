"""One object of 256 MiB through the native client: PUT, GET, and GET with three seats dead."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from node.client import bytes_source, open_client, read_client_home
from node.errors import NodeError
from storage.identifiers import SeatIndex
from testnet.bench.figures import Better, Figure, Span, measured, rate_of_bytes
from testnet.cluster import kill_seat, start_seat, votes, wait_for_seats

if TYPE_CHECKING:
    from node.client import Client
    from testnet.cluster import Cluster

OBJECT_BYTES: Final = 256 * 1024 * 1024
BUCKET: Final = "bench-large"
DEAD_SEATS: Final = (SeatIndex(1), SeatIndex(4), SeatIndex(7))
PUT_REACH: Final = 150.0
GET_REACH: Final = 400.0
DEAD_PERCENT_REACH: Final = 90.0


async def measure(cluster: Cluster) -> tuple[Figure, ...]:
    """Store it once, read it from nine and from six; every byte is compared outside the measured time."""
    contents = secrets.token_bytes(OBJECT_BYTES)
    name = secrets.token_hex(8)
    async with open_client(read_client_home(cluster.home / "client")) as client:
        with measured(cluster) as put:
            await client.put(BUCKET, name, bytes_source(contents))
        healthy = await _get(cluster, client, name, contents)
        for seat in DEAD_SEATS:
            kill_seat(cluster, seat)
        try:
            degraded = await _get(cluster, client, name, contents)
        finally:
            for seat in DEAD_SEATS:
                start_seat(cluster, seat)
        await client.delete(BUCKET, [name])
    wait_for_seats(cluster, DEAD_SEATS, votes)
    return (
        rate_of_bytes("256 MiB object, PUT", put, OBJECT_BYTES, PUT_REACH),
        rate_of_bytes("256 MiB object, GET", healthy, OBJECT_BYTES, GET_REACH),
        Figure(
            name="256 MiB object, GET with three seats dead, of healthy",
            amount=100 * healthy.seconds / degraded.seconds,
            unit="%",
            better=Better.HIGHER,
            reach=DEAD_PERCENT_REACH,
            client_cpu_s=degraded.client_cpu_s * 1e9 / OBJECT_BYTES,
            nodes_cpu_s=degraded.nodes_cpu_s * 1e9 / OBJECT_BYTES,
        ),
    )


async def _get(cluster: Cluster, client: Client, name: str, contents: bytes) -> Span:
    received = bytearray(OBJECT_BYTES)
    position = 0

    async def keep(piece: memoryview) -> None:
        nonlocal position
        received[position : position + len(piece)] = piece
        position += len(piece)

    with measured(cluster) as span:
        await client.read(await client.open(BUCKET, name), keep)
    if bytes(received) != contents:
        raise NodeError("the object read back is not the one that was stored")
    return span
