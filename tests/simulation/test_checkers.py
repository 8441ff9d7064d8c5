"""Each invariant can fail: nodes broken on purpose are caught by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from consensus.chain import ChainRules, chain_rules
from consensus.errors import RejectionError, RejectionReason
from consensus.evidence import Evidence, VoteEvidence
from consensus.genesis import Genesis
from consensus.height_state import HeightContext, start_state
from consensus.identifiers import NO_ROUND, BlockHash, Height, MemberIndex, Round, Signature, StateRoot
from consensus.proposals import Proposal
from consensus.turns import first_turns
from consensus.votes import Precommit, Prevote, SignedVote, Vote
from node import message_gate, signer
from node.block_keeper import BlockKeeper
from node.helping import Helper
from node.ledger_chain import next_rules
from node.message_gate import MessageGate
from node.signer import Signer, SignerEntry
from node.speaker import Speaker
from storage.stores.blocks import ChainStore
from testnet.simulation import checkers
from testnet.simulation.checkers import Invariant, InvariantError, Watch, check_memory
from testnet.simulation.disks import SimulatedDisk
from testnet.simulation.faults import Plan
from testnet.simulation.signatures import KeyRing, SignatureKind
from testnet.simulation.workload import make_genesis
from testnet.simulation.world import Settings, World, plan_of, run_world

if TYPE_CHECKING:
    from consensus.height_state import HeightState

A, B = BlockHash(b"a" * 32), BlockHash(b"b" * 32)
UNSIGNED = Signature(bytes(64))
HEIGHT = Height(3)


def genesis_of(seats: int) -> tuple[Genesis, KeyRing]:
    ring = KeyRing(SignatureKind.STUB)
    keys = tuple(ring.new_key(bytes([seat]) * 32) for seat in range(seats))
    return make_genesis(keys, ring.new_key(b"o" * 32), ring.new_key(b"c" * 32)), ring


def watch_of_nine(*liars: int) -> Watch:
    genesis, ring = genesis_of(9)
    return Watch(genesis, frozenset(genesis.members[liar] for liar in liars), ring.check)


def prevote(member: int, round_: int, block_hash: BlockHash | None, valid_round: int = -1) -> SignedVote:
    vote = Prevote(
        height=HEIGHT,
        round=Round(round_),
        block_hash=block_hash,
        valid_round=Round(valid_round),
        member=MemberIndex(member),
    )
    return SignedVote(vote=vote, signature=UNSIGNED)


def precommit(member: int, round_: int, block_hash: BlockHash | None) -> SignedVote:
    vote = Precommit(height=HEIGHT, round=Round(round_), block_hash=block_hash, member=MemberIndex(member))
    return SignedVote(vote=vote, signature=UNSIGNED)


def caught(run: Callable[[int], object], seeds: range) -> Invariant:
    """Return what is named first in these worlds."""
    for seed in seeds:
        try:
            run(seed)
        except InvariantError as error:
            return error.invariant
    pytest.fail(f"nothing is caught in seeds {seeds}")


def world(seed: int) -> object:
    return run_world(Settings(), seed)


# --- whole worlds ----------------------------------------------------------------------------------------------------


def five_of_nine(store: ChainStore) -> ChainRules:
    rules = next_rules(store)
    members = replace(rules.members, budget=replace(rules.members.budget, quorum=5))
    return replace(rules, members=members, schedule=replace(rules.schedule, members=(members,)))


def test_a_quorum_of_five_is_caught() -> None:
    def run(seed: int) -> object:
        return World(Settings(), seed, plan_of(Settings(), seed), judge=five_of_nine).run()

    assert caught(run, range(5)) is Invariant.CERTIFICATES


def test_a_signature_before_its_record_is_flushed_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def record(self: Signer, entry: SignerEntry) -> None:
        assert self._file is not None
        self._byte_count += self._file.write(signer._line(entry), self._byte_count)
        self._remember(entry)

    monkeypatch.setattr(Signer, "_record", record)
    assert caught(world, range(3, 20)) in {Invariant.NOBODY_CORRECT_ACCUSED, Invariant.SIGNED_ONCE}


def test_a_vote_before_the_log_is_flushed_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def sign(self: Speaker, wish: Callable[[Vote], SignedVote], wanted: Vote) -> SignedVote:
        return wish(wanted)

    monkeypatch.setattr(Speaker, "_flush_and_sign", sign)
    assert caught(world, range(5)) is Invariant.REPLAY_IS_STATE


def test_a_gate_that_believes_everything_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def believe(_self: MessageGate, _message: object) -> None:
        """Check nothing."""

    monkeypatch.setattr(MessageGate, "_check", believe)
    assert caught(world, range(21, 23)) is Invariant.CERTIFICATES


def test_members_who_never_repeat_themselves_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    async def repeat(_self: Helper, _state: HeightState) -> None:
        """Say nothing."""

    monkeypatch.setattr(Helper, "repeat", repeat)
    assert caught(world, range(17, 22)) is Invariant.DECIDES_AFTER_HEALING


def test_a_gate_that_refuses_the_truth_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_votes: object, *_rest: object) -> None:
        raise RejectionError(RejectionReason.BAD_SIGNATURE, "so it is said")

    monkeypatch.setattr(message_gate, "check_polka", refuse)
    assert caught(world, range(2)) is Invariant.NOBODY_CORRECT_REFUSED


def test_a_ledger_that_differs_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    execute = ChainStore.execute

    def differently(self: ChainStore, block: object) -> object:
        change = execute(self, block)  # type: ignore[arg-type]
        return replace(change, state_root=StateRoot(bytes(32))) if change.height == 3 else change

    monkeypatch.setattr(ChainStore, "execute", differently)
    assert caught(world, range(2)) is Invariant.AGREEMENT


def test_a_disk_that_loses_what_was_flushed_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(self: SimulatedDisk) -> None:
        for contents in self._files.values():
            contents.seen[-20:] = b"\xff" * 20

    monkeypatch.setattr(SimulatedDisk, "lose_power", lose)
    assert caught(world, range(12)) is Invariant.STARTS_AGAIN


def test_a_bug_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_self: BlockKeeper, _signed: SignedVote) -> None:
        raise AssertionError("on purpose")

    monkeypatch.setattr(BlockKeeper, "count_late", fail)
    assert caught(world, range(2)) is Invariant.NO_BUG


# --- the watch alone: what random worlds seldom meet -----------------------------------------------------------------


def broken_by(watch: Watch, signed: SignedVote) -> Invariant:
    with pytest.raises(InvariantError) as broken:
        watch.on_vote(signed)
    return broken.value.invariant


def test_a_dropped_lock_is_caught() -> None:
    watch = watch_of_nine()
    watch.on_vote(precommit(1, 0, A))
    watch.on_vote(prevote(1, 1, None))
    assert broken_by(watch, prevote(1, 2, B)) is Invariant.LOCK_SAFETY


def test_a_lock_yields_to_a_later_polka_alone() -> None:
    watch = watch_of_nine()
    watch.on_vote(precommit(1, 1, A))
    for member in range(2, 8):
        watch.on_vote(prevote(member, 2, B))
    watch.on_vote(prevote(1, 3, B, valid_round=2))
    watch.on_vote(precommit(0, 2, A))
    assert broken_by(watch, prevote(0, 3, B, valid_round=1)) is Invariant.LOCK_SAFETY


def test_a_second_polka_after_a_commit_is_caught() -> None:
    watch = watch_of_nine(7, 8)
    for member in range(4):
        watch.on_vote(precommit(member, 0, A))
    for member in (4, 5, 6):
        watch.on_vote(prevote(member, 1, B))
    watch._votes[HEIGHT].locks.clear()
    assert broken_by(watch, prevote(0, 1, B)) is Invariant.LOCK_SAFETY


def test_two_values_in_one_place_are_caught() -> None:
    watch = watch_of_nine()
    assert watch.on_vote(prevote(1, 0, A))
    assert not watch.on_vote(prevote(1, 0, A))
    assert broken_by(watch, prevote(1, 0, None)) is Invariant.SIGNED_ONCE
    proposal = Proposal(height=HEIGHT, round=Round(0), block_hash=A, valid_round=NO_ROUND, proposer=MemberIndex(3))
    watch.on_proposal(proposal)
    with pytest.raises(InvariantError, match="signed once"):
        watch.on_proposal(
            Proposal(height=HEIGHT, round=Round(0), block_hash=B, valid_round=NO_ROUND, proposer=MemberIndex(3))
        )


def test_evidence_against_a_correct_member_is_caught() -> None:
    proof: Evidence = VoteEvidence(first=prevote(4, 0, A), second=prevote(4, 0, B))
    watch_of_nine(4).check_evidence([proof])
    with pytest.raises(InvariantError, match="nobody correct is accused: member 4"):
        watch_of_nine(5).check_evidence([proof])


def test_an_unbounded_tally_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    genesis, _ = genesis_of(9)
    members = chain_rules(genesis).members
    state = start_state(
        HeightContext(
            height=HEIGHT,
            budget=members.budget,
            voters=frozenset(members.indices),
            turns=first_turns(members),
            me=None,
        )
    )
    check_memory(state, 0, 0)
    monkeypatch.setattr(checkers, "TALLIES_MAX", -1)
    with pytest.raises(InvariantError, match="memory is bounded"):
        check_memory(state, 0, 0)


def test_a_block_that_breaks_the_rules_is_caught() -> None:
    built = World(Settings(heights=2), 1, Plan(storm_ms=2_000, faults=(), liars=()))
    built.run()
    last = built.watch._tips[-1].last
    assert last is not None
    watch = watch_of_nine()
    with pytest.raises(InvariantError, match="validity: member 2 appends"):
        watch.on_appended(MemberIndex(2), last, built.watch._tips[-1].state_root)
