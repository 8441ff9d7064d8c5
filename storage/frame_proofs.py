"""The proof of one frame: from an object's bytes to the signatures of a quorum, for whoever knows the members alone.

    frame key, salt, number, is last  open the ciphertext (storage/sealing.py)
    offset, frame bytes               where it lies in its segment, hence in which leaves of which columns
                                      (storage/segments.py)
    pieces                            one for each unit that it touches, in the segment's order: the leaves that hold
                                      it and the Merkle path from them to the column's shard root (storage/merkle.py)
    state                             the segment's state, with all shard roots, under the state root of a header that
                                      a quorum signed (storage/proofs.py)

Nothing else is needed to check it: docs/examples/verify_frame.py does so in one file. Beside its leaves a proof has
about 2 KB, and at most 3.2 KB at a million state keys (docs/decisions/0013-a-frame-is-proven-by-state.md).

A frame key opens the frames of one sealing, which is one upload of an object or of a part, and of nothing else. Whoever
is shown a proof can open the rest of that sealing, should somebody give them its ciphertext; holders give it to the
tenant's clients and to each other alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from consensus.encoding import Record
from consensus.identifiers import HASH, Buffer
from consensus.merkle import RANGE_PROOF_MAX
from storage.identifiers import (
    COLUMNS_MAX,
    FRAME_BYTES,
    FRAME_PLAIN_BYTES,
    FRAME_TAG_BYTES,
    LEAF_BYTES,
    SEGMENT,
    SEGMENT_BYTES_MAX,
    UNIT_BYTES,
    ColumnIndex,
    SegmentId,
)
from storage.merkle import covering_leaves, leaf_hashes, prove
from storage.proofs import StateProof
from storage.sealing import PLAIN_BYTES_MAX, SALT_BYTES, SECRET_BYTES, SealingSalt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from storage.segments import SegmentShape


class ProvenPiece(Record):
    """Leaves of one column, and the path from them to its shard root."""

    leaves: Annotated[bytes, Meta(min_length=1, max_length=UNIT_BYTES + LEAF_BYTES)]
    path: Annotated[tuple[Annotated[bytes, HASH], ...], Meta(max_length=RANGE_PROOF_MAX)]


class FrameProof(Record, tag=27):
    """A frame, what opens it, and the way from it to a signed header."""

    segment_id: Annotated[SegmentId, SEGMENT]
    offset: Annotated[int, Meta(ge=0, le=SEGMENT_BYTES_MAX)]
    frame_bytes: Annotated[int, Meta(ge=FRAME_TAG_BYTES, le=FRAME_BYTES)]
    frame_key: Annotated[bytes, Meta(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]
    salt: Annotated[SealingSalt, Meta(min_length=SALT_BYTES, max_length=SALT_BYTES)]
    number: Annotated[int, Meta(ge=0, le=PLAIN_BYTES_MAX // FRAME_PLAIN_BYTES)]
    is_last: bool
    pieces: Annotated[tuple[ProvenPiece, ...], Meta(min_length=1, max_length=COLUMNS_MAX + 1)]
    state: StateProof

    def __repr__(self) -> str:
        """Reveal no key."""
        return f"FrameProof(segment={self.segment_id.hex()[:16]}, offset={self.offset}, redacted)"


def proven_pieces(
    shards: Mapping[ColumnIndex, Buffer], shape: SegmentShape, offset: int, frame_bytes: int
) -> tuple[ProvenPiece, ...]:
    """Return the leaves that hold a range of a segment, with their paths; hashes whole columns, 2 ms each at most.

    Args:
        shards: Whole columns, checked; at least those that hold the range.
        shape: Of the segment.
        offset: Of the range.
        frame_bytes: Its length.
    """
    hashes = {column: leaf_hashes(shard) for column, shard in shards.items()}
    pieces: list[ProvenPiece] = []
    for place in shape.locate(offset, frame_bytes):
        leaves = covering_leaves(place.offset, place.byte_count)
        with memoryview(shards[place.column]) as shard:
            contents = bytes(shard[leaves.start * LEAF_BYTES : leaves.stop * LEAF_BYTES])
        pieces.append(ProvenPiece(leaves=contents, path=prove(hashes[place.column], leaves.start, len(leaves))))
    return tuple(pieces)
