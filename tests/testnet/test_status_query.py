"""A node's status over a real port; anything else that listens there is no node."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from testnet.status_query import ANSWER_BYTES_MAX, NodeStatus, ask_status

STATUS = b'{"height": 7, "block_hash": "ab", "state_root": "cd", "voting": true, "more": [1]}'


def answer(body: bytes, head: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return head + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@contextmanager
def listening(said: bytes) -> Generator[tuple[int, list[bytes]]]:
    """Answer one connection with these bytes; keep what was asked."""
    asked = list[bytes]()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                asked.append(connection.recv(65_536))
                connection.sendall(said)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1], asked
        finally:
            thread.join()


def test_a_node_says_how_it_is() -> None:
    with listening(answer(STATUS)) as (port, asked):
        found = ask_status("127.0.0.1", port)
    assert found == NodeStatus(height=7, block_hash="ab", state_root="cd", voting=True)
    assert asked[0].startswith(b"GET /v1/status HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        answer(STATUS, b"HTTP/1.1 503 Service Unavailable"),
        answer(STATUS, b"HTTP/1.1 201 Created"),
        answer(b"{}"),
        answer(b"not JSON"),
        answer(b'{"height": "7", "block_hash": "ab", "state_root": "cd", "voting": true}'),
        answer(b" " * ANSWER_BYTES_MAX + STATUS),
        answer(STATUS)[:-10],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n" + STATUS,
    ],
)
def test_who_says_something_else_is_no_node(said: bytes) -> None:
    with listening(said) as (port, _):
        assert ask_status("127.0.0.1", port) is None


def test_nobody_there_is_no_node() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = int(server.getsockname()[1])
    assert ask_status("127.0.0.1", port) is None
