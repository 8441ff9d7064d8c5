"""A snapshot on disk: made of one chain, installed as another, whatever interrupts; pruned blocks keep heads."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from consensus.errors import RejectionError, RejectionReason
from consensus.heads import check_heads, head_of
from consensus.identifiers import BlockHash, Height
from consensus.schedule import genesis_schedule
from storage.errors import StorageError, StoreUnavailableError
from storage.member_proofs import decode_change_proof, proven_schedule
from storage.proofs import check_transaction_proof
from storage.seat_changes import ReplaceOccupant
from storage.snapshots import manifest_root
from storage.stores.blocks import ChainStore, open_chain, open_chain_in
from storage.stores.installing import install_snapshot
from storage.stores.leveldb import Durability, LevelDatabase, WriteBatch, WritePurpose
from storage.stores.snapshots import IncomingSnapshot, MadeSnapshots, SnapshotGoal
from storage.transactions import Extent, transaction_id
from tests.storage.ledger_world import TENANT, World, entry

if TYPE_CHECKING:
    from pathlib import Path

    from consensus.blocks import DecidedBlock

AT = Height(9)
"""The snapshot's height."""
TOP = 12


class FailingDatabase(LevelDatabase):
    """A LevelDB whose disk refuses everything after some writes."""

    def __init__(self, directory: Path, writes_left: int) -> None:
        super().__init__(directory)
        self.writes_left = writes_left

    def write(
        self,
        batch: WriteBatch,
        *,
        purpose: WritePurpose = WritePurpose.CONSENSUS,
        durability: Durability = Durability.FLUSHED,
    ) -> None:
        """Write, or refuse for ever."""
        if self.writes_left == 0:
            raise StoreUnavailableError("the disk is gone")
        self.writes_left -= 1
        super().write(batch, purpose=purpose, durability=durability)


def blocks_of(world: World) -> list[DecidedBlock]:
    """Return TOP blocks, most of them with an object."""
    decided: list[DecidedBlock] = []
    for i in range(TOP):
        body = world.commit((world.segment(f"s{i}"),), entry(f"o{i % 5}", Extent(segment=0, extent_bytes=10)))
        decided.append(world.decide(*([world.transaction(body)] if i % 3 else [])))
    return decided


def fill(store: ChainStore, decided: list[DecidedBlock]) -> None:
    for block in decided:
        store.append(block, store.execute(block.block))


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def decided(world: World) -> list[DecidedBlock]:
    return blocks_of(world)


@pytest.fixture
def incoming(tmp_path: Path, world: World, decided: list[DecidedBlock]) -> IncomingSnapshot:
    """All of a snapshot of height AT, as a joiner has fetched it."""
    made = MadeSnapshots(tmp_path / "made")
    with open_chain(tmp_path / "source", world.genesis) as store:
        fill(store, decided[:AT])
        root = store.tip.state_root
        with store.view() as view:
            fill(store, decided[AT:])  # what comes later changes nothing of the view
            manifest = made.make(AT, view)
    assert manifest_root(manifest) == root
    found = IncomingSnapshot(tmp_path / "incoming")
    found.begin(SnapshotGoal(decided=decided[AT - 1], manifest=manifest, member_changes=()))
    found.put_heads(tuple(head_of(block) for block in decided[: AT - 1]))
    for number in range(len(manifest.cells)):
        piece = made.piece(AT, number)
        assert piece is not None
        found.put_piece(number, piece)
    found.finish()
    return found


def test_an_installed_snapshot_is_the_chain_at_its_height_and_goes_on_from_there(
    tmp_path: Path, world: World, decided: list[DecidedBlock], incoming: IncomingSnapshot
) -> None:
    with LevelDatabase(tmp_path / "joiner") as database:
        install_snapshot(database, world.genesis, incoming)
    assert incoming.goal() is None
    with (
        open_chain(tmp_path / "joiner", world.genesis) as joiner,
        open_chain(tmp_path / "whole", world.genesis) as whole,
    ):
        fill(whole, decided[:AT])
        assert joiner.tip == whole.tip
        for listed in whole.entries(TENANT):
            assert joiner.references(listed.state.record_address) == whole.references(listed.state.record_address)
        assert joiner.decided_block(Height(3)) is None
        assert joiner.decided_head(Height(3)) == whole.decided_head(Height(3))
        fill(joiner, decided[AT:])
        fill(whole, decided[AT:])
        assert joiner.tip == whole.tip
        assert {row: joiner.value(row) for row in world.state.values} == world.state.values


