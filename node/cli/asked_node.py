"""Commands that ask any live node over HTTP: which one, and what it answers."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from node.cli.parser import node_address

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    import httpx

    from node.cli.output import Progress

BLOCKS_AT_ONCE: Final = 256
ANSWER_SECONDS: Final = 30.0
ANSWER_BYTES_MAX: Final = 17 * 1024 * 1024
"""A node answers at most 16 MiB (docs/api.md)."""
LENGTH_BYTES: Final = 4

AnswerT = TypeVar("AnswerT", bound=msgspec.Struct)


class StatusAnswer(msgspec.Struct):
    """What of a node's status is needed here."""

    height: int


def add_node_options(parser: ArgumentParser) -> None:
    """Add `--home DIR` and `--node URL`, one of which is needed."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--home", type=Path, metavar="DIR", help="a testnet's home: any live node of it is asked")
    source.add_argument("--node", type=node_address, metavar="URL", help="the API of a node")


def node_addresses(arguments: Namespace) -> tuple[str, ...]:
    """Return whom to ask, by those options."""
    if arguments.node is not None:
        return (str(arguments.node),)
    from node.client.home import read_client_home

    return read_client_home(arguments.home / "client").nodes


@contextmanager
def open_node(addresses: tuple[str, ...]) -> Generator[tuple[httpx.Client, int]]:
    """Give the first node that answers, and the height it is at."""
    import httpx

    from node.errors import PeerUnreachableError

    reason = "no address"
    for address in addresses:
        with httpx.Client(base_url=address, timeout=ANSWER_SECONDS, trust_env=False) as http:
            try:
                height = ask(http, "/v1/status", StatusAnswer).height
            except PeerUnreachableError as error:
                reason = str(error)
                continue
            yield http, height
            return
    raise PeerUnreachableError(f"no node answers ({reason}); start one or name another with --node")


def fetch(http: httpx.Client, path: str) -> bytes:
    """Return the body of an answer; raises PeerUnreachableError, also for one that does not end."""
    import httpx

    from node.errors import PeerUnreachableError

    body = bytearray()
    try:
        with http.stream("GET", path) as answer:
            answer.raise_for_status()
            for piece in answer.iter_bytes():
                body += piece
                if len(body) > ANSWER_BYTES_MAX:
                    raise PeerUnreachableError(f"{http.base_url}{path}: more than {ANSWER_BYTES_MAX} bytes")
    except httpx.HTTPStatusError as error:
        detail = f"{http.base_url}{path}: status {error.response.status_code}"
        raise PeerUnreachableError(detail) from error
    except httpx.HTTPError as error:
        raise PeerUnreachableError(f"{http.base_url}{path}: {error}") from error
    return bytes(body)


def ask(http: httpx.Client, path: str, kind: type[AnswerT]) -> AnswerT:
    """Return what a node answers in JSON; raises PeerUnreachableError."""
    return read_answer(http, path, fetch(http, path), kind)


def read_answer(http: httpx.Client, path: str, encoded: bytes, kind: type[AnswerT]) -> AnswerT:
    """Read a JSON answer; raises PeerUnreachableError for whoever says something else than a node does."""
    from node.errors import PeerUnreachableError

    try:
        return msgspec.json.decode(encoded, type=kind)
    except msgspec.DecodeError as error:
        raise PeerUnreachableError(f"{http.base_url}{path} answers otherwise than a node does: {error}") from error


def parts(answer: bytes) -> Iterator[bytes]:
    """Give what an answer holds behind four bytes of length each; raises PeerUnreachableError where one is cut."""
    from node.errors import PeerUnreachableError

    rest = memoryview(answer)
    while rest:
        end = LENGTH_BYTES + int.from_bytes(rest[:LENGTH_BYTES], "big")
        if len(rest) < end:
            raise PeerUnreachableError(f"an answer of {len(answer)} bytes ends inside of what it announces")
        yield bytes(rest[LENGTH_BYTES:end])
        rest = rest[end:]


def blocks(http: httpx.Client, heights: range, progress: Progress) -> Iterator[bytes]:
    """Give the encoded decided blocks of ascending heights; each answer holds whole blocks behind their lengths.

    Raises:
        PeerUnreachableError: The node has pruned one, or answers otherwise than was asked.
    """
    from node.errors import PeerUnreachableError

    height = heights.start
    while height < heights.stop:
        count = min(BLOCKS_AT_ONCE, heights.stop - height)
        pieces = list(parts(fetch(http, f"/v1/raw/blocks?from={height}&count={count}")))
        if not pieces:
            raise PeerUnreachableError(f"{http.base_url} has no block of height {height} any more")
        if len(pieces) > count:
            raise PeerUnreachableError(f"{http.base_url} answers with {len(pieces)} blocks to a question for {count}")
        yield from pieces
        height += len(pieces)
        progress.advance(len(pieces))
