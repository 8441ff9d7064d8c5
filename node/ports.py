"""Whether a port can be listened on, asked before anything is started on it."""

from __future__ import annotations

import socket

from node.errors import ConfigurationError


def check_port_is_free(named: str, host: str, port: int) -> None:
    """Refuse a port that somebody else has; SO_REUSEPORT, as libp2p sets it, would share its connections between two.

    Args:
        named: Which of a node's ports: "libp2p", "shard", "API".
        host: An IPv4 or IPv6 address.
        port: 0 for any.

    Raises:
        ConfigurationError: Somebody listens there, or the address is not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigurationError(
                f"{named} port {host}:{port} cannot be used ({error.strerror}): choose another, or stop who has it"
            ) from error