def test_a_chain_that_is_behind_is_replaced_and_keeps_its_own_blocks_whole(
    tmp_path: Path, world: World, decided: list[DecidedBlock], incoming: IncomingSnapshot
) -> None:
    with open_chain(tmp_path / "joiner", world.genesis) as joiner:
        fill(joiner, decided[:4])
    with LevelDatabase(tmp_path / "joiner") as database:
        install_snapshot(database, world.genesis, incoming)
    with open_chain(tmp_path / "joiner", world.genesis) as joiner:
        assert joiner.tip.height == AT
        assert joiner.decided_block(Height(4)) == decided[3]
        fill(joiner, decided[AT:])
        assert joiner.tip == world.tip


def test_a_chain_that_is_further_already_forgets_the_snapshot(
    tmp_path: Path, world: World, decided: list[DecidedBlock], incoming: IncomingSnapshot
) -> None:
    with open_chain(tmp_path / "joiner", world.genesis) as joiner:
        fill(joiner, decided)
    with LevelDatabase(tmp_path / "joiner") as database:
        install_snapshot(database, world.genesis, incoming)
    assert incoming.goal() is None
    with open_chain(tmp_path / "joiner", world.genesis) as joiner:
        assert joiner.tip == world.tip


def test_whenever_the_installation_is_interrupted_it_begins_again_and_nothing_half_is_opened(
    tmp_path: Path, world: World, decided: list[DecidedBlock], incoming: IncomingSnapshot
) -> None:
    interrupted = 0
    for writes in range(100):
        directory = tmp_path / f"joiner-{writes}"
        with open_chain(directory, world.genesis) as joiner:
            fill(joiner, decided[:2])
        failing = FailingDatabase(directory, writes)
        copy = IncomingSnapshot(shutil.copytree(tmp_path / "incoming", tmp_path / f"incoming-{writes}"))
        try:
            install_snapshot(failing, world.genesis, copy)
        except StoreUnavailableError:
            interrupted += 1
        failing.close()
        if not copy.is_complete():
            break
        if writes:
            with LevelDatabase(directory) as database, pytest.raises(StorageError, match="installed in part"):
                open_chain_in(database, world.genesis)
        with LevelDatabase(directory) as database:
            install_snapshot(database, world.genesis, copy)
        with open_chain(directory, world.genesis) as joiner:
            fill(joiner, decided[AT:])
            assert joiner.tip == world.tip
    assert interrupted > 5


def test_a_damaged_piece_is_not_installed(tmp_path: Path, world: World, incoming: IncomingSnapshot) -> None:
    goal = incoming.goal()
    piece = incoming.piece(0)
    assert goal is not None
    assert piece is not None
    incoming.put_piece(0, piece[:-1] + bytes((piece[-1] ^ 1,)))
    with LevelDatabase(tmp_path / "joiner") as database, pytest.raises(RejectionError):
        install_snapshot(database, world.genesis, incoming)


def test_only_the_newest_snapshots_stay(tmp_path: Path, world: World, decided: list[DecidedBlock]) -> None:
    made = MadeSnapshots(tmp_path / "made")
    assert made.heights() == ()
    with open_chain(tmp_path / "source", world.genesis) as store:
        for block in decided[:4]:
            fill(store, [block])
            with store.view() as view:
                made.make(store.tip.height, view)
            made.keep_newest()
    assert made.heights() == (4, 3)
    assert (made.manifest(Height(2)), made.piece(Height(2), 0), made.piece(Height(4), 99)) == (None, None, None)


