"""Whoever knows genesis follows the members from one certified change to the next, and no lie leads elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from consensus.certificates import bitmap_members, bitmap_of
from consensus.encoding import encode
from consensus.errors import RejectionError
from consensus.genesis import genesis_hash
from consensus.identifiers import Height
from storage.identifiers import SeatIndex
from storage.ledger import apply_block
from storage.member_proofs import decode_change_proof, proven_schedule
from storage.membership import ScheduledState
from storage.seat_changes import AddSeat, RemoveSeat, ReplaceOccupant
from storage.state import decode_state
from storage.stores.blocks import open_chain
from tests.frame_verifier import Trusted, frame_verifier
from tests.storage.ledger_world import World

if TYPE_CHECKING:
    from pathlib import Path

    from consensus.certificates import CommitCertificate
    from storage.proofs import StateProof


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, tuple[StateProof, ...]]:
    """A chain of nine on disk whose members changed three times, and what its node shows of it."""
    folder: Path = tmp_path_factory.mktemp("chain")
    world = World(seats=9)
    with open_chain(folder, world.genesis) as store:

        def decide(*transactions: bytes) -> None:
            decided = world.decide(*transactions)
            store.append(decided, apply_block(store.context, store, decided.block))

        for change, name in (
            (ReplaceOccupant(offer=world.offer(0, "new")), "new"),
            (AddSeat(offer=world.offer(9, "ten")), "ten"),
            (RemoveSeat(number=SeatIndex(4)), None),
        ):
            voters = world.rules.members.indices[: world.rules.members.budget.quorum]
            decide(world.propose(change, by=voters[0]))
            decide(*(world.approve(voters[0], by=member) for member in voters[1:]))
            decide()
            if not isinstance(change, RemoveSeat):
                assert name is not None
                world.names[change.offer.number : change.offer.number + 1] = [name]
            decide()
        proofs = tuple(decode_change_proof(encoded) for encoded in store.member_changes())
    return world, proofs


def test_genesis_and_one_proof_a_change_lead_to_the_members_of_every_height(
    changed: tuple[World, tuple[StateProof, ...]],
) -> None:
    world, proofs = changed
    assert len(proofs) == 3
    assert proven_schedule(world.genesis, proofs).members == world.context.schedule.members
    assert max(len(encode(proof)) for proof in proofs) < 4_096


def test_a_proof_leads_on_from_the_members_before_it_alone(changed: tuple[World, tuple[StateProof, ...]]) -> None:
    world, (first, second, third) = changed
    for wrong in ((second, first), (first, first), (first, third, second)):
        with pytest.raises(RejectionError):
            proven_schedule(world.genesis, wrong)
    other = World(seats=9, chain_id="another")
    with pytest.raises(RejectionError):
        proven_schedule(other.genesis, (first,))


def test_no_other_change_and_no_other_height_passes(changed: tuple[World, tuple[StateProof, ...]]) -> None:
    world, (first, *_) = changed
    assert first.value is not None
    scheduled = decode_state(first.value, ScheduledState)
    later = replace(scheduled, effective=Height(scheduled.effective + 1))
    lies = (
        replace(first, value=encode(later)),
        replace(first, value=encode(replace(scheduled, change=RemoveSeat(number=SeatIndex(1))))),
        replace(first, value=None),
        replace(first, certified=replace(first.certified, commit=_short(first))),
    )
    for lie in lies:
        with pytest.raises(RejectionError):
            proven_schedule(world.genesis, (lie,))


def _short(proof: StateProof) -> CommitCertificate:
    """One signature less."""
    commit = proof.certified.commit
    members = bitmap_of(bitmap_members(commit.members)[1:])
    return replace(commit, members=members, signatures=commit.signatures[1:])


def test_the_stand_alone_verifier_follows_the_same_changes(changed: tuple[World, tuple[StateProof, ...]]) -> None:
    world, proofs = changed
    verifier, genesis = frame_verifier(), genesis_hash(world.genesis)
    members: dict[int, bytes] = dict(enumerate(world.genesis.members))
    chain: Trusted = genesis, [(0, members)]
    verifier.follow_changes(chain, answered(proofs))
    expected = [
        (known.since, {member: known.public_key(member) for member in known.indices})
        for known in world.context.schedule.members
    ]
    assert chain[1] == expected
    first, second, third = proofs
    for wrong in ((second, first), (first, first), (first, third, second)):
        with pytest.raises(verifier.REFUSALS):
            verifier.follow_changes((genesis, [(0, members)]), answered(wrong))


def answered(proofs: tuple[StateProof, ...]) -> bytes:
    """Return proofs as a node answers GET /v1/raw/members."""
    encoded = [encode(proof) for proof in proofs]
    return b"".join(len(one).to_bytes(4, "big") + one for one in encoded)
