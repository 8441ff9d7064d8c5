"""A pass takes the time it has, whatever the store's size, and is counted exactly, whatever its steps."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from consensus.identifiers import Milliseconds
from storage.identifiers import ColumnIndex, SegmentId
from storage.scrubbing import (
    BYTES_PER_S_MAX,
    BYTES_PER_S_MIN,
    NEVER_SCRUBBED,
    PASS_S,
    REST_S,
    ScrubCounts,
    ShardRef,
    Step,
    after_step,
    begin_pass,
    bytes_per_s,
    decode_scrub,
    encode_scrub,
    end_pass,
    wait_s,
    without_suspects,
)

TIB = 1 << 40
DAY_MS = 86_400_000


def shard(number: int) -> ShardRef:
    return ShardRef(segment_id=SegmentId(number.to_bytes(32, "big")), column=ColumnIndex(3))


def step(number: int, *, shard_bytes: int = 1 << 20, damaged: int = 0) -> Step:
    return Step(
        place=shard(number),
        is_last=False,
        counts=ScrubCounts(shards=1, shard_bytes=shard_bytes, damaged=damaged),
        damaged=tuple(shard(number) for _ in range(damaged)),
    )


@given(st.integers(1, 40 * TIB), st.integers(0, 10 * DAY_MS))
def test_a_store_of_up_to_forty_tebibytes_is_reread_within_seven_days(held_bytes: int, standstill_ms: int) -> None:
    """Two days of standing still at its worst moment, the beginning, included."""
    state = begin_pass(NEVER_SCRUBBED, held_bytes, Milliseconds(0))
    late = Milliseconds(min(standstill_ms, 2 * DAY_MS))
    rate = bytes_per_s(state, late)
    assert BYTES_PER_S_MIN <= rate <= BYTES_PER_S_MAX
    assert late / 1000 + held_bytes / rate <= 7 * 86_400


def test_the_rate_rises_when_the_pass_is_late_and_stays_bounded() -> None:
    state = begin_pass(NEVER_SCRUBBED, 10 * TIB, Milliseconds(0))
    rates = [bytes_per_s(state, Milliseconds(day * DAY_MS)) for day in range(10)]
    assert rates == sorted(rates)
    assert rates[0] == 10 * TIB / PASS_S
    assert rates[-1] == BYTES_PER_S_MAX
    done = after_step(state, step(1, shard_bytes=10 * TIB))
    assert bytes_per_s(done, Milliseconds(0)) == BYTES_PER_S_MIN


def test_the_next_pass_begins_a_day_after_the_last_began() -> None:
    assert wait_s(NEVER_SCRUBBED, Milliseconds(10**12)) == 0
    running = begin_pass(NEVER_SCRUBBED, 0, Milliseconds(1_000))
    assert wait_s(running, Milliseconds(2_000)) == 0, "one that a restart has interrupted goes on"
    ended = end_pass(running, 0, Milliseconds(2_000))
    assert wait_s(ended, Milliseconds(2_000)) == REST_S - 1
    assert wait_s(ended, Milliseconds(1_000 + DAY_MS)) == 0


def test_a_pass_counts_and_its_end_is_kept_while_the_next_one_runs() -> None:
    state = begin_pass(NEVER_SCRUBBED, 5, Milliseconds(1_000))
    for number in range(5):
        state = after_step(state, step(number, damaged=number % 2))
    assert state.place == shard(4)
    assert state.suspects == (shard(1), shard(3))
    state = end_pass(without_suspects(state, [shard(1)]), 7, Milliseconds(9_000))
    assert state.suspects == (shard(3),)
    assert state.last is not None
    assert state.last.counts == ScrubCounts(shards=5, shard_bytes=5 << 20, damaged=2, orphans=7)
    again = begin_pass(state, 6, Milliseconds(10_000))
    assert (again.last, again.passes, again.place, again.counts) == (state.last, 1, None, ScrubCounts())
    assert again.suspects == state.suspects


@given(st.integers(0, 5), st.integers(0, 2**50))
def test_it_comes_back_from_the_disk_as_it_was(damaged: int, now_ms: int) -> None:
    state = begin_pass(NEVER_SCRUBBED, 1, Milliseconds(now_ms))
    for number in range(damaged):
        state = after_step(state, step(number, damaged=1))
    assert decode_scrub(encode_scrub(state)) == state
