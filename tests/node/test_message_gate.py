"""Nothing unproven passes the gate, nothing passes twice, and nothing in this seat's name that it did not sign."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from consensus.blocks import Block, header_hash
from consensus.certificates import RoundCertificate, commit_certificate, polka_certificate
from consensus.chain import make_block
from consensus.errors import RejectionError, RejectionReason
from consensus.genesis import genesis_hash
from consensus.identifiers import NO_ROUND, BlockHash, Height, MemberIndex, Milliseconds, Round, Signature
from consensus.messages import (
    CommitMessage,
    PolkaMessage,
    ProposalMessage,
    RoundMessage,
    VoteMessage,
    encode_message,
)
from consensus.proposals import Proposal, SignedProposal, proposal_sign_bytes
from consensus.votes import Precommit, Prevote, SignedVote
from node.ledger_chain import LedgerChain
from node.message_gate import SEEN_MAX, AgreementMessage, MessageGate, SecondCopyError, height_of
from node.signer import Signer
from tests.node.real_chain import open_ledger_chain, open_signer
from tests.node.small_chain import KEYS, signed, small_chain, small_genesis

GENESIS = small_genesis()
ME = MemberIndex(0)
NEXT = Height(3)
RED = BlockHash(b"r" * 32)


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[LedgerChain]:
    with open_ledger_chain(tmp_path, small_chain(GENESIS, 2)) as opened:
        yield opened


@pytest.fixture
def signer(tmp_path: Path) -> Iterator[Signer]:
    with open_signer(tmp_path) as opened:
        yield opened


@pytest.fixture
def gate(chain: LedgerChain, signer: Signer) -> MessageGate:
    return MessageGate(chain, ME, signer)


def prevote(member: int, round_: int = 0, valid_round: int = NO_ROUND) -> SignedVote:
    return signed(
        GENESIS,
        Prevote(
            height=NEXT,
            round=Round(round_),
            block_hash=RED,
            valid_round=Round(valid_round),
            member=MemberIndex(member),
        ),
    )


def precommit(member: int, round_: int = 0, block_hash: BlockHash | None = RED) -> SignedVote:
    return signed(
        GENESIS, Precommit(height=NEXT, round=Round(round_), block_hash=block_hash, member=MemberIndex(member))
    )


def fresh_block(chain: LedgerChain) -> Block:
    proposer = chain.turns.proposer(NEXT, Round(0))
    return make_block(chain.tip, chain.rules, proposer, transactions=(), evidence=(), now_ms=Milliseconds(9_000))


def proposed(
    chain: LedgerChain, proposer: int | None = None, round_: int = 0, valid_round: int = NO_ROUND
) -> ProposalMessage:
    block = fresh_block(chain)
    turn = chain.turns.proposer(NEXT, Round(round_)) if proposer is None else MemberIndex(proposer)
    made = Proposal(
        height=NEXT,
        round=Round(round_),
        block_hash=header_hash(block.header),
        valid_round=Round(valid_round),
        proposer=turn,
    )
    signature = KEYS[turn].sign(proposal_sign_bytes(made, genesis_hash(GENESIS)))
    return ProposalMessage(
        signed=SignedProposal(proposal=made, signature=signature), block=block, records=(), polka=None
    )


def admitted(gate: MessageGate, message: AgreementMessage) -> bool:
    return gate.admit(message, encode_message(message))


def refused(gate: MessageGate, message: AgreementMessage) -> RejectionReason:
    reasons = list[RejectionReason]()
    for _ in range(2):  # a refused message is not remembered as seen
        with pytest.raises(RejectionError) as caught:
            admitted(gate, message)
        reasons.append(caught.value.reason)
    assert reasons[0] is reasons[1]
    return reasons[0]


def test_what_is_proven_passes_once_a_height(gate: MessageGate, chain: LedgerChain) -> None:
    messages: tuple[AgreementMessage, ...] = (
        VoteMessage(signed=prevote(1)),
        proposed(chain),
        PolkaMessage(certificate=polka_certificate([prevote(member) for member in range(1, 7)])),
        CommitMessage(certificate=commit_certificate([precommit(member) for member in range(1, 7)])),
        RoundMessage(
            certificate=RoundCertificate(
                height=NEXT, round=Round(2), votes=tuple(prevote(member, 2) for member in (1, 2, 3)), proposal=None
            )
        ),
    )
    for message in messages:
        assert height_of(message) == NEXT
        assert admitted(gate, message)
        assert not admitted(gate, message)
    gate.forget()
    assert all(admitted(gate, message) for message in messages)


def test_a_forged_signature_is_refused(gate: MessageGate, chain: LedgerChain) -> None:
    forged = Signature(bytes(64))
    assert refused(gate, VoteMessage(signed=replace(prevote(1), signature=forged))) is RejectionReason.BAD_SIGNATURE
    proposal = proposed(chain)
    unsigned = replace(proposal, signed=replace(proposal.signed, signature=forged))
    assert refused(gate, unsigned) is RejectionReason.BAD_SIGNATURE
    polka = polka_certificate([prevote(member) for member in range(1, 6)] + [replace(prevote(6), signature=forged)])
    assert refused(gate, PolkaMessage(certificate=polka)) is RejectionReason.BAD_SIGNATURE


def test_too_few_are_no_certificate(gate: MessageGate) -> None:
    polka = polka_certificate([prevote(member) for member in range(1, 6)])
    assert refused(gate, PolkaMessage(certificate=polka)) is RejectionReason.NO_QUORUM
    commit = commit_certificate([precommit(member) for member in range(1, 6)])
    assert refused(gate, CommitMessage(certificate=commit)) is RejectionReason.NO_QUORUM


def test_only_the_member_whose_turn_it_is_proposes(gate: MessageGate, chain: LedgerChain) -> None:
    other = (chain.turns.proposer(NEXT, Round(0)) + 1) % 9
    assert refused(gate, proposed(chain, proposer=other)) is RejectionReason.WRONG_PROPOSER


def test_what_stands_beside_a_proposal_is_its_own(gate: MessageGate, chain: LedgerChain) -> None:
    proposal = proposed(chain)
    other = replace(proposal.block, header=replace(proposal.block.header, time_ms=Milliseconds(9_001)))
    assert refused(gate, replace(proposal, block=other)) is RejectionReason.MALFORMED
    polka = polka_certificate([prevote(member) for member in range(1, 7)])
    again = replace(proposed(chain, round_=2, valid_round=0), polka=polka)
    assert refused(gate, again) is RejectionReason.WRONG_CERTIFICATE
    own = [replace(prevote(m, 1).vote, block_hash=again.signed.proposal.block_hash) for m in range(1, 7)]
    of_round_1 = replace(again, polka=polka_certificate([signed(GENESIS, vote) for vote in own]))
    assert refused(gate, of_round_1) is RejectionReason.WRONG_CERTIFICATE


def test_an_own_message_passes_only_if_it_was_signed_here(
    gate: MessageGate, chain: LedgerChain, signer: Signer
) -> None:
    mine = prevote(ME)
    with pytest.raises(
        SecondCopyError, match="another copy of this seat is running, or this home is a backup; stop the other"
    ):
        admitted(gate, VoteMessage(signed=mine))
    assert signer.sign_vote(mine.vote) == mine
    assert admitted(gate, VoteMessage(signed=mine))
    polka = polka_certificate([prevote(member) for member in range(6)])
    assert admitted(gate, PolkaMessage(certificate=polka))
    for message in (
        CommitMessage(certificate=commit_certificate([precommit(member) for member in range(6)])),
        RoundMessage(
            certificate=RoundCertificate(
                height=NEXT,
                round=Round(2),
                votes=tuple(precommit(member, 2, None) for member in (0, 2, 3)),
                proposal=None,
            )
        ),
    ):
        with pytest.raises(SecondCopyError):
            admitted(gate, message)
    turn = next(round_ for round_ in range(1, 10) if chain.turns.proposer(NEXT, Round(round_)) == ME)
    with pytest.raises(SecondCopyError):
        admitted(gate, proposed(chain, round_=turn))


def test_an_old_message_of_this_seat_is_a_replay(gate: MessageGate, signer: Signer) -> None:
    signer.sign_vote(Precommit(height=Height(NEXT + 1), round=Round(0), block_hash=RED, member=ME))
    assert admitted(gate, VoteMessage(signed=prevote(ME)))


def test_the_memory_of_what_was_seen_is_bounded(gate: MessageGate) -> None:
    message = VoteMessage(signed=prevote(1))
    for number in range(SEEN_MAX + 1):
        assert gate.admit(message, number.to_bytes(4, "big"))
    assert not gate.admit(message, (1).to_bytes(4, "big"))
    assert gate.admit(message, (0).to_bytes(4, "big"))
