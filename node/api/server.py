"""Serves the API with Hypercorn's trio worker: time-outs and limits in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from node.addresses import host_and_port
from node.api.questions import HEAD_BYTES_MAX, WAIT_S_MAX
from node.ports import check_port_is_free

if TYPE_CHECKING:
    from starlette.types import ASGIApp

KEEP_ALIVE_S: Final = 60.0
READ_S: Final = int(WAIT_S_MAX) + 15
"""Hypercorn counts the wait for an answer as silence of the client: a connection lives longer than any answer takes."""
BACKLOG: Final = 128


async def serve_api(application: ASGIApp, host: str, port: int) -> None:
    """Serve until cancelled.

    Raises:
        ConfigurationError: The port is in use or the address is not ours.
    """
    check_port_is_free("API", host, port)
    config = Config()
    config.bind = [host_and_port(host, port)]
    config.accesslog = None
    config.errorlog = "-"
    config.loglevel = "WARNING"
    config.keep_alive_timeout = KEEP_ALIVE_S
    config.read_timeout = READ_S
    config.backlog = BACKLOG
    config.h11_max_incomplete_size = HEAD_BYTES_MAX
    config.include_server_header = False
    config.graceful_timeout = 0.5
    config.shutdown_timeout = 1.0
    await serve(application, config, shutdown_trigger=trio.sleep_forever, mode="asgi")
