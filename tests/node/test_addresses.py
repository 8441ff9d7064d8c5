"""Hosts and ports are written as those who read them expect."""

from __future__ import annotations

import pytest

from node.addresses import api_url, host_and_port


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("10.0.0.1", "http://10.0.0.1:8080"),
        ("node.example", "http://node.example:8080"),
        ("fd00::1", "http://[fd00::1]:8080"),
        ("0.0.0.0", "http://127.0.0.1:8080"),  # noqa: S104 (nothing listens)
        ("::", "http://[::1]:8080"),
    ],
)
def test_an_api_is_asked_where_it_listens(host: str, url: str) -> None:
    assert api_url(host, 8080) == url


def test_who_listens_everywhere_says_so() -> None:
    assert (host_and_port("10.0.0.1", 1), host_and_port("::", 1)) == ("10.0.0.1:1", "[::]:1")
