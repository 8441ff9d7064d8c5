"""Store a few objects, read one back, and prove it from the members' signatures.

Run against a testnet: python docs/examples/store_and_prove.py HOME
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from node.client import bytes_source, open_client, read_client_home


async def main(home: Path) -> None:
    """Store, read, prove."""
    async with open_client(read_client_home(home / "client")) as client:
        async with trio.open_nursery() as nursery:
            for i in range(10):  # at once: they share a segment and a transaction
                nursery.start_soon(client.put, "examples", f"object-{i}", bytes_source(b"contents %d" % i))
        assert await client.get("examples", "object-3") == b"contents 3"
        proven = await client.verify("examples", "object-3")
        print(f"proven at height {proven.height} by {proven.signers} members,", end=" ")
        print(f"{proven.status.columns_live} columns verified")


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
