"""An export is believed byte by byte or refused at its height."""

from __future__ import annotations

import io
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.encoding import encode
from consensus.errors import RejectionReason
from consensus.genesis import genesis_hash
from consensus.identifiers import GenesisHash, Height, MemberIndex
from node.replay import LENGTH, MAGIC, ReplayError, ReplayReport, replay
from tests.node.small_chain import exported, small_chain, small_genesis

BLOCKS = 6


@cache
def whole_export() -> bytes:
    genesis = small_genesis()
    return exported(genesis, small_chain(genesis, BLOCKS))


def run(export: bytes, pinned: GenesisHash | None = None) -> ReplayReport:
    return replay(io.BytesIO(export), pinned)


def refusal(export: bytes, pinned: GenesisHash | None = None) -> ReplayError:
    with pytest.raises(ReplayError) as caught:
        run(export, pinned)
    return caught.value


def test_an_honest_export_is_counted() -> None:
    report = run(whole_export(), genesis_hash(small_genesis()))
    assert (report.height, report.transactions, report.refused_transactions) == (BLOCKS, 3, 0)
    assert report.rounds_above_zero == 2
    assert [report.signatures[MemberIndex(seat)] for seat in range(9)] == [BLOCKS] * 6 + [0] * 3
    assert not report.faults


def test_another_genesis_than_the_pinned_one_is_refused() -> None:
    error = refusal(whole_export(), GenesisHash(bytes(32)))
    assert (error.height, error.rule) == (0, RejectionReason.BAD_GENESIS)


def test_a_block_left_out_is_refused_at_its_height() -> None:
    genesis = small_genesis()
    chain = small_chain(genesis, BLOCKS)
    error = refusal(exported(genesis, (*chain[:2], *chain[3:])))
    assert (error.height, error.rule) == (3, RejectionReason.WRONG_HEIGHT)


def test_a_decision_above_round_zero_without_its_polkas_is_refused() -> None:
    genesis = small_genesis()
    chain = list(small_chain(genesis, 3))
    bare = type(chain[2])(block=chain[2].block, commit=chain[2].commit, polkas=())
    error = refusal(exported(genesis, (*chain[:2], bare)))
    assert (error.height, error.rule) == (3, RejectionReason.MISSING_POLKA)


def test_an_export_with_fewer_blocks_than_its_trailer_counts_is_refused() -> None:
    genesis = small_genesis()
    chain = small_chain(genesis, 3)
    last = LENGTH.pack(len(encode(chain[2]))) + encode(chain[2])
    error = refusal(exported(genesis, chain).replace(last, b""))
    assert (error.height, error.detail) == (2, "the trailer counts 3 blocks, here 2")


def test_another_file_is_no_export() -> None:
    error = refusal(b"x" * 100)
    assert (error.height, error.detail) == (0, "this is no export of a chain")


@given(st.data())
def test_any_changed_byte_is_refused_where_it_stands(data: st.DataObject) -> None:
    export = bytearray(whole_export())
    position = data.draw(st.integers(0, len(export) - 1))
    export[position] ^= data.draw(st.integers(1, 255))
    error = refusal(bytes(export))
    assert error.height <= height_at(position) + 1


@given(st.data())
def test_any_cut_is_refused(data: st.DataObject) -> None:
    export = whole_export()
    cut = data.draw(st.integers(0, len(export) - 1))
    assert refusal(export[:cut]).height <= height_at(cut)


@given(st.data(), st.binary(min_size=1, max_size=8))
def test_anything_inserted_is_refused(data: st.DataObject, inserted: bytes) -> None:
    export = whole_export()
    position = data.draw(st.integers(0, len(export)))
    changed = export[:position] + inserted + export[position:]
    if changed != export:
        assert refusal(changed).height <= BLOCKS + 1


def height_at(position: int) -> Height:
    """Return the height whose block, with its length, holds a position of the export; 0 in genesis."""
    export, place, height = whole_export(), len(MAGIC), 0
    while place <= position:
        (byte_count,) = LENGTH.unpack(export[place : place + LENGTH.size])
        place += LENGTH.size + byte_count
        if place > position or byte_count == 0:
            break
        height += 1
    return Height(height)
