"""Every question of the API against a small real chain: its shape, its limits, its errors."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import trio
import trio.testing
from msgspec.structs import replace
from starlette.types import Message, Scope

from consensus.blocks import header_hash
from consensus.chain import chain_rules
from consensus.encoding import encode
from consensus.genesis import genesis_hash
from consensus.identifiers import Height
from node.api import application
from node.api.answers import (
    BlockAnswer,
    EntriesAnswer,
    EntryAnswer,
    ErrorAnswer,
    EvidenceAnswer,
    FaultAnswer,
    FoundEntriesAnswer,
    FoundSegmentsAnswer,
    ProofAnswer,
    ReferenceAnswer,
    SeatsAnswer,
    SegmentAnswer,
    SenderAnswer,
    StatusAnswer,
    SubmitAnswer,
    TransactionAnswer,
)
from node.api.questions import FIND_BYTES_MAX, HEAD_BYTES_MAX
from node.client.chain import FOUND_MAX
from node.submission import SUBMISSION_BYTES_MAX, Submission, encode_submission
from storage.identifiers import VersionId
from storage.proofs import check_state_proof, check_transaction_proof, decode_state_proof, decode_transaction_proof
from storage.state import EntryState, SegmentState, decode_state, entry_key, segment_key
from storage.stores.blocks import ChainStore
from storage.stores.leveldb import LevelDatabase
from storage.transactions import DeleteEntries, EntryName, Extent, transaction_id
from tests.node.api.site import SEAT, Site, open_site, read
from tests.storage.ledger_world import (
    BUCKET,
    OTHER_TENANT,
    TENANT,
    World,
    entry,
    name_tag,
    segment_id,
    signing_key,
)

NOBODY = "00" * 16
NOTHING = "00" * 32
NO_ENTRY = EntryName(bucket_tag=BUCKET, name_tag=name_tag("nothing"), version_id=None)
CLIENT = signing_key("client").public.hex()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncGenerator[Site, None]:
    async with open_site(tmp_path) as opened:
        yield opened


def stored(world: World, *names: str) -> bytes:
    """Return a transaction that stores objects in a segment each."""
    segments = tuple(world.segment(name) for name in names)
    entries = [entry(name, Extent(segment=i, extent_bytes=10)) for i, name in enumerate(names)]
    return world.transaction(world.commit(segments, *entries))


def entry_path(name: str) -> str:
    return f"{TENANT.hex()}/{BUCKET.hex()}/{name_tag(name).hex()}"


MANY_ENTRIES = tuple(replace(NO_ENTRY, version_id=VersionId(number.to_bytes(16, "big"))) for number in range(200))
"""More than one small submission holds."""


async def test_no_question_waits_for_the_disk_in_the_trio_thread(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    transaction = stored(site.world, "a")
    site.append(transaction)
    own, threads, checked = threading.get_ident(), set[int](), set[int]()
    get, scan, check = LevelDatabase.get, LevelDatabase.scan, ChainStore.check_admissible

    def watched_check(store: ChainStore, encoded: bytes) -> None:
        checked.add(threading.get_ident())
        check(store, encoded)

    def watched_get(database: LevelDatabase, store_key: bytes) -> bytes | None:
        threads.add(threading.get_ident())
        return get(database, store_key)

    def watched_scan(
        database: LevelDatabase, prefix: bytes, *, start: bytes | None = None, rows_max: int
    ) -> list[tuple[bytes, bytes]]:
        threads.add(threading.get_ident())
        return scan(database, prefix, start=start, rows_max=rows_max)

    monkeypatch.setattr(LevelDatabase, "get", watched_get)
    monkeypatch.setattr(LevelDatabase, "scan", watched_scan)
    monkeypatch.setattr(ChainStore, "check_admissible", watched_check)
    named = transaction_id(transaction).hex()
    for path in (
        f"/v1/entries/{entry_path('a')}",
        f"/v1/entries?tenant={TENANT.hex()}",
        f"/v1/segments/{segment_id('a').hex()}",
        f"/v1/senders/{CLIENT}",
        f"/v1/transactions/{named}",
        f"/v1/transactions/{named}?wait_s=1",
        "/v1/blocks/1",
        f"/v1/proofs/transaction/{named}",
    ):
        threads.clear()
        assert (await site.http.get(path)).status_code == 200, path
        assert threads, path
        assert own not in threads, path
    for entries, is_small in (((NO_ENTRY,), True), (MANY_ENTRIES, False)):
        posted = site.world.transaction(DeleteEntries(tenant=TENANT, entries=entries))
        body = encode_submission(Submission(transaction=posted, records=()))
        checked.clear()
        assert (await site.http.post("/v1/transactions", content=body)).status_code == 202
        assert (own in checked) is is_small, "the check of a small one costs less than the way into a thread"


async def test_status_says_where_the_node_stands(site: Site) -> None:
    empty = await site.get("/v1/status", StatusAnswer)
    assert (empty.height, empty.block_hash) == (0, site.store.tip.block_hash.hex())
    site.append(stored(site.world, "a"))
    status = await site.get("/v1/status", StatusAnswer)
    assert (status.seat, status.operator, status.pid) == (SEAT, "operator 2", os.getpid())
    assert (status.chain_id, status.genesis_hash) == ("test", genesis_hash(site.world.genesis).hex())
    assert (status.height, status.block_hash) == (1, site.world.tip.block_hash.hex())
    assert status.state_root == site.world.tip.state_root.hex()
    assert (status.peers, status.signs_above, status.holder_bytes) == ([0, 3], 0, 12_345)
    assert (status.libp2p_port, status.shard_port, status.waiting_transactions) == (4001, 4002, 0)


async def test_seats_are_genesis_s(site: Site) -> None:
    seats = (await site.get("/v1/seats", SeatsAnswer)).seats
    assert [seat.seat for seat in seats] == [0, 1, 2, 3]
    assert seats[1].signing_key == signing_key("seat 1").public.hex()
    assert (seats[1].network_key, seats[1].api_port) == (signing_key("network 1").public.hex(), 8080)


async def test_evidence_and_the_suspension_that_follows_are_public(site: Site) -> None:
    assert (await site.get("/v1/evidence", EvidenceAnswer)).faults == []
    site.append(guilty=(2,))
    for _ in range(3):
        site.append()
    faults = (await site.get("/v1/evidence", EvidenceAnswer)).faults
    assert faults == [FaultAnswer(seat=2, kind="precommit", height=1, round=0, proven_at=1)]
    seats = (await site.get("/v1/seats", SeatsAnswer)).seats
    assert [seat.suspended for seat in seats] == [None, None, "guilty", None]


async def test_a_block_and_who_signed_it(site: Site) -> None:
    transaction = stored(site.world, "a")
    decided, _ = site.append(transaction)
    block = await site.get("/v1/blocks/1", BlockAnswer)
    assert block.block_hash == header_hash(decided.block.header).hex()
    assert (block.height, block.round, block.signers, block.evidence) == (1, 0, [0, 1, 2, 3], 0)
    assert block.transactions == [transaction_id(transaction).hex()]
    assert block.state_root == decided.block.header.state_root.hex()
    for height in ("0", "2", str(2**53 - 1), "9" * 16):
        await site.error(f"/v1/blocks/{height}", 404, "not_found")
    for height in ("-1", "1.0", "x", "1" * 17, "%C2%B2", "0x1"):
        await site.error(f"/v1/blocks/{height}", 400, "malformed")


async def test_raw_blocks_are_framed_and_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [encode(site.append(stored(site.world, f"{number}"))[0]) for number in range(4)]
    framed = [len(block).to_bytes(4, "big") + block for block in blocks]
    for query, expected in (
        ("", framed),
        ("?from=0", framed),
        ("?from=2&count=2", framed[1:3]),
        ("?from=5", []),
        ("?count=0", []),
        (f"?from=4&count={10**15}", framed[3:]),
    ):
        response = await site.http.get(f"/v1/raw/blocks{query}")
        assert (response.status_code, response.headers["content-type"]) == (200, "application/octet-stream")
        assert response.content == b"".join(expected)
    monkeypatch.setattr(application, "ANSWER_BYTES_MAX", len(blocks[0]) + len(blocks[1]) + 4 * 4)
    assert (await site.http.get("/v1/raw/blocks?count=4")).content == b"".join(framed[:2])
    monkeypatch.setattr(application, "RAW_BLOCKS_MAX", 1)
    assert (await site.http.get("/v1/raw/blocks?count=4")).content == framed[0]
    await site.error("/v1/raw/blocks?from=x", 400, "malformed")
    await site.error("/v1/raw/blocks?count=-1", 400, "malformed")


async def test_the_genesis_itself(site: Site) -> None:
    assert (await site.http.get("/v1/raw/genesis")).content == encode(site.world.genesis)


async def test_a_posted_transaction_waits_is_passed_on_and_found_once_decided(site: Site) -> None:
    body = DeleteEntries(
        tenant=TENANT, entries=(EntryName(bucket_tag=BUCKET, name_tag=name_tag("none"), version_id=None),)
    )
    transaction = site.world.transaction(body)
    content = encode_submission(Submission(transaction=transaction, records=()))
    answer = read(await site.http.post("/v1/transactions", content=content), SubmitAnswer, 202)
    assert answer.transaction_id == transaction_id(transaction).hex()
    assert [pending.transaction for pending in site.mempool.waiting()] == [transaction]
    place = f"/v1/transactions/{answer.transaction_id}"
    assert (await site.error(place, 404, "not_found")).detail.endswith("waits for a block")
    again = read(await site.http.post("/v1/transactions", content=content), ErrorAnswer, 409)
    assert (again.error, again.remedy.split(" ")[0]) == ("duplicate_transaction", "ask")
    async with trio.open_nursery() as nursery:
        found = list[TransactionAnswer]()

        async def wait() -> None:
            found.append(await site.get(f"{place}?wait_s=30", TransactionAnswer))

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert found == []
        site.append(transaction)
    assert found == [await site.get(place, TransactionAnswer)]
    assert (found[0].height, found[0].index, found[0].refusal) == (1, 0, None)
    assert found[0].failed_entries == [(0, "bucket_unknown")]
    assert (await site.get("/v1/status", StatusAnswer)).waiting_transactions == 0


async def test_what_cannot_be_posted_is_refused_by_reason(site: Site) -> None:
    for content, status, error in (
        (b"", 400, "malformed"),
        (b"\xc1", 400, "malformed"),
        (encode_submission(Submission(transaction=b"none", records=())), 400, "malformed"),
        (encode_submission(Submission(transaction=stored(site.world, "a"), records=())), 400, "bad_record"),
    ):
        answer = read(await site.http.post("/v1/transactions", content=content), ErrorAnswer, status)
        assert answer.error == error
        assert answer.remedy
    assert len(site.mempool) == 0
    stranger = site.world.transaction(
        DeleteEntries(tenant=TENANT, entries=(EntryName(bucket_tag=BUCKET, name_tag=name_tag("a"), version_id=None),)),
        sender="stranger",
    )
    content = encode_submission(Submission(transaction=stranger, records=()))
    answer = read(await site.http.post("/v1/transactions", content=content), ErrorAnswer, 403)
    assert answer.error == "not_granted"


async def test_waiting_for_a_transaction_ends(site: Site) -> None:
    await site.error(f"/v1/transactions/{NOTHING}?wait_s=0.01", 404, "not_found")
    for seconds in ("soon", "-1", "nan"):
        await site.error(f"/v1/transactions/{NOTHING}?wait_s={seconds}", 400, "malformed")
    for wrong in ("00", NOTHING + "00", "zz" * 32, NOTHING[:-1] + " "):
        await site.error(f"/v1/transactions/{wrong}", 400, "malformed")


async def test_the_numbers_a_sender_has_used(site: Site) -> None:
    assert (await site.get(f"/v1/senders/{CLIENT}", SenderAnswer)).sequences == []
    site.append(stored(site.world, "a"), stored(site.world, "b"))
    assert (await site.get(f"/v1/senders/{CLIENT}", SenderAnswer)).sequences == [1, 2]
    await site.error("/v1/senders/xyz", 400, "malformed")


async def test_an_entry_and_its_segment(site: Site) -> None:
    site.append(stored(site.world, "a"))
    found = await site.get(f"/v1/entries/{entry_path('a')}", EntryAnswer)
    assert (found.bucket, found.name, found.height) == (BUCKET.hex(), name_tag("a").hex(), 1)
    assert found.version_id == entry("a").version_id.hex()
    assert found.references == [ReferenceAnswer(segment_id=segment_id("a").hex(), offset=0, bytes=10)]
    segment = await site.get(f"/v1/segments/{segment_id('a').hex()}", SegmentAnswer)
    assert (segment.tenant, segment.k, segment.bytes) == (TENANT.hex(), 3, 1000)
    assert (segment.receipted, segment.references, len(segment.roots)) == ([0, 1, 2, 3], 1, 4)
    await site.error(f"/v1/entries/{entry_path('b')}", 404, "not_found")
    await site.error(f"/v1/entries/{NOBODY}/{NOBODY}/{NOBODY[2:]}", 400, "malformed")
    await site.error(f"/v1/segments/{NOTHING}", 404, "not_found")
    await site.error("/v1/segments/1", 400, "malformed")


async def listed(site: Site, query: str) -> list[str]:
    return [
        found.name for found in (await site.get(f"/v1/entries?tenant={TENANT.hex()}{query}", EntriesAnswer)).entries
    ]


async def test_entries_are_listed_in_order_page_by_page(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{number}" for number in range(7)]
    site.append(stored(site.world, *names))
    ordered = sorted(name_tag(name).hex() for name in names)
    bucket = f"&bucket={BUCKET.hex()}"
    assert await listed(site, "") == await listed(site, bucket) == ordered
    assert await listed(site, f"&bucket={NOBODY}") == []
    assert await listed(site, "&limit=3") == ordered[:3]
    assert await listed(site, "&limit=0") == ordered[:1]
    assert await listed(site, f"{bucket}&after={BUCKET.hex()}.{ordered[2]}&limit=3") == ordered[3:6]
    assert await listed(site, f"&after={BUCKET.hex()}.{ordered[6]}") == []
    assert await listed(site, f"{bucket}&after={NOBODY}.{NOBODY}") == ordered
    assert await listed(site, f"{bucket}&after={'ff' * 16}.{NOBODY}") == []
    for at_once, references, count in ((1, 100, 7), (2, 100, 7), (64, 3, 3), (1, 3, 3), (64, 0, 1)):
        monkeypatch.setattr(application, "LISTED_AT_ONCE", at_once)
        monkeypatch.setattr(application, "REFERENCES_MAX", references)
        assert await listed(site, "") == ordered[:count]
    other = await site.get(f"/v1/entries?tenant={OTHER_TENANT.hex()}", EntriesAnswer)
    assert other.entries == []


@pytest.mark.parametrize(
    "query", ["", "?tenant=00", f"?tenant={NOBODY}&bucket=", f"?tenant={NOBODY}&after=00", f"?tenant={NOBODY}&limit=x"]
)
async def test_a_listing_is_asked_for_properly(site: Site, query: str) -> None:
    await site.error(f"/v1/entries{query}", 400, "malformed")


async def test_many_entries_and_segments_are_found_at_once(site: Site) -> None:
    site.append(stored(site.world, "a", "b"))
    names = [[BUCKET.hex(), name_tag(name).hex()] for name in ("b", "none", "a")]
    response = await site.http.post("/v1/entries/find", json={"tenant": TENANT.hex(), "names": names})
    found = read(response, FoundEntriesAnswer).entries
    assert [None if one is None else one.name for one in found] == [names[0][1], None, names[2][1]]
    ids = [segment_id("a").hex(), NOTHING]
    segments = read(await site.http.post("/v1/segments/find", json={"segment_ids": ids}), FoundSegmentsAnswer).segments
    assert [None if one is None else one.segment_id for one in segments] == [ids[0], None]


async def test_a_head_is_bounded_whole(site: Site) -> None:
    most = HEAD_BYTES_MAX
    await site.error(f"/v1/status?{'q' * most}", 413, "oversized")
    padded = await site.http.get("/v1/status", headers={f"x-{i}": "v" * 4_000 for i in range(10)})
    assert read(padded, ErrorAnswer, 413).detail.endswith(f"bytes, {most} allowed")
    read(await site.http.get("/v1/status", headers={"x-1": "v" * (most - 1_000)}), StatusAnswer)


@pytest.mark.parametrize(
    ("path", "content", "status"),
    [
        ("/v1/entries/find", b"", 400),
        ("/v1/entries/find", b"[]", 400),
        ("/v1/entries/find", b'{"tenant": "00", "names": []}', 400),
        ("/v1/segments/find", b'{"segment_ids": ["00"]}', 400),
        ("/v1/segments/find", b'{"segment_ids": [' + b'"",' * FOUND_MAX + b'""]}', 400),
    ],
)
async def test_a_wrong_question_is_refused(site: Site, path: str, content: bytes, status: int) -> None:
    answer = read(await site.http.post(path, content=content), ErrorAnswer, status)
    assert answer.error == "malformed"


@pytest.mark.parametrize(
    ("path", "bytes_max"),
    [
        ("/v1/transactions", SUBMISSION_BYTES_MAX),
        ("/v1/entries/find", FIND_BYTES_MAX),
        ("/v1/segments/find", FIND_BYTES_MAX),
        ("/v1/versions/find", FIND_BYTES_MAX),
        ("/v1/buckets/find", FIND_BYTES_MAX),
    ],
)
async def test_a_body_without_end_is_read_to_its_bound_and_no_further(site: Site, path: str, bytes_max: int) -> None:
    """Whatever length it announces: this one announces none."""
    taken = 0
    sent = list[Message]()

    async def receive() -> Message:
        nonlocal taken
        await trio.lowlevel.checkpoint()
        taken += 65_536
        return {"type": "http.request", "body": bytes(65_536), "more_body": True}

    async def send(message: Message) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(message)

    scope: Scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b"", "root_path": ""}
    await site.application(scope, receive, send)
    assert sent[0]["status"] == 413
    assert b'"error":"oversized"' in sent[1]["body"]
    assert bytes_max < taken <= bytes_max + 65_536


async def test_proofs_convince_who_knows_the_members_alone(site: Site) -> None:
    members = chain_rules(site.world.genesis).members
    assert (await site.error(f"/v1/proofs/entry/{entry_path('a')}", 503, "unavailable")).remedy
    transaction = stored(site.world, "a")
    site.append(transaction)
    site.append()
    for name, state_key, kind in (
        (f"entry/{entry_path('a')}", entry_key(TENANT, BUCKET, name_tag("a")), EntryState),
        (f"segment/{segment_id('a').hex()}", segment_key(segment_id("a")), SegmentState),
        (f"state/{segment_key(segment_id('a')).hex()}", segment_key(segment_id("a")), SegmentState),
    ):
        answer = await site.get(f"/v1/proofs/{name}", ProofAnswer)
        raw = await site.http.get(f"/v1/proofs/{name}?raw=1")
        assert (raw.content, raw.headers["content-type"]) == (bytes.fromhex(answer.proof), "application/octet-stream")
        value = check_state_proof(decode_state_proof(raw.content), state_key, members)
        assert value is not None
        assert isinstance(decode_state(value, kind), kind)
        assert answer.height == 2
    absent = await site.http.get(f"/v1/proofs/entry/{entry_path('none')}?raw=1")
    assert (
        check_state_proof(decode_state_proof(absent.content), entry_key(TENANT, BUCKET, name_tag("none")), members)
        is None
    )
    carried = await site.http.get(f"/v1/proofs/transaction/{transaction_id(transaction).hex()}?raw=1")
    assert check_transaction_proof(decode_transaction_proof(carried.content), members) == transaction
    await site.error(f"/v1/proofs/transaction/{NOTHING}", 404, "not_found")
    for wrong in ("entry/00/00/00", "segment/00", "state/0", "state/" + "00" * 65, "state/zz", "transaction/00"):
        await site.error(f"/v1/proofs/{wrong}", 400, "malformed")


async def test_other_paths_and_methods_have_the_same_shape_of_error(site: Site) -> None:
    for path in ("/", "/v1", "/v1/none", "/v1/blocks/1/2", "/v1/raw/../status/x"):
        await site.error(path, 404, "not_found")
    for method, path in (("POST", "/v1/status"), ("DELETE", "/v1/transactions"), ("GET", "/v1/transactions")):
        answer = read(await site.http.request(method, path), ErrorAnswer, 405)
        assert answer.error == "bad_method"


async def test_a_height_is_a_number_of_this_chain(site: Site) -> None:
    site.append()
    assert (await site.get("/v1/blocks/01", BlockAnswer)).height == Height(1)
