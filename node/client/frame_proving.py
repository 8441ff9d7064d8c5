"""Proofs of frames for whoever is to believe nobody: what a client gathers from holders and nodes (frame_proofs.py).

Frames of an object are counted over all its sealings, in order; frame i of an object that was stored at once begins at
byte i * 65,520. The part list of an object of many parts is none of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from consensus.errors import RejectionError, RejectionReason
from node.client.proving import prover_of
from storage.errors import NotEnoughShardsError, ShardMissingError, UnsealError
from storage.frame_proofs import FrameProof, proven_pieces
from storage.identifiers import FRAME_BYTES
from storage.sealing import SealingDomain, frame_count, frame_key, sealed_bytes
from storage.segments import SegmentShape
from storage.state import SegmentState, decode_state

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from consensus.genesis import Genesis
    from node.client.chain import Chain, Reference
    from node.client.download import FindSegment, OpenObject
    from node.client.reading import SegmentReader
    from storage.sealing import Sealing


@dataclass(frozen=True, slots=True, kw_only=True)
class FramePlace:
    """One frame of an object: which of its sealing, and where in the object's sealed bytes."""

    sealing: Sealing
    number: int
    sealed_start: int

    @property
    def frame_bytes(self) -> int:
        """Return its length, tag included."""
        return min(FRAME_BYTES, sealed_bytes(self.sealing.plain_bytes) - self.number * FRAME_BYTES)

    @property
    def is_last(self) -> bool:
        """Tell whether its sealing ends with it."""
        return self.number + 1 == frame_count(self.sealing.plain_bytes)


def frames_of(opened: OpenObject) -> int:
    """Return how many frames an object has; none when it is empty."""
    return sum(frame_count(sealing.plain_bytes) for sealing in _stored(opened))


def frame_place(opened: OpenObject, position: int) -> FramePlace:
    """Return where one of an object's frames is.

    Args:
        opened: The object.
        position: Of the frame, below frames_of().
    """
    sealed_start = opened.sealed_start
    for sealing in _stored(opened):
        frames = frame_count(sealing.plain_bytes)
        if position < frames:
            return FramePlace(sealing=sealing, number=position, sealed_start=sealed_start + position * FRAME_BYTES)
        position -= frames
        sealed_start += sealed_bytes(sealing.plain_bytes)
    raise AssertionError("a frame that the object does not have")


class FrameProver:
    """Gathers proofs of frames."""

    def __init__(
        self,
        chain: Chain,
        genesis: Genesis,
        reader: SegmentReader,
        find_segment: FindSegment,
        look_up_again: Callable[[OpenObject], Awaitable[OpenObject]],
    ) -> None:
        """Ask a chain and the holders.

        Args:
            chain: Of the tenant.
            genesis: Trusted; names the first members.
            reader: Of its segments.
            find_segment: As the chain shows it.
            look_up_again: Tells where an object's bytes are now, once they are no longer where they were.
        """
        self._chain = chain
        self._genesis = genesis
        self._reader = reader
        self._find_segment = find_segment
        self._look_up_again = look_up_again

    async def prove(self, opened: OpenObject, position: int) -> FrameProof:
        """Return the proof of a frame; what holders and nodes say is checked on the way.

        Args:
            opened: The object.
            position: Of the frame, below frames_of().

        Raises:
            NotEnoughShardsError: Fewer holders than needed have the segment.
            RejectionError: A node lied.
        """
        try:
            return await self._prove(opened, position)
        except (NotEnoughShardsError, ShardMissingError):
            moved = await self._look_up_again(opened)
            if moved.entry.references == opened.entry.references:
                raise
            return await self._prove(moved, position)

    async def _prove(self, opened: OpenObject, position: int) -> FrameProof:
        place = frame_place(opened, position)
        reference, offset = _located(opened.entry.references, place)
        segment = await self._find_segment(reference.segment_id)
        shape = SegmentShape(segment.segment_bytes, segment.k, len(segment.roots))
        wanted = tuple({piece.column: None for piece in shape.locate(offset, place.frame_bytes)})
        shards = await self._reader.read_columns(segment, wanted, range(shape.leaves))
        state = await (await prover_of(self._chain, self._genesis)).segment_proof(segment.segment_id)
        assert state.value is not None, "proven to be there"
        if decode_state(state.value, SegmentState).roots != segment.roots:
            raise RejectionError(RejectionReason.BAD_PROOF, "a node showed other shard roots than the proven ones")
        pieces = await trio.to_thread.run_sync(proven_pieces, shards, shape, offset, place.frame_bytes)
        return FrameProof(
            segment_id=segment.segment_id,
            offset=offset,
            frame_bytes=place.frame_bytes,
            frame_key=frame_key(opened.record.object_key, SealingDomain.OBJECT, place.sealing.salt),
            salt=place.sealing.salt,
            number=place.number,
            is_last=place.is_last,
            pieces=pieces,
            state=state,
        )


def _stored(opened: OpenObject) -> list[Sealing]:
    """Return the sealings that have bytes: nothing is stored of nothing."""
    return [sealing for sealing in opened.record.object_record.sealings if sealing.plain_bytes]


def _located(references: tuple[Reference, ...], place: FramePlace) -> tuple[Reference, int]:
    """Return the reference that holds a frame, and the frame's offset in its segment.

    Raises:
        UnsealError: No reference holds it whole: no client of ours wrote this.
    """
    position = 0
    for reference in references:
        within = place.sealed_start - position
        if within >= 0 and within + place.frame_bytes <= reference.extent_bytes:
            return reference, reference.offset + within
        position += reference.extent_bytes
    raise UnsealError(f"frame {place.number} lies in no single segment")
