"""The client against nine holders in memory: what it acknowledges, how it survives fires, what it reads back."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
import trio.lowlevel
import trio.testing

from consensus.errors import RejectionError
from node.client import shares
from node.client.chain import SegmentView
from node.client.client import Client
from node.client.errors import NotCommittedError, ObjectMissingError, TooFewHoldersError
from node.client.results import Acknowledgement
from node.client.sources import bytes_source
from storage.errors import NotEnoughShardsError, ShardMissingError
from storage.identifiers import PACK_OBJECT_BYTES_MAX, BucketTag, NameTag, SegmentId
from storage.state import entry_key
from tests.node.client.nine import Nine
from tests.node.jumps import pause

LARGE = 20 * 1024 * 1024 + 12_345
"""Two segments, the second partly filled."""


def contents(byte_count: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(byte_count)


async def put(client: Client, name: str, plain: bytes) -> Acknowledgement:
    return await client.put("bucket", name, bytes_source(plain))


def segment_of(nine: Nine, acknowledged: Acknowledgement) -> SegmentView:
    segment = nine.chain.segment_now(acknowledged.segment_ids[0])
    assert segment is not None, "committed"
    return segment


@pytest.fixture
def nine(tmp_path: Path) -> Nine:
    return Nine(tmp_path)


@pytest.fixture
def virtual_clock() -> trio.testing.MockClock:
    """Jump only once nothing has happened for 50 ms: worker threads are no reason to jump."""
    return trio.testing.MockClock(autojump_threshold=0.05)


@pytest.mark.parametrize(
    "byte_count", [0, 1, 1_000, 65_520, 65_521, PACK_OBJECT_BYTES_MAX - 1, PACK_OBJECT_BYTES_MAX, LARGE]
)
async def test_what_is_put_comes_back(nine: Nine, byte_count: int) -> None:
    plain = contents(byte_count)
    async with nine.client() as client:
        acknowledged = await put(client, "name", plain)
        assert (acknowledged.receipts, acknowledged.state) == (9, "sealed")
        assert await client.get("bucket", "name") == plain


async def test_a_record_that_nobody_serves_says_why(nine: Nine) -> None:
    async with nine.client() as client:
        await put(client, "name", b"x")
    for holder in nine.holders:
        holder.kill()
    async with nine.client() as client:
        with pytest.raises(ShardMissingError, match=r"^no live holder has record \w+: none answers \(seat 0: "):
            await client.get("bucket", "name")


async def test_any_range_of_an_object_can_be_read(nine: Nine) -> None:
    plain = contents(LARGE)
    places = random.Random(2)
    async with nine.client() as client:
        await put(client, "name", plain)
        for _ in range(20):
            first = places.randrange(LARGE)
            count = places.choice([1, 100, 70_000, 17_000_000])
            assert await client.get("bucket", "name", first, count) == plain[first : first + count]


async def test_small_objects_share_one_segment_and_one_transaction(nine: Nine) -> None:
    async with nine.client() as client:
        async with trio.open_nursery() as nursery:
            for i in range(100):
                nursery.start_soon(client.put, f"bucket-{i % 3}", f"name-{i}", bytes_source(contents(500 + i, i)))
        assert (len(nine.chain.live_segments()), nine.chain.height) == (1, 1)
        for i in range(100):
            assert await client.get(f"bucket-{i % 3}", f"name-{i}") == contents(500 + i, i)


async def test_writers_that_came_apart_are_committed_together_again(
    nine: Nine, virtual_clock: trio.testing.MockClock
) -> None:
    """A block costs the nine the same for one object as for many."""
    nine.chain.block_seconds = 0.2
    rounds, writers = 5, 8

    async def write(writer: int) -> None:
        await pause(0.1 * (writer % 2))  # half of them begin while the others wait for their block
        for number in range(rounds):
            await client.put("b", f"{writer}/{number}", bytes_source(contents(1_000)))

    async with nine.client() as client:
        virtual_clock.autojump_threshold = 0.02
        async with trio.open_nursery() as nursery:
            for writer in range(writers):
                nursery.start_soon(write, writer)
    assert len(nine.chain.commits) <= rounds + 1


async def test_small_reads_of_one_holder_are_asked_together(nine: Nine) -> None:
    async with nine.client() as client:
        async with trio.open_nursery() as nursery:
            for i in range(100):
                nursery.start_soon(client.put, "bucket", f"{i}", bytes_source(contents(10_000, i)))
        nine.holders[5].lying = True

        async def read(i: int) -> None:
            assert await client.get("bucket", f"{i}") == contents(10_000, i)

        async with trio.open_nursery() as nursery:
            for i in range(100):
                nursery.start_soon(read, i)
        assert set(client.pool.faults()) <= {5}, "who lies is named, whoever shared its answer"
    asked = [count for holder in nine.holders for count in holder.places_asked]
    assert max(asked) > 4
    assert len(asked) < sum(asked) / 2


async def test_one_name_put_twice_at_once_keeps_one_of_both(nine: Nine) -> None:
    async with nine.client() as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(put, client, "name", b"one")
            nursery.start_soon(put, client, "name", b"two")
        assert await client.get("bucket", "name") in {b"one", b"two"}


async def test_three_seats_die_in_the_middle_of_a_write_and_k_steps_down(nine: Nine) -> None:
    plain = contents(3_000_000)
    async with nine.client() as client:
        await put(client, "before", plain)
        for seat in (2, 5, 8):
            nine.holders[seat].dies_after_pieces = 0
        acknowledged = await put(client, "after", plain)
        assert acknowledged.receipts == 6
        segment = segment_of(nine, acknowledged)
        assert segment.k == 4, "min(n - u, live - r) with six live"
        assert await client.get("bucket", "before") == plain
        assert await client.get("bucket", "after") == plain


async def test_holders_that_refuse_are_absent_for_the_budget(nine: Nine) -> None:
    async with nine.client() as client:
        for seat in (0, 1):
            nine.holders[seat].full = True
        await put(client, "seven", contents(LARGE))
        assert {segment.k for segment in nine.chain.live_segments()} == {5}


async def test_seats_that_die_before_their_receipts_cost_a_new_coding_from_what_is_stored(
    nine: Nine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "RETAINED_BYTES_MAX", 0)
    plain = contents(LARGE)
    async with nine.client() as client:
        for seat in (2, 5, 8):
            nine.holders[seat].dies_when_asked = True
        acknowledged = await put(client, "name", plain)
        assert acknowledged.receipts == 6
        assert {segment.k for segment in nine.chain.live_segments()} == {4}
        assert await client.get("bucket", "name") == plain


async def test_a_stuck_holder_is_waited_for_half_a_second_only(
    nine: Nine, virtual_clock: trio.testing.MockClock
) -> None:
    async with nine.client() as client:
        nine.holders[4].stuck = True
        began = trio.current_time()
        acknowledged = await put(client, "name", contents(1_000))
        assert acknowledged.receipts == 8
        assert trio.current_time() - began < 1.0


async def test_a_holder_that_sticks_for_good_delays_one_write(
    nine: Nine, virtual_clock: trio.testing.MockClock
) -> None:
    async with nine.client() as client:
        nine.holders[4].hangs_at_writes = True
        delays: list[float] = []
        for number in range(5):
            began = trio.current_time()
            assert (await put(client, f"{number}", contents(1_000))).receipts == 8
            delays.append(trio.current_time() - began)
            await pause(1.0)
        assert [delay > 0.4 for delay in delays] == [True] + [False] * 4
        nine.holders[4].hangs_at_writes = False
        await pause(12.0)
        assert (await put(client, "again", contents(1_000))).receipts == 9


async def test_a_write_waits_for_a_holder_that_is_back_within_moments(
    nine: Nine, virtual_clock: trio.testing.MockClock
) -> None:
    plain = contents(200_000)
    async with nine.client() as client:
        for seat in (0, 2, 5, 8):
            nine.holders[seat].kill()
        nine.holders[0].back_after_dials = 3
        assert (await put(client, "kept", plain)).receipts == 6


async def test_fewer_than_six_live_holders_refuse_writes_and_serve_reads(
    nine: Nine, virtual_clock: trio.testing.MockClock
) -> None:
    plain = contents(200_000)
    async with nine.client() as client:
        for seat in (2, 5, 8):
            nine.holders[seat].kill()
        await put(client, "kept", plain)
        nine.holders[0].kill()
        with pytest.raises(
            TooFewHoldersError,
            match=r"5 holders answer and a write needs 6: .* \(seat 0: .*; seat 2: .*; seat 5: .*; seat 8: ",
        ):
            await put(client, "refused", plain)
        assert await client.get("bucket", "kept") == plain
        nine.holders[1].kill()
        nine.holders[3].kill()
        with pytest.raises(NotEnoughShardsError, match="4 columns needed, 3 available"):
            await client.get("bucket", "kept")


async def test_columns_of_absent_holders_are_stored_when_they_are_back(
    nine: Nine, virtual_clock: trio.testing.MockClock
) -> None:
    plain = contents(2_000_000)
    async with nine.client() as client:
        for seat in (1, 7):
            nine.holders[seat].burn()
        acknowledged = await put(client, "name", plain)
        assert (acknowledged.receipts, acknowledged.state) == (7, "certified")
        assert not await client.wait_sealed(acknowledged.segment_ids, 1.0)
        for seat in (1, 7):
            nine.holders[seat].start()
        assert await client.wait_sealed(acknowledged.segment_ids)
        assert len(segment_of(nine, acknowledged).receipted) == 9
        assert not list(nine.home.spool.iterdir())


async def test_what_one_client_spooled_the_next_one_stores(nine: Nine, virtual_clock: trio.testing.MockClock) -> None:
    nine.holders[3].kill()
    async with nine.client() as client:
        acknowledged = await put(client, "name", contents(5_000))
    nine.holders[3].start()
    async with nine.client() as client:
        assert await client.wait_sealed(acknowledged.segment_ids)
    assert len(segment_of(nine, acknowledged).receipted) == 9


async def test_a_lying_holder_is_read_around_and_named(nine: Nine) -> None:
    plain = contents(LARGE)
    async with nine.client() as client:
        await put(client, "name", plain)
        for seat in (0, 6):
            nine.holders[seat].lying = True
        assert await client.get("bucket", "name") == plain
        assert {0, 6} & client.pool.faults().keys()
        assert client.pool.faults().keys() <= {0, 6}


async def test_a_holder_that_sticks_is_read_around(nine: Nine, virtual_clock: trio.testing.MockClock) -> None:
    virtual_clock.autojump_threshold = 0.5  # 60 MiB are coded, opened and restored in threads
    plain = contents(LARGE)
    async with nine.client() as client:
        await put(client, "name", plain)
        for seat in (0, 3, 6):
            nine.holders[seat].stuck = True
        began = trio.current_time()
        assert await client.get("bucket", "name") == plain
        assert trio.current_time() - began < 2.0


async def test_listing_opens_names_by_prefix(nine: Nine) -> None:
    async with nine.client() as client:
        for bucket, name in (("a", "x/1"), ("a", "x/2"), ("a", "y"), ("b", "x/1")):
            await client.put(bucket, name, bytes_source(b"contents"))
        assert sorted([listed.path async for listed in client.listing("a", "x/")]) == ["a/x/1", "a/x/2"]
        assert sorted([listed.path async for listed in client.listing()]) == ["a/x/1", "a/x/2", "a/y", "b/x/1"]


async def test_deleted_objects_are_gone(nine: Nine) -> None:
    async with nine.client() as client:
        await put(client, "name", b"contents")
        await client.delete("bucket", ["name"])
        with pytest.raises(ObjectMissingError, match="no object bucket/name"):
            await client.get("bucket", "name")


async def test_a_condition_that_fails_is_reported_and_changes_nothing(nine: Nine) -> None:
    async with nine.client() as client:
        await put(client, "name", b"first")
        with pytest.raises(NotCommittedError, match="refused by the chain: condition_failed"):
            await client.put("bucket", "name", bytes_source(b"second"), condition=b"")
        assert await client.get("bucket", "name") == b"first"


async def test_stat_counts_the_columns_that_answer_now(nine: Nine) -> None:
    async with nine.client() as client:
        await put(client, "name", contents(300_000))
        whole = await client.stat(await client.open("bucket", "name"))
        assert (whole.state, whole.k, whole.columns_live) == ("sealed", 6, 9)
        nine.holders[0].kill()
        nine.holders[1].shards.clear()
        nine.holders[2].lying = True
        damaged = await client.stat(await client.open("bucket", "name"))
        assert (damaged.state, damaged.columns_live) == ("sealed", 6)
        assert {column.seat: column.state for column in damaged.segments[0].columns if column.state != "stored"} == {
            0: "down",
            1: "missing",
            2: "missing",
        }


async def test_an_object_is_proven_from_the_members_signatures(nine: Nine) -> None:
    async with nine.client() as client:
        await put(client, "name", contents(100_000))
        proven = await client.verify("bucket", "name")
        assert (proven.signers, proven.status.columns_live) == (6, 9)
        with pytest.raises(ObjectMissingError, match="no object bucket/other: its absence is proven"):
            await client.verify("bucket", "other")


async def test_a_node_that_proves_another_state_is_refused(nine: Nine, monkeypatch: pytest.MonkeyPatch) -> None:
    async with nine.client() as client:
        await put(client, "name", contents(100_000))
        honest = await nine.chain.proof(entry_key(nine.home.tenant, BucketTag(bytes(16)), NameTag(bytes(16))))

        async def other_proof(_state_key: bytes) -> bytes:
            return honest

        monkeypatch.setattr(nine.chain, "proof", other_proof)
        with pytest.raises(RejectionError, match="bad_proof"):
            await client.verify("bucket", "name")


async def test_receipts_are_told_as_the_chain_has_them_by_now(nine: Nine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[SegmentId]()
    find = nine.chain.find_segments

    async def counted(segment_ids: Sequence[SegmentId]) -> tuple[SegmentView | None, ...]:
        asked.extend(segment_ids)
        return await find(segment_ids)

    monkeypatch.setattr(nine.chain, "find_segments", counted)
    nine.holders[2].kill()
    async with nine.client() as client:
        (segment_id,) = (await put(client, "name", contents(PACK_OBJECT_BYTES_MAX))).segment_ids
        assert {await client.receipts(segment_id) for _ in range(100)} == {(8, 9)}
        assert len(asked) <= 10, "not once a read"
        nine.holders[2].start()
        assert await client.wait_sealed([segment_id])
        with trio.fail_after(10.0):
            while await client.receipts(segment_id) != (9, 9):
                await trio.lowlevel.checkpoint()
        asked.clear()
        assert await client.receipts(segment_id) == (9, 9)
        assert asked == []
