"""The operator's gateway, beside its node: a process of its own, so that hashing objects never delays a vote.

It is started when HOME/gateway holds settings, started again when it ends, and ends with the node however that ends:
its standard input is a pipe whose other end the node holds.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from pathlib import Path

LOGGER: Final = logging.getLogger(__name__)
GATEWAY_FOLDER: Final = "gateway"
SETTINGS_FILE: Final = "gateway.toml"
RESTART_S_MIN: Final = 1.0
RESTART_S_MAX: Final = 30.0
STOP_S: Final = 5.0
STEADY_S: Final = 60.0
"""A gateway that ran for so long is started again without a pause."""


async def run_gateway_process(home: Path, node: str) -> None:
    """Keep the gateway of a node's home running until cancelled; returns at once when the home has none.

    Args:
        home: The node's.
        node: Base URL of the node's API.
    """
    folder = home / GATEWAY_FOLDER
    if not (folder / SETTINGS_FILE).is_file():
        return
    # -P: a folder named `node` or `storage` where the user happens to stand must not be imported.
    command = [sys.executable, "-P", "-m", "node.gateway", str(folder), node]
    pause_s = RESTART_S_MIN
    while True:  # a gateway that cannot start says why in the log, each time
        began = trio.current_time()
        code = await _run_once(command)
        if trio.current_time() - began > STEADY_S:
            pause_s = RESTART_S_MIN
        LOGGER.warning("the gateway ended with %d; started again in %.0f s", code, pause_s)
        await trio.sleep(pause_s)
        pause_s = min(RESTART_S_MAX, 2 * pause_s)


async def _run_once(command: list[str]) -> int:
    gateway = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE)
    try:
        return await gateway.wait()
    finally:
        with trio.CancelScope(shield=True), trio.move_on_after(STOP_S):
            if gateway.stdin is not None:
                await gateway.stdin.aclose()  # tells it to stop
            await gateway.wait()
        if gateway.returncode is None:
            gateway.kill()
            with trio.CancelScope(shield=True):
                await gateway.wait()
