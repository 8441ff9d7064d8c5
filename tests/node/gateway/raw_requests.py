"""Requests made byte by byte, signed by botocore, and sent over a socket of their own."""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from dataclasses import dataclass

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from node.gateway.signatures import REGION
from tests.node.gateway.memory_gateway import SECRET

ANSWER_SECONDS_MAX = 20.0
ANSWER_BYTES_MAX = 64 * 1024 * 1024
Address = tuple[str, int]


class _Signer(S3SigV4Auth):
    """Signs what a request says of its body; without a word, the body's SHA-256."""

    told: str | None = None

    def payload(self, request: AWSRequest) -> str:
        return self.told or super().payload(request)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back before the connection ended; a status of 0 is a connection that was closed without an answer."""

    status: int
    head: str
    body: bytes

    @property
    def code(self) -> str:
        """Return S3's code of an error, empty for others."""
        found = re.search(rb"<Code>(\w+)</Code>", self.body)
        return "" if found is None else found[1].decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRequest:
    """One request before it is signed."""

    method: str
    target: str
    """Path and query as they are sent."""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    access_key: str = "OURS"

    def signed(self, address: Address) -> bytes:
        """Return all its bytes, signed for a gateway."""
        host = f"{address[0]}:{address[1]}"
        request = AWSRequest(self.method, f"http://{host}{self.target}", headers=dict(self.headers), data=self.body)
        signer = _Signer(Credentials(self.access_key, SECRET), "s3", REGION)
        signer.told = dict(self.headers).get("x-amz-content-sha256")
        signer.add_auth(request)
        return self.written(host, tuple(request.headers.items()))

    def unsigned(self, address: Address) -> bytes:
        """Return all its bytes as nobody's request."""
        return self.written(f"{address[0]}:{address[1]}", self.headers)

    def written(self, host: str, headers: tuple[tuple[str, str], ...]) -> bytes:
        """Return its bytes with these headers; the connection ends with the answer."""
        told = {name.lower() for name, _ in headers}
        more = [] if "content-length" in told or "transfer-encoding" in told else [f"Content-Length: {len(self.body)}"]
        lines = [f"{name}: {text}" for name, text in headers] + more
        head = "\r\n".join([f"{self.method} {self.target} HTTP/1.1", f"Host: {host}", "Connection: close", *lines])
        return head.encode("latin-1", "replace") + b"\r\n\r\n" + self.body


def exchanged(address: Address, sent: bytes) -> Answer:
    """Send bytes, hang up our half, and return what comes until the gateway hangs up.

    Raises:
        TimeoutError: It neither answered nor closed.
    """
    with socket.create_connection(address, timeout=ANSWER_SECONDS_MAX) as connection:
        with suppress(OSError):  # it answered before we were done
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
        return answer_of(received(connection))


def received(connection: socket.socket) -> bytes:
    """Return all that comes until the other side hangs up."""
    pieces: list[bytes] = []
    try:
        while piece := connection.recv(65_536):
            pieces.append(piece)
            assert sum(map(len, pieces)) <= ANSWER_BYTES_MAX, "an endless answer"
    except ConnectionResetError:
        pass
    return b"".join(pieces)


def answer_of(came: bytes) -> Answer:
    """Take an answer apart; informational ones are passed over."""
    while came.startswith(b"HTTP/1.1 1"):
        came = came.partition(b"\r\n\r\n")[2]
    head, _, body = came.partition(b"\r\n\r\n")
    status = int(head[9:12]) if head.startswith(b"HTTP/1.1 ") else 0
    return Answer(status=status, head=head.decode("latin-1"), body=body)
