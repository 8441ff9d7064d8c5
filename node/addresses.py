"""How a host and a port are written: for whoever listens, and for whoever asks an API."""

from __future__ import annotations

from typing import Final

LOOPBACKS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (compared, not listened on)
"""Who listens on every address is asked on this machine's own."""


def host_and_port(host: str, port: int) -> str:
    """Return both in one word; an IPv6 address stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def api_url(host: str, port: int) -> str:
    """Return the base URL of the API that listens there."""
    return f"http://{host_and_port(LOOPBACKS.get(host, host), port)}"
