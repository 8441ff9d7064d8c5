"""What the chain holds, proven from the members' signatures alone; the node that answers is not believed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import trio

from consensus.certificates import signers
from consensus.errors import RejectionError, RejectionReason
from node.client.chain import EntryView, ListingPlace, SegmentView, entry_view, segment_view
from storage.errors import ShardMissingError
from storage.member_proofs import decode_change_proof, proven_schedule
from storage.proofs import check_state_proof, decode_state_proof
from storage.state import EntryState, SegmentState, decode_state, entry_key, segment_key

if TYPE_CHECKING:
    from consensus.genesis import Genesis
    from consensus.identifiers import Height
    from consensus.schedule import MemberSchedule
    from node.client.chain import Chain
    from storage.identifiers import BucketTag, NameTag, SegmentId, TenantId
    from storage.proofs import StateProof

ValueT = TypeVar("ValueT")

FRESH_ATTEMPTS: Final = 20
FRESH_PAUSE_SECONDS: Final = 0.1
"""A root is certified by the next block, a tenth of a second later: so long a proven absence may be too old."""


@dataclass(frozen=True, slots=True)
class Proven(Generic[ValueT]):
    """A value of the state, the height of the header that commits it, and how many members signed that."""

    value: ValueT
    height: Height
    signers: int


class Prover:
    """Fetches proofs and checks them."""

    def __init__(self, chain: Chain, schedule: MemberSchedule) -> None:
        """Believe the members of each height, and of them a quorum."""
        self._chain = chain
        self._schedule = schedule

    async def entry(self, tenant: TenantId, bucket_tag: BucketTag, name_tag: NameTag) -> Proven[EntryView] | None:
        """Return a proven entry; None when its absence is proven.

        Raises:
            RejectionError: The proof is false.
        """
        state_key = entry_key(tenant, bucket_tag, name_tag)
        proof = await self._fetch(state_key)
        if proof.value is None and await self._is_there(bucket_tag, name_tag):
            proof = await self._fetch_when_certified(state_key)
        if proof.value is None:
            return None
        return _proven(proof, entry_view(bucket_tag, name_tag, decode_state(proof.value, EntryState)))

    async def segment(self, segment_id: SegmentId) -> Proven[SegmentView]:
        """Return a proven segment.

        Raises:
            RejectionError: The proof is false, or proves that there is none.
        """
        proof = await self._fetch(segment_key(segment_id))
        if proof.value is None:
            detail = f"segment {segment_id.hex()[:16]} of a proven entry is proven absent"
            raise RejectionError(RejectionReason.BAD_PROOF, detail)
        return _proven(proof, segment_view(segment_id, decode_state(proof.value, SegmentState)))

    async def segment_proof(self, segment_id: SegmentId) -> StateProof:
        """Return the checked proof of a live segment's state; a root is certified a moment after it was made.

        Raises:
            RejectionError: The proof is false.
            ShardMissingError: It proves that there is none.
        """
        proof = await self._fetch_when_certified(segment_key(segment_id))
        if proof.value is None:
            raise ShardMissingError(f"segment {segment_id.hex()[:16]} is proven absent")
        return proof

    async def _is_there(self, bucket_tag: BucketTag, name_tag: NameTag) -> bool:
        (entry,) = await self._chain.find_entries((ListingPlace(bucket_tag, name_tag),))
        return entry is not None

    async def _fetch_when_certified(self, state_key: bytes) -> StateProof:
        proof = await self._fetch(state_key)
        for _ in range(FRESH_ATTEMPTS):
            if proof.value is not None:
                break
            await trio.sleep(FRESH_PAUSE_SECONDS)
            proof = await self._fetch(state_key)
        return proof

    async def _fetch(self, state_key: bytes) -> StateProof:
        proof = decode_state_proof(await self._chain.proof(state_key))
        check_state_proof(proof, state_key, self._schedule.members_at(proof.certified.header.height))
        return proof


async def prover_of(chain: Chain, genesis: Genesis) -> Prover:
    """Return a prover that knows every change of members since genesis, each from its proof; raises RejectionError."""
    changes = [decode_change_proof(encoded) for encoded in await chain.member_changes()]
    return Prover(chain, proven_schedule(genesis, changes))


def _proven(proof: StateProof, view: ValueT) -> Proven[ValueT]:
    return Proven(view, proof.certified.header.height, len(signers(proof.certified.commit)))
