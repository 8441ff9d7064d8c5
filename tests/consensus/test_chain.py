"""A short chain, and every lie about it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from consensus.blocks import BLOCK_BYTES_MAX, Block, DecidedBlock, Header, certificate_hash, header_hash
from consensus.certificates import (
    CommitCertificate,
    PolkaCertificate,
    bitmap_of,
    commit_certificate,
    polka_certificate,
)
from consensus.chain import (
    ChainRules,
    ChainTip,
    chain_rules,
    check_block,
    check_decided,
    check_fresh,
    check_proof,
    evidence_root,
    genesis_tip,
    make_block,
    next_tip,
    transactions_root,
)
from consensus.errors import RejectionError, RejectionReason
from consensus.evidence import Evidence, fault_place
from consensus.genesis import ConsensusParameters, Genesis, genesis_members
from consensus.identifiers import (
    NO_ROUND,
    BlockHash,
    CertificateHash,
    GenesisHash,
    Height,
    MemberIndex,
    MerkleRoot,
    Milliseconds,
    Round,
    StateRoot,
)
from consensus.proposals import Proposal, SignedProposal, proposal_sign_bytes
from consensus.schedule import MemberSchedule
from consensus.turns import suspensions
from consensus.vote_keeper import proposal_evidence
from consensus.votes import Precommit, Prevote, SignedVote, Vote, vote_sign_bytes
from tests.strategies import signing_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

KEYS = signing_keys(9)
GENESIS = Genesis(
    chain_id="example",
    time_ms=Milliseconds(1_000),
    members=tuple(signing_key.public for signing_key in KEYS),
    parameters=ConsensusParameters(),
    application=b"",
)
RULES = chain_rules(GENESIS)
CHAIN = genesis_members(GENESIS).genesis_hash
ROOT, OTHER = StateRoot(b"s" * 32), b"x" * 32


class Ledger:
    """Knows one bad transaction."""

    def check_transactions(self, transactions: Sequence[bytes]) -> None:
        if b"bad" in transactions:
            raise RejectionError(RejectionReason.BAD_TRANSACTION, "the bad one")

    def check_evidence(self, evidence: Sequence[Evidence]) -> None:
        if any(fault_place(proof)[1] == 8 for proof in evidence):
            raise RejectionError(RejectionReason.BAD_EVIDENCE, "known")

    def apply(self, block: Block) -> StateRoot:
        return StateRoot(transactions_root(block.transactions))

    @property
    def schedule(self) -> MemberSchedule:
        return RULES.schedule


LEDGER = Ledger()


def signed(vote: Vote) -> SignedVote:
    return SignedVote(vote=vote, signature=KEYS[vote.member].sign(vote_sign_bytes(vote, CHAIN)))


def commit_of(block: Block, round_: int = 0, voters: int = 6) -> CommitCertificate:
    name, height = header_hash(block.header), block.header.height
    return commit_certificate(
        [
            signed(Precommit(height=height, round=Round(round_), block_hash=name, member=MemberIndex(m)))
            for m in range(voters)
        ]
    )


def polka_of(block: Block, round_: int, valid_round: int = NO_ROUND) -> PolkaCertificate:
    name, height = header_hash(block.header), block.header.height
    return polka_certificate(
        [
            signed(
                Prevote(
                    height=height,
                    round=Round(round_),
                    block_hash=name,
                    valid_round=Round(valid_round),
                    member=MemberIndex(m),
                )
            )
            for m in range(6)
        ]
    )


def made_on(tip: ChainTip, proposer: int, *transactions: bytes) -> Block:
    return make_block(
        tip, RULES, MemberIndex(proposer), transactions=transactions, evidence=(), now_ms=Milliseconds(5_000)
    )


def decide(block: Block) -> DecidedBlock:
    return DecidedBlock(block=block, commit=commit_of(block), polkas=())


START = genesis_tip(GENESIS, ROOT)
FIRST = made_on(START, 1, b"one")
TIP = next_tip(START, decide(FIRST), LEDGER.apply(FIRST), RULES.schedule)
SECOND = made_on(TIP, 2, b"two", b"three")


def reason(check: Callable[[], None]) -> RejectionReason:
    with pytest.raises(RejectionError) as caught:
        check()
    return caught.value.reason


def checked(block: Block, tip: ChainTip = TIP) -> None:
    check_block(block, tip, RULES, LEDGER)


def test_blocks_follow_each_other_from_genesis() -> None:
    assert FIRST.header.parent_hash == BlockHash(CHAIN)
    assert FIRST.parent_commit is None
    check_decided(decide(FIRST), START, RULES, LEDGER)
    assert SECOND.header.state_root == LEDGER.apply(FIRST)
    check_decided(decide(SECOND), TIP, RULES, LEDGER)


def test_a_block_made_with_a_slow_clock_still_comes_after_its_parent() -> None:
    assert SECOND.header.time_ms == FIRST.header.time_ms + 1
    checked(SECOND)


def test_the_parent_certificate_may_hold_more_precommits_than_decided_it() -> None:
    fuller = commit_of(FIRST, voters=9)
    block = make_block(
        TIP, RULES, MemberIndex(2), transactions=(), evidence=(), now_ms=Milliseconds(9_000), parent_commit=fuller
    )
    checked(block)
    assert block.header.parent_commit_hash == certificate_hash(fuller)


def with_header(changed: Header) -> Block:
    return replace(SECOND, header=changed)


HEADER = SECOND.header
LIES = [
    (replace(HEADER, chain_id="another"), RejectionReason.WRONG_CHAIN),
    (replace(HEADER, protocol_version=2), RejectionReason.WRONG_CHAIN),
    (replace(HEADER, height=Height(3)), RejectionReason.WRONG_HEIGHT),
    (replace(HEADER, height=Height(1)), RejectionReason.WRONG_HEIGHT),
    (replace(HEADER, parent_hash=BlockHash(OTHER)), RejectionReason.WRONG_PARENT),
    (replace(HEADER, parent_commit_hash=CertificateHash(OTHER)), RejectionReason.WRONG_CERTIFICATE),
    (replace(HEADER, transactions_root=MerkleRoot(OTHER)), RejectionReason.WRONG_TRANSACTIONS_ROOT),
    (replace(HEADER, state_root=StateRoot(OTHER)), RejectionReason.WRONG_STATE_ROOT),
    (replace(HEADER, evidence_root=MerkleRoot(OTHER)), RejectionReason.WRONG_EVIDENCE_ROOT),
    (replace(HEADER, proposer=MemberIndex(9)), RejectionReason.NOT_A_MEMBER),
    (replace(HEADER, time_ms=FIRST.header.time_ms), RejectionReason.WRONG_TIME),
]


@pytest.mark.parametrize(("header", "expected"), LIES)
def test_every_field_of_a_header_is_checked(header: Header, expected: RejectionReason) -> None:
    assert reason(lambda: checked(with_header(header))) is expected


def test_every_field_of_a_header_has_its_lie() -> None:
    changed = {
        name for lie, _ in LIES for name in Header.__struct_fields__ if getattr(lie, name) != getattr(HEADER, name)
    }
    assert changed == set(Header.__struct_fields__)


def test_transactions_are_those_of_the_header_in_its_order() -> None:
    for transactions in ((b"two",), (b"three", b"two"), (b"two", b"three", b""), (b"twothree",)):
        changed = replace(SECOND, transactions=transactions)
        assert reason(lambda block=changed: checked(block)) is RejectionReason.WRONG_TRANSACTIONS_ROOT  # type: ignore[misc]


def test_the_application_has_the_last_word_on_transactions() -> None:
    assert reason(lambda: checked(made_on(TIP, 2, b"bad"))) is RejectionReason.BAD_TRANSACTION


def test_a_block_beyond_its_limit_is_refused() -> None:
    large = made_on(TIP, 2, *[bytes([i]) * 1024 * 1024 for i in range(BLOCK_BYTES_MAX // (1024 * 1024))])
    assert reason(lambda: checked(large)) is RejectionReason.OVERSIZED


def on_certificate(certificate: CommitCertificate | None) -> Block:
    stated = bytes(32) if certificate is None else certificate_hash(certificate)
    header = replace(HEADER, parent_commit_hash=CertificateHash(stated))
    return replace(SECOND, header=header, parent_commit=certificate)


def test_the_parent_certificate_must_prove_the_parent() -> None:
    other = made_on(START, 1, b"other")
    short = commit_of(FIRST, voters=5)
    assert reason(lambda: checked(on_certificate(None))) is RejectionReason.WRONG_CERTIFICATE
    assert reason(lambda: checked(on_certificate(commit_of(other)))) is RejectionReason.WRONG_CERTIFICATE
    assert reason(lambda: checked(on_certificate(short))) is RejectionReason.NO_QUORUM
    first = replace(FIRST, parent_commit=commit_of(FIRST))
    assert reason(lambda: checked(first, START)) is RejectionReason.WRONG_CERTIFICATE


def conflict(member: int) -> tuple[SignedProposal, SignedProposal]:
    made = [
        Proposal(
            height=Height(1),
            round=Round(0),
            block_hash=BlockHash(bytes([fill]) * 32),
            valid_round=NO_ROUND,
            proposer=MemberIndex(member),
        )
        for fill in (1, 2)
    ]
    one, two = (SignedProposal(proposal=p, signature=KEYS[member].sign(proposal_sign_bytes(p, CHAIN))) for p in made)
    return one, two


def test_evidence_is_proven_sorted_and_named_by_the_header() -> None:
    proofs = [proposal_evidence(*conflict(member)) for member in (4, 2)]
    block = make_block(
        TIP, RULES, MemberIndex(2), transactions=(), evidence=[*proofs, proofs[0]], now_ms=Milliseconds(9_000)
    )
    assert len(block.evidence) == 2
    checked(block)
    known = make_block(
        TIP, RULES, MemberIndex(2), transactions=(), evidence=[proposal_evidence(*conflict(8))], now_ms=Milliseconds(9)
    )
    assert reason(lambda: checked(known)) is RejectionReason.BAD_EVIDENCE
    turned = block.evidence[::-1]
    header = replace(block.header, evidence_root=evidence_root(turned))
    disordered = replace(block, header=header, evidence=turned)
    assert reason(lambda: checked(disordered)) is RejectionReason.BAD_EVIDENCE
    forged = (replace(block.evidence[0], second=block.evidence[0].first),)
    header = replace(block.header, evidence_root=evidence_root(forged))
    assert reason(lambda: checked(replace(block, header=header, evidence=forged))) is RejectionReason.BAD_EVIDENCE


def test_a_fresh_block_is_its_proposers_and_of_now() -> None:
    header = replace(HEADER, time_ms=Milliseconds(100_000))

    def fresh(round_: int, now_ms: int, of: Header = header) -> None:
        check_fresh(of, TIP, RULES, Round(round_), Milliseconds(now_ms))

    fresh(0, 110_500)
    fresh(0, 89_500)
    assert reason(lambda: fresh(0, 110_501)) is RejectionReason.WRONG_TIME
    assert reason(lambda: fresh(0, 89_499)) is RejectionReason.WRONG_TIME
    assert reason(lambda: fresh(1, 100_000)) is RejectionReason.WRONG_PROPOSER
    fresh(4, 111_500, replace(header, proposer=MemberIndex(6)))


def test_a_parent_ahead_of_the_clock_is_followed_one_millisecond_later() -> None:
    ahead, now_ms = dataclasses.replace(TIP, time_ms=Milliseconds(100_000)), 50_000

    def fresh(time_ms: int, now_ms: int) -> None:
        check_fresh(replace(HEADER, time_ms=Milliseconds(time_ms)), ahead, RULES, Round(0), Milliseconds(now_ms))

    fresh(100_001, now_ms)
    assert reason(lambda: fresh(100_002, now_ms)) is RejectionReason.WRONG_TIME
    assert reason(lambda: fresh(100_001, 150_000)) is RejectionReason.WRONG_TIME


def proof(block: Block, round_: int, *polkas: PolkaCertificate) -> None:
    check_proof(DecidedBlock(block=block, commit=commit_of(block, round_), polkas=polkas), TIP, RULES)


def test_a_later_decision_needs_its_polkas_back_to_the_first() -> None:
    block = made_on(TIP, 3)  # fresh in round 1
    proof(block, 1, polka_of(block, 1))
    proof(block, 5, polka_of(block, 5, 3), polka_of(block, 3, 1), polka_of(block, 1))
    for polkas in (
        (),
        (polka_of(block, 1),),
        (polka_of(block, 5, 3),),
        (polka_of(block, 5, 3), polka_of(block, 1)),
        (polka_of(block, 5, 3), polka_of(block, 3, 1)),
    ):
        assert reason(lambda given=polkas: proof(block, 5, *given)) is RejectionReason.MISSING_POLKA  # type: ignore[misc]


def test_polkas_that_do_not_belong_are_refused() -> None:
    block, other = made_on(TIP, 3), made_on(TIP, 3, b"other")
    assert reason(lambda: proof(block, 1, polka_of(other, 1))) is RejectionReason.WRONG_CERTIFICATE
    extra = (polka_of(block, 1), polka_of(block, 0))
    assert reason(lambda: proof(block, 1, *extra)) is RejectionReason.MISSING_POLKA
    assert reason(lambda: proof(SECOND, 0, polka_of(SECOND, 0))) is RejectionReason.WRONG_CERTIFICATE


def test_a_decided_block_was_its_proposers_turn() -> None:
    stolen = made_on(TIP, 4)
    assert reason(lambda: proof(stolen, 0)) is RejectionReason.WRONG_PROPOSER
    assert reason(lambda: proof(stolen, 1, polka_of(stolen, 1))) is RejectionReason.WRONG_PROPOSER
    proof(stolen, 2, polka_of(stolen, 2))


def test_a_suspended_member_has_no_turn() -> None:
    second = MemberIndex(2)
    without = dataclasses.replace(TIP, turns=replace(TIP.turns, suspended=bitmap_of([second])))
    assert reason(lambda: check_proof(decide(SECOND), without, RULES)) is RejectionReason.WRONG_PROPOSER
    assert (
        reason(lambda: check_fresh(HEADER, without, RULES, Round(0), HEADER.time_ms)) is RejectionReason.WRONG_PROPOSER
    )
    check_decided(decide(made_on(without, 3)), without, RULES, LEDGER)  # the third of eight


def test_the_turns_of_a_height_follow_from_the_blocks_below() -> None:
    tip, mute = START, MemberIndex(4)
    for _ in range(60):
        height = Height(tip.height + 1)
        round_ = int(tip.turns.proposer(height, Round(0)) == mute)
        proposer = tip.turns.proposer(height, Round(round_))
        last = None if tip.last is None else tip.last.commit
        block = make_block(tip, RULES, proposer, transactions=(), evidence=(), now_ms=tip.time_ms, parent_commit=last)
        polkas = (polka_of(block, round_),) if round_ else ()
        decided = DecidedBlock(block=block, commit=commit_of(block, round_), polkas=polkas)
        check_decided(decided, tip, RULES, LEDGER)
        tip = next_tip(tip, decided, LEDGER.apply(block), RULES.schedule)
    assert mute in suspensions(tip.turns)


def test_a_decision_is_proven_by_its_own_certificate() -> None:
    borrowed = DecidedBlock(block=SECOND, commit=commit_of(FIRST), polkas=())
    assert reason(lambda: check_proof(borrowed, TIP, RULES)) is RejectionReason.WRONG_CERTIFICATE
    twin = made_on(TIP, 2, b"four")
    borrowed = DecidedBlock(block=SECOND, commit=commit_of(twin), polkas=())
    assert reason(lambda: check_proof(borrowed, TIP, RULES)) is RejectionReason.WRONG_CERTIFICATE
    short = DecidedBlock(block=SECOND, commit=commit_of(SECOND, voters=5), polkas=())
    assert reason(lambda: check_proof(short, TIP, RULES)) is RejectionReason.NO_QUORUM


def test_another_genesis_is_another_chain() -> None:
    elsewhere = chain_rules(replace(GENESIS, time_ms=Milliseconds(1_001)))
    assert elsewhere.members.genesis_hash != GenesisHash(CHAIN)
    assert reason(lambda: check_proof(decide(SECOND), TIP, elsewhere)) is RejectionReason.BAD_SIGNATURE
    assert isinstance(elsewhere, ChainRules)


def test_one_key_on_two_seats_is_refused() -> None:
    twice = replace(GENESIS, members=(GENESIS.members[0], *GENESIS.members[:8]))
    with pytest.raises(RejectionError) as caught:
        chain_rules(twice)
    assert caught.value.reason is RejectionReason.BAD_GENESIS
