"""Entries come back, a torn tail gives a prefix, and damage is never taken for a tear."""

from __future__ import annotations

import struct

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from node.entry_file import ENTRY_END, DamagedEntryError, EntryReader, frame_entry, overhead_bytes

HEAD = struct.Struct(">IB")
PAYLOADS = st.lists(st.binary(max_size=40) | st.integers(0, 20).map(bytes), max_size=6)


def encoded(payloads: list[bytes]) -> bytes:
    return b"".join(frame_entry(HEAD.pack(len(payload), 7), payload) for payload in payloads)


def read_all(content: bytes) -> list[bytes]:
    reader, offset, found_payloads = EntryReader(content, HEAD, 40), 0, list[bytes]()
    while (found := reader.read(offset)) is not None:
        assert found.fields == (len(found.payload), 7)
        found_payloads.append(found.payload)
        offset = found.end
    return found_payloads


@given(PAYLOADS)
def test_what_was_written_comes_back(payloads: list[bytes]) -> None:
    assert read_all(encoded(payloads)) == payloads


@given(PAYLOADS, st.integers(0, 400), st.integers(0, 400))
def test_a_tear_at_any_byte_with_any_number_of_zeros_behind_gives_the_whole_entries(
    payloads: list[bytes], cut: int, zeros: int
) -> None:
    content = encoded(payloads)
    ends = [len(encoded(payloads[: i + 1])) - len(ENTRY_END) for i in range(len(payloads))]
    cut = min(cut, len(content))
    whole = sum(end <= cut for end in ends)
    found = read_all(content[:cut] + bytes(zeros))
    assert found[:whole] == payloads[:whole]
    # Cut just where the missing bytes were zeros themselves, an entry is there in full.
    assert found == payloads[: len(found)]


@given(PAYLOADS, st.data())
def test_a_changed_byte_is_damage_or_leaves_all_entries_as_they_were(
    payloads: list[bytes], data: st.DataObject
) -> None:
    assume(payloads)
    content = bytearray(encoded(payloads))
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    try:
        found = read_all(bytes(content))
    except DamagedEntryError:
        return
    assert found == payloads
    assert position == len(content) - 1, "the last byte alone, turned into a zero, may be a tear"


@given(PAYLOADS, st.data())
def test_a_burst_of_damage_inside_the_file_never_gives_fewer_entries(
    payloads: list[bytes], data: st.DataObject
) -> None:
    assume(payloads)
    content = bytearray(encoded(payloads))
    start = data.draw(st.integers(0, len(content) - 2))
    stop = data.draw(st.integers(start + 1, len(content) - 1))
    before = bytes(content[start:stop])
    content[start:stop] = data.draw(
        st.binary(min_size=stop - start, max_size=stop - start) | st.just(bytes(stop - start))
    )
    assume(bytes(content[start:stop]) != before)
    with pytest.raises(DamagedEntryError):
        read_all(bytes(content))


def test_an_entry_longer_than_any_is_damage() -> None:
    with pytest.raises(DamagedEntryError, match="41 bytes, at most 40"):
        read_all(encoded([bytes(41)]))


def test_an_entry_costs_its_head_two_checksums_and_an_end() -> None:
    assert len(encoded([b""])) == overhead_bytes(HEAD) == HEAD.size + 16
