"""A port that somebody has is refused, one that was given back a moment ago is not."""

from __future__ import annotations

import socket

import pytest

from node.errors import ConfigurationError
from node.ports import check_port_is_free


@pytest.mark.parametrize("reuse", [socket.SO_REUSEADDR, socket.SO_REUSEPORT], ids=["plain", "shared"])
def test_a_port_that_somebody_listens_on_is_refused(reuse: int) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, reuse, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"^API port 127\.0\.0\.1:{port} cannot be used \(.*\): choose"):
            check_port_is_free("API", "127.0.0.1", port)
    check_port_is_free("API", "127.0.0.1", port)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"shard port 192\.0\.2\.1:4002 cannot be used"):
        check_port_is_free("shard", "192.0.2.1", 4002)
