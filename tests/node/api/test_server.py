"""The API on a real socket: HTTP by the gateway's server, whose rules tests/node/gateway/test_http_server.py tests."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import msgspec
import trio
import trio.testing

from consensus.encoding import encode
from node.api.answers import ErrorAnswer, StatusAnswer, SubmitAnswer
from node.api.server import serve_api
from node.gateway.http_server import SEND_BYTES
from node.submission import Submission, encode_submission
from storage.transactions import DeleteEntries, EntryName
from tests.node.api.site import Site, open_site
from tests.storage.ledger_world import BUCKET, TENANT, name_tag


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@asynccontextmanager
async def served(folder: Path) -> AsyncGenerator[tuple[Site, httpx.AsyncClient, int]]:
    async with open_site(folder) as site, trio.open_nursery() as nursery:
        port = free_port()
        nursery.start_soon(serve_api, site.application, "127.0.0.1", port)
        await trio.testing.wait_all_tasks_blocked(0.01)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
            yield site, http, port
        nursery.cancel_scope.cancel()


def transaction(site: Site) -> bytes:
    names = (EntryName(bucket_tag=BUCKET, name_tag=name_tag("none"), version_id=None),)
    return site.world.transaction(DeleteEntries(tenant=TENANT, entries=names))


def submission(site: Site) -> bytes:
    return encode_submission(Submission(transaction=transaction(site), records=()))


async def test_questions_follow_each_other_on_one_connection(tmp_path: Path) -> None:
    async with served(tmp_path) as (site, http, _):
        first = await http.get("/v1/status")
        assert msgspec.json.decode(first.content, type=StatusAnswer).height == 0
        posted = await http.post("/v1/transactions?wait_s=0", content=submission(site))
        assert posted.status_code == 202
        assert msgspec.json.decode(posted.content, type=SubmitAnswer).transaction_id
        listed = await http.get(f"/v1/entries?tenant={TENANT.hex()}&limit=3")
        assert listed.json() == {"entries": []}
        assert len(site.mempool) == 1


async def test_a_refusal_and_a_wrong_path_have_the_shape_of_every_error(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, http, _):
        for path, status in (("/v1/nothing", 404), ("/v1/blocks/none", 400), ("/v1/entries?tenant=%F0%9F", 400)):
            answer = await http.get(path)
            assert answer.status_code == status
        wrong = await http.get("/v1/blocks/none")
        assert msgspec.json.decode(wrong.content, type=ErrorAnswer).error == "malformed"


async def test_a_head_asked_for_alone_tells_the_length_and_sends_no_body(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, http, _):
        whole = await http.get("/v1/status")
        head = await http.head("/v1/status")
        assert head.content == b""
        assert abs(int(head.headers["content-length"]) - len(whole.content)) < 16


async def test_a_client_that_leaves_inside_its_body_leaves_nothing(tmp_path: Path) -> None:
    async with served(tmp_path) as (site, http, port):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(b"POST /v1/transactions HTTP/1.1\r\nHost: node\r\nContent-Length: 400\r\n\r\n12")
        await stream.aclose()
        assert (await http.get("/v1/status")).status_code == 200
        assert len(site.mempool) == 0


async def test_two_lengths_of_one_body_are_refused(tmp_path: Path) -> None:
    async with served(tmp_path) as (site, _, port):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        heads = b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n"
        await stream.send_all(b"POST /v1/transactions HTTP/1.1\r\nHost: node\r\n" + heads + b"\r\n0\r\n\r\n")
        answer = bytes(await stream.receive_some())
        assert answer.startswith(b"HTTP/1.1 400 ")
        await stream.aclose()
        assert len(site.mempool) == 0


async def test_a_long_answer_comes_whole(tmp_path: Path) -> None:
    async with served(tmp_path) as (site, http, _):
        blocks = [site.append(*(transaction(site) for _ in range(8)))[0] for _ in range(128)]
        encoded = [encode(block) for block in blocks]
        wanted = b"".join(len(block).to_bytes(4, "big") + block for block in encoded)
        assert len(wanted) > SEND_BYTES
        assert (await http.get("/v1/raw/blocks?from=1")).content == wanted
        assert (await http.head("/v1/raw/blocks?from=1")).headers["content-length"] == str(len(wanted))
        assert (await http.get("/v1/status")).status_code == 200