def test_a_pruned_block_keeps_its_head_and_the_chain_opens_and_goes_on(
    tmp_path: Path, world: World, decided: list[DecidedBlock]
) -> None:
    with open_chain(tmp_path / "chain", world.genesis) as store:
        fill(store, decided[:AT])
        assert (store.first_body(), store.prune_some(Height(7)), store.prune_some(Height(7))) == (1, 6, 0)
        store.purge_pruned(Height(1), Height(7))
        kept = decided[2].block.transactions[0]
        proof = store.transaction_proof(transaction_id(kept))
        assert proof is not None
        assert check_transaction_proof(proof, world.rules.members, kept=kept) == kept
        for other in (None, decided[4].block.transactions[0]):
            with pytest.raises(RejectionError):
                check_transaction_proof(proof, world.rules.members, kept=other)
        assert store.first_body() == 7
        assert store.decided_block(Height(6)) is None
        assert store.decided_range(Height(6), 10, 1 << 20) == ()
        assert [store.decided_head(Height(height)) for height in range(1, AT + 1)] == [
            head_of(block) for block in decided[:AT]
        ]
    with open_chain(tmp_path / "chain", world.genesis) as store:
        fill(store, decided[AT:])
        assert store.tip == world.tip


def test_heads_prove_each_other_and_no_lie_passes(world: World, decided: list[DecidedBlock]) -> None:
    heads = [head_of(block) for block in decided]
    genesis = (Height(0), BlockHash(world.rules.members.genesis_hash))
    assert check_heads(heads, genesis, world.rules.schedule) == (TOP, world.tip.block_hash)
    second = check_heads(heads[:2], genesis, world.rules.schedule)
    assert check_heads(heads[2:], second, world.rules.schedule) == (TOP, world.tip.block_hash)
    lies = {
        RejectionReason.WRONG_HEIGHT: [heads[0], *heads[2:]],
        RejectionReason.WRONG_PARENT: heads[1:2],
    }
    for reason, lie in lies.items():
        parent = genesis if reason is RejectionReason.WRONG_HEIGHT else (Height(1), genesis[1])
        with pytest.raises(RejectionError) as caught:
            check_heads(lie, parent, world.rules.schedule)
        assert caught.value.reason is reason


def test_a_snapshot_behind_a_change_of_members_is_proven_installed_and_shown_to_others(tmp_path: Path) -> None:
    world, made = World(seats=9), MadeSnapshots(tmp_path / "made")
    decided: list[DecidedBlock] = []
    with open_chain(tmp_path / "source", world.genesis) as store:

        def decide(*transactions: bytes) -> None:
            decided.append(world.decide(*transactions))
            fill(store, decided[-1:])

        voters = world.rules.members.indices[: world.rules.members.budget.quorum]
        decide(world.propose(ReplaceOccupant(offer=world.offer(0, "new")), by=voters[0]))
        decide(*(world.approve(voters[0], by=member) for member in voters[1:]))
        decide()
        world.names[0:1] = ["new"]
        for _ in range(4):
            decide()
        with store.view() as view:
            manifest = made.make(store.tip.height, view)
        at = store.tip.height
        decide()
        changes = store.member_changes()
    schedule = proven_schedule(world.genesis, [decode_change_proof(encoded) for encoded in changes])
    heads = [head_of(block) for block in decided]
    genesis = (Height(0), BlockHash(world.rules.members.genesis_hash))
    assert check_heads(heads, genesis, schedule) == (at + 1, world.tip.block_hash)
    with pytest.raises(RejectionError):
        check_heads(heads, genesis, genesis_schedule(world.genesis))
    incoming = IncomingSnapshot(tmp_path / "incoming")
    incoming.begin(SnapshotGoal(decided=decided[at - 1], manifest=manifest, member_changes=changes))
    incoming.put_heads(tuple(heads[: at - 1]))
    piece = made.piece(at, 0)
    assert piece is not None
    incoming.put_piece(0, piece)
    incoming.finish()
    with LevelDatabase(tmp_path / "joiner") as database:
        install_snapshot(database, world.genesis, incoming)
    with open_chain(tmp_path / "joiner", world.genesis) as joiner:
        fill(joiner, decided[at:])
        assert joiner.tip == world.tip
        assert joiner.member_changes() == changes
