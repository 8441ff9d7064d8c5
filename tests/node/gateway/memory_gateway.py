"""A gateway over stores in memory, on real sockets: HTTP and TLS, two tenants, keys of every scope."""

from __future__ import annotations

import ssl
import threading
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from node.gateway.access_keys import AccessKey, AccessSecret, Verb
from node.gateway.application import Application
from node.gateway.http_server import HttpServer
from node.gateway.rates import TenantRates
from storage.identifiers import TenantId
from tests.loopback_authority import loopback_context
from tests.node.gateway.memory_store import MemoryStore

OURS, THEIRS = TenantId(b"o" * 16), TenantId(b"t" * 16)
SECRET = "s" * 40
ONE_BUCKET = "one-bucket"
ACCESS_KEYS = {
    "OURS": AccessKey(access_key="OURS", secret=AccessSecret(SECRET.encode()), tenant=OURS),
    "THEIRS": AccessKey(access_key="THEIRS", secret=AccessSecret(SECRET.encode()), tenant=THEIRS),
    "EXPIRED": AccessKey(access_key="EXPIRED", secret=AccessSecret(SECRET.encode()), tenant=OURS, expires_ms=1),
    "BUCKET": AccessKey(
        access_key="BUCKET", secret=AccessSecret(SECRET.encode()), tenant=OURS, buckets=frozenset({ONE_BUCKET})
    ),
    **{
        verb.name: AccessKey(
            access_key=verb.name, secret=AccessSecret(SECRET.encode()), tenant=OURS, verbs=frozenset({verb})
        )
        for verb in Verb
    },
}
"""By name: all rights of two tenants, none left, one bucket, and one verb each."""
START_SECONDS_MAX = 30.0
REQUESTS_PER_SECOND = 1_000_000


@dataclass(slots=True)
class MemoryGateway:
    """A gateway that runs, and what it keeps."""

    url: str = ""
    tls_url: str = ""
    stores: dict[TenantId, MemoryStore] = field(default_factory=lambda: {OURS: MemoryStore(), THEIRS: MemoryStore()})
    statuses: Counter[int] = field(default_factory=Counter[int])
    """Of all answers so far."""

    @property
    def address(self) -> tuple[str, int]:
        """Return where HTTP is spoken."""
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    def access_key(self, name: str) -> AccessKey | None:
        return ACCESS_KEYS.get(name)

    def store(self, access_key: AccessKey) -> MemoryStore:
        return self.stores[access_key.tenant]

    def count(self, operation: str, tenant: str, status: int, seconds: float) -> None:
        self.statuses[status] += 1


@contextmanager
def memory_gateway(certificates: Path) -> Generator[MemoryGateway]:
    """Run a gateway in a thread of its own.

    Args:
        certificates: Folder of tests/loopback_authority.py.
    """
    gateway, started = MemoryGateway(), threading.Event()
    scopes: list[tuple[trio.lowlevel.TrioToken, trio.CancelScope]] = []
    serve = partial(_serve, gateway, loopback_context(certificates), started, scopes)
    thread = threading.Thread(target=trio.run, args=(serve,), name="gateway")
    thread.start()
    assert started.wait(START_SECONDS_MAX), "the gateway did not start"
    try:
        yield gateway
    finally:
        token, scope = scopes[0]
        token.run_sync_soon(scope.cancel)
        thread.join()


async def _serve(
    gateway: MemoryGateway,
    tls: ssl.SSLContext,
    started: threading.Event,
    scopes: list[tuple[trio.lowlevel.TrioToken, trio.CancelScope]],
) -> None:
    application = Application(gateway, gateway, TenantRates(REQUESTS_PER_SECOND, time.monotonic))
    plain, secure = HttpServer(application), HttpServer(application, tls=tls)
    gateway.url = f"http://127.0.0.1:{await plain.listen('127.0.0.1', 0)}"
    gateway.tls_url = f"https://127.0.0.1:{await secure.listen('127.0.0.1', 0)}"
    async with trio.open_nursery() as nursery:
        scopes.append((trio.lowlevel.current_trio_token(), nursery.cancel_scope))
        started.set()
        nursery.start_soon(plain.serve)
        nursery.start_soon(secure.serve)
