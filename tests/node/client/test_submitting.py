"""Transactions of one moment share a request; each is taken, refused and answered by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from consensus.errors import RejectionError, RejectionReason
from node.client import http_chain
from node.client.chain import Commit
from node.client.http_chain import HttpChain
from node.client.submitting import SharedSubmitting
from node.submission import Submission
from storage.transactions import DeleteEntries, EntryName
from tests.node.api.site import Site, open_site
from tests.storage.ledger_world import BUCKET, TENANT, name_tag


def transaction(site: Site, name: str, *, sender: str = "client") -> bytes:
    names = (EntryName(bucket_tag=BUCKET, name_tag=name_tag(name), version_id=None),)
    return site.world.transaction(DeleteEntries(tenant=TENANT, entries=names), sender=sender)


async def test_three_tasks_share_a_request_and_each_gets_its_own_answer(tmp_path: Path) -> None:
    async with open_site(tmp_path) as site, trio.open_nursery() as nursery:
        door = SharedSubmitting(HttpChain(("http://node",), TENANT, site.http))
        nursery.start_soon(door.run)
        good = [transaction(site, name) for name in ("a", "b")]
        strange = transaction(site, "c", sender="stranger")
        commits: list[Commit] = []
        refusals: list[RejectionError] = []

        async def submit(one: bytes) -> None:
            try:
                commits.append(await door.submit_and_wait(one))
            except RejectionError as error:
                refusals.append(error)

        async with trio.open_nursery() as senders:
            for one in (*good, strange):
                senders.start_soon(submit, one)
            await wait_all_tasks_blocked(0.01)
            assert {pending.transaction for pending in site.mempool.waiting()} == set(good)
            site.append(*good)
        assert {commit.height for commit in commits} == {1}
        assert len({commit.transaction_id for commit in commits}) == len(good)
        assert [error.reason for error in refusals] == [RejectionReason.NOT_GRANTED]
        nursery.cancel_scope.cancel()


async def test_what_no_block_carries_in_time_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_chain, "SUBMIT_WAIT_SECONDS", 0.01)
    async with open_site(tmp_path) as site, trio.open_nursery() as nursery:
        door = SharedSubmitting(HttpChain(("http://node",), TENANT, site.http))
        nursery.start_soon(door.run)
        late, commits = transaction(site, "a"), list[Commit]()

        async def submit() -> None:
            commits.append(await door.submit_and_wait(late))

        async with trio.open_nursery() as senders:
            senders.start_soon(submit)
            await wait_all_tasks_blocked(0.05)  # longer than the node was asked to hold it: another question waits
            assert (len(site.mempool), commits) == (1, [])
            site.append(late)
        assert [commit.refusal for commit in commits] == [None]
        again = await door.submit_and_wait(late)
        assert again == commits[0], "a copy is no error"
        nursery.cancel_scope.cancel()


async def test_what_does_not_fit_one_request_goes_in_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_chain, "MANY_BYTES_MAX", 500)
    monkeypatch.setattr(http_chain, "SUBMIT_WAIT_SECONDS", 0.0)
    async with open_site(tmp_path) as site:
        chain = HttpChain(("http://node",), TENANT, site.http)
        sent = [Submission(transaction=transaction(site, str(number)), records=()) for number in range(5)]
        assert await chain.submit_many(sent) == [None] * 5
        assert [pending.transaction for pending in site.mempool.waiting()] == [one.transaction for one in sent]
