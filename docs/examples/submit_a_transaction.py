"""Delete objects by a transaction made by hand, and look at what the chain says of it.

Run against a testnet: python docs/examples/submit_a_transaction.py HOME
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from node.client import bytes_source, open_client, read_client_home
from storage.transactions import DeleteEntries, EntryName


async def main(home: Path) -> None:
    """Store, then delete with a raw transaction."""
    client_home = read_client_home(home / "client")
    async with open_client(client_home) as client:
        acknowledged = await client.put("examples", "to-delete", bytes_source(b"contents"))
        opened = await client.open("examples", "to-delete")
        name = EntryName(
            bucket_tag=opened.entry.bucket_tag, name_tag=opened.entry.name_tag, version_id=acknowledged.version_id
        )
        commit = await client.transact(DeleteEntries(tenant=client_home.tenant, entries=(name,)))
        print(f"transaction {commit.transaction_id.hex()} at height {commit.height}: {commit.refusal or 'applied'}")


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
