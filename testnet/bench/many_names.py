"""A gateway with a million names: pages of its index, a walk over all of them, and how soon it serves them again.

The names are written into the index as the follower would have written them: storing a million objects first would
measure the nine nodes. What is started is `grandest gateway run` in a home of its own; it is ready with its first page.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx
import trio

from consensus.identifiers import Height
from node.client import bytes_source, open_client, read_client_home
from node.errors import NodeError
from node.gateway.access_keys import AccessSecret
from node.gateway.home import INDEX_FOLDER, SETTINGS_FILE, TENANTS_FOLDER, new_access_key, write_access_keys
from node.gateway.index import Dirty, Index, Indexed, VersionRow
from node.gateway.signatures import ALGORITHM, REGION, Scope, derive_signing_key, sign_text
from storage.identifiers import BucketTag, NameTag
from testnet.bench.figures import Better, Figure
from testnet.genesis import DEMO_TENANT, free_ports

if TYPE_CHECKING:
    from node.gateway.home import StoredAccessKey
    from testnet.cluster import Cluster

NAMES: Final = 1_000_000
NAMES_AT_ONCE: Final = 5_000
PAGE: Final = 1_000
PAGES_TRIED: Final = 50
BUCKET: Final = "bench-names"
PAGE_MS_REACH: Final = 50.0
WALK_S_REACH: Final = 60.0
READY_S_REACH: Final = 10.0
READY_S_MAX: Final = 60.0
POLL_S: Final = 0.02


async def measure(cluster: Cluster) -> tuple[Figure, ...]:
    """Fill an index, read it, and start a gateway over it."""
    folder = Path(tempfile.mkdtemp(prefix="grandest-names-"))
    try:
        client_home = read_client_home(cluster.home / "client")
        async with open_client(client_home) as client:
            await client.put(BUCKET, "first", bytes_source(b"makes the bucket"))
            tag, height = client.buckets.tag(BUCKET), await client.chain.tip_height()
        directory = folder / INDEX_FOLDER / client_home.tenant.hex()
        directory.parent.mkdir(parents=True)
        figures = await trio.to_thread.run_sync(_index_figures, directory, tag, height)
        ready_s = await trio.to_thread.run_sync(_ready_s, folder, cluster)
    finally:
        shutil.rmtree(folder)
    name = "a gateway started again with a million names: its first page"
    return (*figures, Figure(name=name, amount=ready_s, unit="s", better=Better.LOWER, reach=READY_S_REACH))


def _index_figures(directory: Path, tag: BucketTag, height: Height) -> tuple[Figure, ...]:
    index = Index(directory)
    index.begin_walk(height)
    for first in range(0, NAMES, NAMES_AT_ONCE):
        index.put([_indexed(tag, number) for number in range(first, first + NAMES_AT_ONCE)])
    index.end_walk()
    index.close()
    index = Index(directory)
    began = time.process_time()
    walked, start = 0, ""
    while page := index.list_current(tag, "", start, PAGE):
        walked += len(page)
        start = page[-1].name + "\0"
    walk_s = time.process_time() - began
    assert walked == NAMES, f"{walked} names"
    page_s = list[float]()
    for number in range(0, NAMES, NAMES // PAGES_TRIED):
        began = time.process_time()
        index.list_current(tag, "", _name(number), PAGE)
        page_s.append(time.process_time() - began)
    index.close()
    return (
        Figure(
            name="a page of 1,000 of a million names, longest of 50 (CPU)",
            amount=max(page_s) * 1_000,
            unit="ms",
            better=Better.LOWER,
            reach=PAGE_MS_REACH,
        ),
        Figure(
            name="a walk over a million names, 1,000 a page (CPU)",
            amount=walk_s,
            unit="s",
            better=Better.LOWER,
            reach=WALK_S_REACH,
        ),
    )


def _indexed(tag: BucketTag, number: int) -> Indexed:
    row = VersionRow(
        version_id=number.to_bytes(16, "big"),
        is_null=True,
        is_marker=False,
        plain_bytes=10_000,
        etag=f"{number:032x}",
        modified_ms=1_700_000_000_000 + number,
    )
    return Indexed(Dirty(tag, NameTag(sha256(b"%d" % number).digest()[:16]), bytes(8)), _name(number), (row,))


def _name(number: int) -> str:
    return f"{number % 100:02d}/photos/{number:09d}.jpg"


def _ready_s(folder: Path, cluster: Cluster) -> float:
    """Return how long after its start a gateway answers with a page."""
    (port,) = free_ports(1)
    access_key = new_access_key()
    (folder / SETTINGS_FILE).write_text(f"port = {port}\n")
    tenant = folder / TENANTS_FOLDER / DEMO_TENANT
    shutil.copytree(cluster.home / "client", tenant)
    write_access_keys(tenant, (access_key,))
    node = cluster.api_address(cluster.all_seats()[0])
    command = (sys.executable, "-P", "-m", "testnet.cli", "gateway", "run", "--home", str(folder), "--node", node)
    began = time.monotonic()
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as gateway:
        try:
            while time.monotonic() - began < READY_S_MAX:
                if _page_bytes(port, access_key):
                    return time.monotonic() - began
                time.sleep(POLL_S)
        finally:
            gateway.terminate()
    raise NodeError(f"the gateway shows no page: {(folder / 'log').read_text()[-500:]}")


def _page_bytes(port: int, access_key: StoredAccessKey) -> int:
    """Return the bytes of the first page; 0 while there is none."""
    address = f"http://127.0.0.1:{port}/{BUCKET}?list-type=2&max-keys={PAGE}"
    try:
        answer = httpx.get(address, headers=_signed(port, access_key))
    except httpx.HTTPError:
        return 0
    return len(answer.content) if answer.is_success and answer.text.count("<Contents>") == PAGE else 0


def _signed(port: int, access_key: StoredAccessKey) -> dict[str, str]:
    """Return the headers of Signature V4 for the first page."""
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    headers = {"host": f"127.0.0.1:{port}", "x-amz-content-sha256": "UNSIGNED-PAYLOAD", "x-amz-date": moment}
    names = ";".join(headers)
    lines = "".join(f"{name}:{text}\n" for name, text in headers.items())
    canonical = f"GET\n/{BUCKET}\nlist-type=2&max-keys={PAGE}\n{lines}\n{names}\nUNSIGNED-PAYLOAD"
    scope = Scope(date=moment[:8], region=REGION)
    signing_key = derive_signing_key(AccessSecret(access_key.secret_key.encode()), scope)
    digest = sha256(canonical.encode()).hexdigest()
    signature = sign_text(signing_key, f"{ALGORITHM}\n{moment}\n{scope}\n{digest}".encode())
    credential = f"Credential={access_key.access_key}/{scope}"
    return {**headers, "authorization": f"{ALGORITHM} {credential}, SignedHeaders={names}, Signature={signature}"}
