"""A fetched snapshot becomes the chain's state: heads below it, its block, its rows, its tree, its tip.

While the row "p" stands, the database counts for nothing: the next start begins the installation again, from the files
that are all still here. Nothing is taken on trust that was not checked when it was fetched, and pieces are checked
again, since a disk lay between. What the chain had before is replaced; blocks that it had whole stay whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from consensus.blocks import header_hash
from consensus.encoding import decode, encode
from storage.errors import StorageError
from storage.member_proofs import decode_change_proof
from storage.snapshots import cell_starts, check_piece, decode_piece, manifest_root
from storage.state_tree import update
from storage.stores.heads import body_row, head_row
from storage.stores.leveldb import WriteBatch
from storage.stores.member_changes import stage_member_change
from storage.stores.references import REFERENCE_ROWS, stage_references
from storage.stores.state import PAGE_ROWS, VALUE_ROWS, EarlierState, StoredState
from storage.stores.tip import GENESIS_ROW, INSTALLING_ROW, TIP_BYTES_MAX, TIP_ROW, TipRow, stage_tip
from storage.stores.turns import TURNS_ROW

if TYPE_CHECKING:
    from consensus.genesis import Genesis
    from storage.snapshots import SnapshotPiece
    from storage.stores.protocols import RowStore
    from storage.stores.snapshots import IncomingSnapshot, SnapshotGoal

REPLACED: Final = (VALUE_ROWS, PAGE_ROWS, REFERENCE_ROWS)
"""Rows that are the state, or follow from it."""
DELETED_AT_ONCE: Final = 4_096


def install_snapshot(database: RowStore, genesis: Genesis, incoming: IncomingSnapshot) -> None:
    """Install a complete incoming snapshot, unless the chain is as far already; then forget it.

    Raises:
        StorageError: A piece is damaged or missing; move away the folder that the message names.
        StoreUnavailableError: The disk refused; the same call may be made again.
        RejectionError: What lies there is no snapshot.
    """
    goal = incoming.goal()
    assert goal is not None, "a complete snapshot has a goal"
    if database.get(INSTALLING_ROW) is not None or _height(database) < goal.manifest.height:
        _install(database, genesis, incoming, goal)
    incoming.remove()


def _height(database: RowStore) -> int:
    encoded = database.get(TIP_ROW)
    return -1 if encoded is None else decode(encoded, TipRow, bytes_max=TIP_BYTES_MAX).height


def _install(database: RowStore, genesis: Genesis, incoming: IncomingSnapshot, goal: SnapshotGoal) -> None:
    mark = WriteBatch()
    mark.put(GENESIS_ROW, encode(genesis))
    mark.put(INSTALLING_ROW, b"")
    database.write(mark)
    for rows in REPLACED:
        _clear(database, rows)
    for heads in incoming.heads():
        batch = WriteBatch()
        for head in heads:
            if database.get(body_row(head.block.header.height)) is None:
                batch.put(head_row(head.block.header.height), encode(head))
        database.write(batch)
    for number, (cell, start) in enumerate(zip(goal.manifest.cells, cell_starts(goal.manifest), strict=True)):
        encoded = incoming.piece(number)
        if encoded is None:
            raise StorageError(f"piece {number} of the snapshot in {database.directory} is gone; fetch it again")
        piece = decode_piece(encoded)
        check_piece(cell, start, piece)
        _put_piece(database, piece)
    _finish(database, goal)


def _clear(database: RowStore, prefix: bytes) -> None:
    while rows := database.scan(prefix, rows_max=DELETED_AT_ONCE):
        batch = WriteBatch()
        for row_key, _ in rows:
            batch.delete(row_key)
        database.write(batch)


def _put_piece(database: RowStore, piece: SnapshotPiece) -> None:
    state = StoredState(database)
    values: dict[bytes, bytes | None] = {row.state_key: row.value for row in piece.rows}
    batch = WriteBatch()
    for state_key, value in values.items():
        assert value is not None, "a snapshot deletes nothing"
        batch.put(VALUE_ROWS + state_key, value)
    for page_name, page in update(state, values).pages.items():
        assert page is not None, "a growing tree loses no page"
        batch.put(PAGE_ROWS + page_name, page)
    nothing = EarlierState(latest=state, values=dict.fromkeys(values), pages={})
    stage_references(batch, database, values, nothing)
    database.write(batch)


def _finish(database: RowStore, goal: SnapshotGoal) -> None:
    """Write block and tip; the turns follow from the heads when the chain is opened."""
    header = goal.decided.block.header
    batch = WriteBatch()
    batch.put(body_row(header.height), encode(goal.decided))
    stage_tip(batch, header.height, header_hash(header), manifest_root(goal.manifest))
    batch.delete(TURNS_ROW)
    for encoded in goal.member_changes:
        proof = decode_change_proof(encoded)
        if proof.certified.header.height <= header.height:
            stage_member_change(batch, proof)
    batch.delete(INSTALLING_ROW)
    database.write(batch)
