"""Webhooks are told at least once, in order per name, whatever they answer first, and after a restart too."""

from __future__ import annotations

from pathlib import Path

import httpx
import msgspec
import trio
from trio.testing import MockClock

from node.clock import now_ms
from node.gateway.notifications import Event, Outbox, wanted_by
from node.gateway.settings import NOTIFICATIONS, NotificationRule, Notifications, encode_setting
from node.gateway.store import Bucket


class Webhook:
    """Takes events once it has refused so many."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.taken: list[tuple[str, str]] = []
        self.all_taken = trio.Event()
        self.wanted = 0

    def answer(self, request: httpx.Request) -> httpx.Response:
        if self.refusals:
            self.refusals -= 1
            return httpx.Response(503)
        record = msgspec.json.decode(request.content)["Records"][0]
        self.taken.append((record["s3"]["object"]["key"], record["s3"]["object"]["eTag"]))
        if len(self.taken) >= self.wanted:
            self.all_taken.set()
        return httpx.Response(200)


def event(name: str, etag: str) -> Event:
    return Event(
        url="http://hook.example/",
        rule_name="r",
        event_name="ObjectCreated:Put",
        bucket="b",
        name=name,
        time_ms=now_ms(),
        etag=etag,
    )


async def test_events_of_a_name_arrive_in_order_however_often_the_webhook_refuses(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    hook = Webhook(refusals=7)
    hook.wanted = 6
    async with httpx.AsyncClient(transport=httpx.MockTransport(hook.answer)) as http:
        outbox = Outbox(tmp_path, http)
        await outbox.add([event(name, str(number)) for number in range(3) for name in ("x", "y")])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outbox.run)
            await hook.all_taken.wait()
            nursery.cancel_scope.cancel()
        outbox.close()
    for name in ("x", "y"):
        assert [etag for taken, etag in hook.taken if taken == name] == ["0", "1", "2"]


async def test_what_was_not_taken_is_posted_after_a_restart(tmp_path: Path) -> None:
    hook = Webhook(refusals=0)
    hook.wanted = 1
    async with httpx.AsyncClient(transport=httpx.MockTransport(hook.answer)) as http:
        outbox = Outbox(tmp_path, http)
        await outbox.add([event("x", "0")])
        outbox.close()
        outbox = Outbox(tmp_path, http)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outbox.run)
            await hook.all_taken.wait()
            nursery.cancel_scope.cancel()
        outbox.close()
    assert hook.taken == [("x", "0")]


def test_rules_choose_by_event_prefix_and_suffix() -> None:
    rule = NotificationRule(rule_name="r", url="http://h/", events=("s3:ObjectCreated:*",), prefix="in/", suffix=".jpg")
    bucket = Bucket(name="b", created_ms=0, settings={NOTIFICATIONS: encode_setting(Notifications(rules=(rule,)))})
    assert wanted_by(bucket, "ObjectCreated:Put", "in/a.jpg") == [rule]
    assert wanted_by(bucket, "ObjectCreated:Put", "in/a.png") == []
    assert wanted_by(bucket, "ObjectRemoved:Delete", "in/a.jpg") == []
    assert wanted_by(Bucket(name="b", created_ms=0), "ObjectCreated:Put", "in/a.jpg") == []
