"""The chain over HTTP, asked from a real node's API without a socket."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from node.api import application
from node.client import http_chain
from node.client.chain import ListingPlace
from node.client.http_chain import HttpChain
from node.errors import PeerUnreachableError
from storage.transactions import Extent
from tests.node.api.site import open_site
from tests.storage.ledger_world import BUCKET, TENANT, entry, name_tag


async def test_an_answer_that_does_not_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_chain, "ANSWER_BYTES_MAX", 100)
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        padded = b'{"height": 7}'.ljust(101 if request.url.host == "liar" else 100)
        return httpx.Response(200, content=padded)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        assert await HttpChain(("http://liar", "http://honest"), TENANT, http).tip_height() == 7
        with pytest.raises(PeerUnreachableError, match="no whole answer of at most 100 bytes"):
            await HttpChain(("http://liar",), TENANT, http).tip_height()
    assert asked[:2] == ["liar", "honest"]


@pytest.mark.parametrize("references_max", [1, 2, 3, 100])
async def test_entries_with_many_references_are_found_in_several_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, references_max: int
) -> None:
    monkeypatch.setattr(application, "REFERENCES_MAX", references_max)
    async with open_site(tmp_path) as site:
        halves = (Extent(segment=0, extent_bytes=5), Extent(segment=0, extent_bytes=5))
        for name in ("a", "b", "c"):
            site.append(site.world.transaction(site.world.commit((site.world.segment(name),), entry(name, *halves))))
        chain = HttpChain(("http://node",), TENANT, site.http)
        wanted = ("c", "none", "a", "b")
        found = await chain.find_entries([ListingPlace(BUCKET, name_tag(name)) for name in wanted])
    assert [None if one is None else (one.name_tag, len(one.references)) for one in found] == [
        None if name == "none" else (name_tag(name), 2) for name in wanted
    ]
