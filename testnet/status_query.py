"""Asks a node's API how it is, with the standard library alone: the command line starts quickly."""

from __future__ import annotations

import http.client
from typing import Final

import msgspec

ANSWER_SECONDS_MAX: Final = 2.0
ANSWER_BYTES_MAX: Final = 65_536


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What `GET /v1/status` says, as far as a testnet needs it; other fields are ignored."""

    height: int
    block_hash: str
    state_root: str
    voting: bool
    holder_bytes: int = 0
    """Shard bytes that it holds."""


def ask_status(host: str, port: int) -> NodeStatus | None:
    """Return what a node says of itself; None when it does not answer in time or says something else."""
    connection = http.client.HTTPConnection(host, port, timeout=ANSWER_SECONDS_MAX)
    try:
        connection.request("GET", "/v1/status")
        answer = connection.getresponse()
        encoded = answer.read(ANSWER_BYTES_MAX)
        return msgspec.json.decode(encoded, type=NodeStatus) if answer.status == http.client.OK else None
    except (OSError, http.client.HTTPException, msgspec.DecodeError):
        return None
    finally:
        connection.close()
