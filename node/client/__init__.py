"""The native client: objects in and out of the nine nodes, from Python (docs/client.md).

async with open_client(read_client_home(Path("HOME/client"))) as client:
    await client.put("photos", "cat.jpg", bytes_source(picture))
    picture = await client.get("photos", "cat.jpg")
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx

from node.client.client import Client, client_over
from node.client.errors import BucketMissingError, NotCommittedError, ObjectMissingError, TooFewHoldersError
from node.client.home import ClientHome, read_client_home, write_client_home
from node.client.http_chain import HttpChain
from node.client.results import Acknowledgement, ObjectStatus
from node.client.seats import all_seats
from node.client.shard_links import dialler
from node.client.sources import FileSource, bytes_source
from node.nurseries import open_plain_nursery

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

__all__ = [
    "Acknowledgement",
    "BucketMissingError",
    "Client",
    "ClientHome",
    "FileSource",
    "NotCommittedError",
    "ObjectMissingError",
    "ObjectStatus",
    "TooFewHoldersError",
    "bytes_source",
    "open_client",
    "read_client_home",
    "write_client_home",
]


@asynccontextmanager
async def open_client(home: ClientHome) -> AsyncGenerator[Client, None]:
    """Connect to the nine and give a client for the time of the block.

    Args:
        home: From read_client_home().

    Raises:
        PeerUnreachableError: No node answers (from the client's methods).
    """
    async with httpx.AsyncClient(trust_env=False) as http, open_plain_nursery() as nursery:
        seats = await all_seats(home, http)
        connect = dialler([seat.seat for seat in seats], home.signing_key, nursery)
        async with client_over(home, HttpChain(home.nodes, home.tenant, http), connect, seats) as client:
            yield client
        nursery.cancel_scope.cancel()
