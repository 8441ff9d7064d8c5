"""A gateway from start to end: read this first. One process, beside a node or on the customer's own premises.

    run(home)
      read_gateway_home               settings, tenants, access keys; says plainly what forbids starting
      one nursery:
        GrantFollower.run             tenants that have granted the gateway's own key come and go (grants.py)
        per tenant (tenant_task.py):
          open_client                 links to all holders, transactions, records (node/client)
          Follower.run                the index follows the ledger (follower.py, index.py)
          Fence.run                   what reads wait for (fence.py)
          ChainStore.run              the Store that the operations of S3 use (store.py, chain_store.py)
          run_lifecycle               what buckets' rules let expire (lifecycle.py)
        Outbox.run                    events on their way to webhooks (notifications.py)
        HttpServer.serve              requests (http_server.py) to Application.answer (application.py)
        stop_on_signal                SIGTERM, SIGINT: drain, then end

The gateway keeps nothing that is not on the nine: killed at any moment it starts again where the ledger is.
"""

from __future__ import annotations

import logging
import signal
import ssl
import sys
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

import httpx
import trio

from node.config import LogFormat, LogLevel
from node.errors import ConfigurationError
from node.gateway.application import Application
from node.gateway.home import OUTBOX_FOLDER, PRIVATE_KEY_FILE, read_gateway_home
from node.gateway.http_server import HttpServer
from node.gateway.metrics import Metrics, serve_metrics
from node.gateway.notifications import Outbox
from node.gateway.rates import TenantRates
from node.gateway.tenant_task import Around, ServedTenants, follow_grants, serve_tenant
from node.nurseries import first_expected
from node.telemetry import set_up_log

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from node.gateway.home import GatewayHome

LOGGER: Final = logging.getLogger(__name__)
NODES_MAX: Final = httpx.Limits(max_connections=64, max_keepalive_connections=32)


def run(home: Path, nodes: tuple[str, ...] = (), *, wait_for_end: Callable[[], None] | None = None) -> None:
    """Run the gateway of a home directory until it is told to stop.

    Args:
        home: node/gateway/home.py says what it holds.
        nodes: Base URLs of nodes to ask first.
        wait_for_end: Blocks until whoever started this process has gone; None when nobody is watched.

    Raises:
        ConfigurationError: What forbids starting, and what to do about it.
        GrandestError: What ended the gateway.
    """
    if sys.flags.optimize:
        raise ConfigurationError("assertions are part of this program: start Python without -O")
    read = read_gateway_home(home, nodes)
    set_up_log(LogLevel.INFO, LogFormat.TEXT)
    try:
        trio.run(_run, read, nodes, wait_for_end)
    except BaseExceptionGroup as group:
        raise first_expected(group) from group


async def _run(home: GatewayHome, nodes: tuple[str, ...], wait_for_end: Callable[[], None] | None) -> None:
    tenants, metrics = ServedTenants(), Metrics()
    rates = TenantRates(home.settings.requests_per_second, time.monotonic)
    server = HttpServer(Application(tenants, metrics, rates), tls=_tls(home))
    try:
        port = await server.listen(home.settings.host, home.settings.port)
    except OSError as error:
        detail = f"S3 port {home.settings.host}:{home.settings.port} cannot be used: {error}"
        raise ConfigurationError(detail) from error
    # What tasks use is closed after they have ended.
    async with AsyncExitStack() as kept, trio.open_nursery() as nursery:
        nursery.start_soon(_stop_on_signal, server, nursery.cancel_scope)
        if wait_for_end is not None:
            nursery.start_soon(_end_with, wait_for_end, nursery.cancel_scope)
        http = await kept.enter_async_context(httpx.AsyncClient(trust_env=False, limits=NODES_MAX))
        outbox = await trio.to_thread.run_sync(Outbox, home.folder / OUTBOX_FOLDER, http)
        kept.callback(outbox.close)
        nursery.start_soon(outbox.run)
        around = Around(home=home, http=http, outbox=outbox, tenants=tenants)
        for tenant in home.tenants:
            await nursery.start(serve_tenant, around, tenant.client_home, tenant.access_keys)
        if home.own is not None:
            nursery.start_soon(follow_grants, around, home.own, nodes)
        if home.settings.metrics_port:
            nursery.start_soon(serve_metrics, metrics, home.settings.host, home.settings.metrics_port)
        LOGGER.info("S3 of %d tenants on %s:%d", len(home.tenants), home.settings.host, port)
        await server.serve()
        nursery.cancel_scope.cancel()


def _tls(home: GatewayHome) -> ssl.SSLContext | None:
    certificate = home.certificate
    if certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, home.folder / PRIVATE_KEY_FILE)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"{certificate} and its key cannot be used: {error}") from error
    return context


async def _stop_on_signal(server: HttpServer, scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            LOGGER.info("stopping on %s", signal.Signals(number).name)
            await server.drain()
            scope.cancel()
            return


async def _end_with(wait_for_end: Callable[[], None], scope: trio.CancelScope) -> None:
    await trio.to_thread.run_sync(wait_for_end, abandon_on_cancel=True)
    scope.cancel()
