"""A state cut into cells: every honest node makes the same ones, and no piece of another state passes."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from consensus.encoding import encode
from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import Height
from storage.snapshots import (
    BUCKETS,
    Cell,
    PathRow,
    SnapshotManifest,
    SnapshotPiece,
    bucket_of,
    cell_starts,
    check_piece,
    cut_state,
    decode_manifest,
    decode_piece,
    encode_piece,
    manifest_root,
    path_row,
)
from storage.state import MemoryState
from storage.state_tree import EMPTY, EMPTY_ROOT, update

if TYPE_CHECKING:
    from collections.abc import Mapping

ROWS = st.dictionaries(st.binary(min_size=1, max_size=4), st.binary(max_size=40), max_size=60)
PIECE_BYTES = st.integers(1, 400)


def cut(values: Mapping[bytes, bytes], piece_bytes_max: int) -> tuple[SnapshotManifest, list[SnapshotPiece]]:
    buckets: list[list[PathRow]] = [[] for _ in range(BUCKETS)]
    for state_key, value in values.items():
        row = path_row(state_key, value)
        buckets[bucket_of(row)].append(row)
    sizes = [sum(row.byte_count for row in rows) for rows in buckets]
    made = list(cut_state(sizes, buckets.__getitem__, piece_bytes_max))
    return SnapshotManifest(height=Height(7), cells=tuple(cell for cell, _ in made)), [piece for _, piece in made]


def refused(manifest: SnapshotManifest, index: int, piece: SnapshotPiece) -> bool:
    with pytest.raises(RejectionError) as caught:
        check_piece(manifest.cells[index], cell_starts(manifest)[index], piece)
    return caught.value.reason is RejectionReason.BAD_PROOF


@given(ROWS, PIECE_BYTES)
def test_cells_and_pieces_lead_to_the_root_of_the_state_and_hold_all_of_it(
    values: dict[bytes, bytes], piece_bytes_max: int
) -> None:
    manifest, pieces = cut(values, piece_bytes_max)
    assert manifest_root(manifest) == update(MemoryState(), dict(values)).root
    assert {row.state_key: row.value for piece in pieces for row in piece.rows} == values
    for cell, start, piece in zip(manifest.cells, cell_starts(manifest), pieces, strict=True):
        check_piece(cell, start, decode_piece(encode_piece(piece)))
        held = sum(len(row.state_key) + len(row.value) for row in piece.rows)
        assert held <= piece_bytes_max or len(piece.rows) == 1
    assert decode_manifest(encode(manifest)) == manifest


@given(ROWS, PIECE_BYTES)
def test_the_order_in_which_rows_were_written_changes_no_cell(values: dict[bytes, bytes], piece_bytes_max: int) -> None:
    assert cut(values, piece_bytes_max) == cut(dict(reversed(values.items())), piece_bytes_max)


def test_an_empty_state_is_one_empty_cell() -> None:
    manifest, pieces = cut({}, 100)
    assert (manifest.cells, pieces) == ((Cell(depth=0, leaves=0, subtree=EMPTY),), [SnapshotPiece(rows=())])
    assert manifest_root(manifest) == EMPTY_ROOT


@given(ROWS.filter(lambda values: len(values) > 1), st.data())
def test_no_other_piece_passes_for_a_cell(values: dict[bytes, bytes], data: st.DataObject) -> None:
    manifest, pieces = cut(values, 60)
    index = data.draw(st.sampled_from([i for i, piece in enumerate(pieces) if piece.rows]))
    rows = pieces[index].rows
    at = data.draw(st.integers(0, len(rows) - 1))
    changed = replace(rows[at], value=rows[at].value + b"!")
    assert refused(manifest, index, SnapshotPiece(rows=(*rows[:at], changed, *rows[at + 1 :])))
    assert refused(manifest, index, SnapshotPiece(rows=rows[:at] + rows[at + 1 :]))
    assert refused(manifest, index, SnapshotPiece(rows=(*rows, rows[at])))
    if len(rows) > 1:
        assert refused(manifest, index, SnapshotPiece(rows=rows[::-1]))
    for other, piece in enumerate(pieces):
        if other != index and piece.rows:
            assert refused(manifest, index, piece)


@given(ROWS.filter(lambda values: len(values) > 2), st.data())
def test_a_manifest_with_other_cells_leads_elsewhere_or_nowhere(
    values: dict[bytes, bytes], data: st.DataObject
) -> None:
    manifest, _ = cut(values, 60)
    root = manifest_root(manifest)
    at = data.draw(st.integers(0, len(manifest.cells) - 1))
    cell = manifest.cells[at]
    lies = [
        (*manifest.cells[:at], *manifest.cells[at + 1 :]),
        (*manifest.cells[:at], replace(cell, depth=cell.depth + 1), *manifest.cells[at + 1 :]),
        (*manifest.cells[:at], replace(cell, subtree=bytes([1]) * 32), *manifest.cells[at + 1 :]),
        (*manifest.cells, cell),
    ]
    for cells in lies:
        if not cells:
            continue
        try:
            assert manifest_root(SnapshotManifest(height=Height(7), cells=cells)) != root
        except RejectionError as error:
            assert error.reason is RejectionReason.BAD_PROOF  # noqa: PT017 (either way out is right)


@given(ROWS, PIECE_BYTES)
def test_cells_tile_the_tree_in_order(values: dict[bytes, bytes], piece_bytes_max: int) -> None:
    manifest, _ = cut(values, piece_bytes_max)
    starts = cell_starts(manifest)
    assert starts[0] == 0
    assert all(one < following for one, following in pairwise(starts))
    assert starts[-1] + (1 << (256 - manifest.cells[-1].depth)) == 1 << 256
