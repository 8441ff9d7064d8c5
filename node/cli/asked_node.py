"""Commands that ask any live node over HTTP: which one, and what it answers."""

from __future__ import annotations

import struct
from argparse import ArgumentParser, Namespace
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from node.cli.parser import node_address

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    import httpx

    from node.cli.output import Progress

BLOCKS_AT_ONCE: Final = 256
ANSWER_SECONDS: Final = 30.0
LENGTH: Final = struct.Struct(">I")


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
                height = int(http.get("/v1/status").raise_for_status().json()["height"])
            except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
                reason = f"{address}: {error}"
                continue
            yield http, height
            return
    raise PeerUnreachableError(f"no node answers ({reason}); start one or name another with --node")


def fetch(http: httpx.Client, path: str) -> bytes:
    """Return the body of an answer; raises PeerUnreachableError."""
    import httpx

    from node.errors import PeerUnreachableError

    try:
        return http.get(path).raise_for_status().content
    except httpx.HTTPError as error:
        raise PeerUnreachableError(f"{http.base_url}{path}: {error}") from error


def blocks(http: httpx.Client, heights: range, progress: Progress) -> Iterator[bytes]:
    """Give the encoded decided blocks of ascending heights; each answer holds whole blocks behind their lengths."""
    from node.errors import PeerUnreachableError

    height = heights.start
    while height < heights.stop:
        count = min(BLOCKS_AT_ONCE, heights.stop - height)
        answer = memoryview(fetch(http, f"/v1/raw/blocks?from={height}&count={count}"))
        if not answer:
            raise PeerUnreachableError(f"{http.base_url} has no block of height {height} any more")
        while answer:
            (byte_count,) = LENGTH.unpack(answer[: LENGTH.size])
            yield bytes(answer[LENGTH.size : LENGTH.size + byte_count])
            answer = answer[LENGTH.size + byte_count :]
            height += 1
            progress.advance(1)
