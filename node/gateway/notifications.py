"""Tells webhooks what happened to objects: at least once, in order per name, tried again until taken or too old.

An event is made by the gateway that carried a request out, once the ledger has taken it, and is written to the outbox
on this gateway's disk before the answer leaves: a gateway that was killed goes on where it stopped. What is posted is
the JSON of S3's events ("Records"), one event a POST. 2xx takes it; anything else is tried again with growing pauses,
events of one bucket and name behind each other. After GIVE_UP_S an event is dropped and the log says so.

The outbox: a LevelDB of the event's place (8 bytes, growing) to its JSON and the address.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import httpx
import msgspec
import trio

from node.clock import now_ms
from node.gateway import settings as kept
from node.gateway.markup import shown_time
from node.gateway.settings import Notifications, read_setting
from node.gateway.signatures import REGION
from storage.stores.leveldb import MIB, Durability, LevelDatabase, LevelOptions, WriteBatch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from node.gateway.settings import NotificationRule
    from node.gateway.store import Bucket

LOGGER: Final = logging.getLogger(__name__)
OPTIONS: Final = LevelOptions(write_buffer_bytes=MIB, cache_bytes=MIB, reserve_bytes=0)
PLACE_BYTES: Final = 8
POSTED_AT_ONCE: Final = 16
LOOKED_AT: Final = 512
"""Events considered at a time, the oldest first."""
ANSWER_SECONDS: Final = 5.0
RETRY_SECONDS_MIN: Final = 0.5
RETRY_SECONDS_MAX: Final = 60.0
GIVE_UP_S: Final = 24 * 3_600.0
TAKEN_FROM: Final = 200
TAKEN_BELOW: Final = 300


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened to one object."""

    url: str
    rule_name: str
    event_name: str
    """Such as ObjectCreated:Put."""
    bucket: str
    name: str
    time_ms: int
    plain_bytes: int = 0
    etag: str = ""
    version_id: str = ""

    @property
    def order(self) -> tuple[str, str, str]:
        """Return what events must stay in order with: those of the same name, to the same address."""
        return self.url, self.bucket, self.name


@dataclass(slots=True)
class _Trial:
    """An event that was not taken yet."""

    pause_s: float = RETRY_SECONDS_MIN
    next_s: float = 0.0


class Outbox:
    """Events on their way to webhooks; one gateway's."""

    def __init__(self, directory: Path, http: httpx.AsyncClient) -> None:
        """Open the outbox; blocks.

        Raises:
            StoreUnavailableError: In use, or the disk refuses.
        """
        self._database = LevelDatabase(directory, OPTIONS)
        self._http = http
        last = self._database.last_store_key()
        self._next_place = 0 if last is None else int.from_bytes(last, "big") + 1
        self._trials: dict[bytes, _Trial] = {}
        self._news = trio.Event()

    def close(self) -> None:
        """Release the directory."""
        self._database.close()

    async def add(self, events: Sequence[Event]) -> None:
        """Keep events until they are taken; on disk when this returns."""
        if not events:
            return
        batch = WriteBatch()
        for event in events:
            batch.put(self._next_place.to_bytes(PLACE_BYTES, "big"), msgspec.json.encode(event))
            self._next_place += 1
        await trio.to_thread.run_sync(lambda: self._database.write(batch, durability=Durability.FLUSHED))
        self._news.set()

    async def run(self) -> None:
        """Post events until cancelled."""
        while True:
            self._news = trio.Event()
            wait_s = await self._round()
            with trio.move_on_after(wait_s):
                await self._news.wait()

    async def _round(self) -> float:
        """Post what is due, the first event of each order; return how long nothing else is."""
        rows = await trio.to_thread.run_sync(lambda: self._database.scan(b"", rows_max=LOOKED_AT))
        now = trio.current_time()
        heads: dict[tuple[str, str, str], tuple[bytes, Event]] = {}
        for place, encoded in rows:
            event = msgspec.json.decode(encoded, type=Event)
            heads.setdefault(event.order, (place, event))
        due = [head for head in heads.values() if self._trials.setdefault(head[0], _Trial()).next_s <= now]
        async with trio.open_nursery() as nursery:
            for place, event in due[:POSTED_AT_ONCE]:
                nursery.start_soon(self._post, place, event)
        if due:
            return 0.0
        waits = [self._trials[place].next_s - now for place, _ in heads.values()]
        return max(0.0, min(waits, default=RETRY_SECONDS_MAX))

    async def _post(self, place: bytes, event: Event) -> None:
        is_taken = False
        try:
            answer = await self._http.post(event.url, json=shown_event(event), timeout=ANSWER_SECONDS)
            is_taken = TAKEN_FROM <= answer.status_code < TAKEN_BELOW
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            LOGGER.info("webhook of rule %s: %s", event.rule_name, error)
        trial = self._trials[place]
        is_old = now_ms() - event.time_ms > GIVE_UP_S * 1_000
        if is_taken or is_old:
            if not is_taken:
                LOGGER.warning("an event of rule %s was never taken and is dropped", event.rule_name)
            del self._trials[place]
            batch = WriteBatch()
            batch.delete(place)
            await trio.to_thread.run_sync(lambda: self._database.write(batch, durability=Durability.BUFFERED))
            return
        trial.next_s = trio.current_time() + trial.pause_s
        trial.pause_s = min(RETRY_SECONDS_MAX, 2 * trial.pause_s)


def wanted_by(bucket: Bucket, event_name: str, name: str) -> list[NotificationRule]:
    """Return the rules of a bucket that want to hear of an event."""
    found = read_setting(bucket.settings, kept.NOTIFICATIONS, Notifications)
    return [
        rule
        for rule in (() if found is None else found.rules)
        if name.startswith(rule.prefix)
        and name.endswith(rule.suffix)
        and any(_fits(pattern, event_name) for pattern in rule.events)
    ]


def shown_event(event: Event) -> dict[str, object]:
    """Return an event as S3 writes it."""
    s3_object: dict[str, object] = {
        "key": quote(event.name),
        "size": event.plain_bytes,
        "eTag": event.etag,
        "sequencer": f"{event.time_ms:016X}",
    }
    if event.version_id:
        s3_object["versionId"] = event.version_id
    record = {
        "eventVersion": "2.2",
        "eventSource": "grandest:s3",
        "awsRegion": REGION,
        "eventTime": shown_time(event.time_ms),
        "eventName": event.event_name,
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": event.rule_name,
            "bucket": {"name": event.bucket, "arn": f"arn:aws:s3:::{event.bucket}"},
            "object": s3_object,
        },
    }
    return {"Records": [record]}


def _fits(pattern: str, event_name: str) -> bool:
    wanted = pattern.removeprefix("s3:")
    return event_name.startswith(wanted[:-1]) if wanted.endswith("*") else wanted == event_name
