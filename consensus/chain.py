"""Block validity, append, and the application's side of the contract (rules A50 to A53).

A block is checked three ways. `check_block`: may it follow this tip at all; the same answer for ever and everywhere.
`check_fresh`: besides, may this proposer suggest it now; asked of a proposal without a valid round alone, since it
depends on a clock. `check_decided`: `check_block`, and was it decided; what catch-up, audit and append ask.

Heights start at 1; the first block's parent hash is the genesis hash and it carries no parent certificate. The parent
certificate in a block's body may hold more precommits than the one its parent was decided by, or be of another round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from consensus.blocks import (
    BLOCK_BYTES_MAX,
    EVIDENCE_MAX,
    NO_CERTIFICATE,
    PROTOCOL_VERSION,
    Block,
    Header,
    certificate_hash,
    check_header_commit,
    header_hash,
)
from consensus.certificates import check_commit, check_polka
from consensus.encoding import encode
from consensus.errors import RejectionError, RejectionReason
from consensus.evidence import check_evidence, fault_place
from consensus.identifiers import NO_ROUND, BlockHash, Height, Milliseconds
from consensus.merkle import list_root
from consensus.schedule import genesis_schedule
from consensus.signing import check_signature
from consensus.timeouts import clock_drift_ms
from consensus.turns import first_turns, turn_facts, turns_after

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consensus.blocks import DecidedBlock
    from consensus.certificates import CommitCertificate
    from consensus.evidence import Evidence
    from consensus.genesis import ConsensusParameters, Genesis
    from consensus.identifiers import MemberIndex, MerkleRoot, Round, StateRoot
    from consensus.members import MemberSet
    from consensus.schedule import MemberSchedule
    from consensus.signing import SignatureCheck
    from consensus.turns import ProposerOrder, TurnState


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainTip:
    """Where the chain stands: the last decided block, the state root after it (not yet in any header), who is next."""

    height: Height
    block_hash: BlockHash
    time_ms: Milliseconds
    state_root: StateRoot
    last: DecidedBlock | None
    turns: TurnState


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainRules:
    """What the next block is judged by: members and parameters of its height, and of those below (rule M2)."""

    chain_id: str
    parameters: ConsensusParameters
    members: MemberSet
    schedule: MemberSchedule


class Application(Protocol):
    """What consensus asks of the ledger: check a payload, apply it, return root and members."""

    def check_transactions(self, transactions: Sequence[bytes]) -> None:
        """Raise RejectionError if these can never stand in a block (encoding, signature, size, duplicates)."""
        ...

    def check_evidence(self, evidence: Sequence[Evidence]) -> None:
        """Raise RejectionError(BAD_EVIDENCE) if a fault is on chain already; the proofs themselves are checked."""
        ...

    def apply(self, block: Block) -> StateRoot:
        """Apply a decided block atomically and durably; return the state root after it."""
        ...

    @property
    def schedule(self) -> MemberSchedule:
        """Return who agrees on the heights up to two above the last block that was applied."""
        ...


def chain_rules(genesis: Genesis) -> ChainRules:
    """Return the rules that genesis sets; raises RejectionError(BAD_GENESIS)."""
    return rules_at(genesis.chain_id, genesis_schedule(genesis), Height(1))


def rules_at(chain_id: str, schedule: MemberSchedule, height: Height) -> ChainRules:
    """Return the rules of a height, which is at most two above the block that the schedule follows from."""
    return ChainRules(
        chain_id=chain_id,
        parameters=schedule.parameters_at(height),
        members=schedule.members_at(height),
        schedule=schedule,
    )


def genesis_tip(genesis: Genesis, state_root: StateRoot) -> ChainTip:
    """Return the tip before the first block; its hash is the genesis hash."""
    members = genesis_schedule(genesis).members_at(Height(0))
    return ChainTip(
        height=Height(0),
        block_hash=BlockHash(members.genesis_hash),
        time_ms=genesis.time_ms,
        state_root=state_root,
        last=None,
        turns=first_turns(members),
    )


def next_tip(tip: ChainTip, decided: DecidedBlock, state_root: StateRoot, schedule: MemberSchedule) -> ChainTip:
    """Return the tip after a decided block that gave this state root and this schedule."""
    height = decided.block.header.height
    facts = turn_facts(decided.block, schedule.members_at(height))
    following = schedule.members_at(Height(height + 1))
    return tip_at(decided, state_root, turns_after(tip.turns, facts, following))


def tip_at(decided: DecidedBlock, state_root: StateRoot, turns: TurnState) -> ChainTip:
    """Return the tip of which only the last block is at hand; the turns are those above it."""
    header = decided.block.header
    return ChainTip(
        height=header.height,
        block_hash=header_hash(header),
        time_ms=header.time_ms,
        state_root=state_root,
        last=decided,
        turns=turns,
    )


def transactions_root(transactions: Sequence[bytes]) -> MerkleRoot:
    """Return the Merkle list root over the transactions' bytes."""
    return list_root(transactions)


def evidence_root(evidence: Sequence[Evidence]) -> MerkleRoot:
    """Return the Merkle list root over the encodings of evidence."""
    return list_root([encode(proof) for proof in evidence])


def make_block(
    tip: ChainTip,
    rules: ChainRules,
    proposer: MemberIndex,
    *,
    transactions: Sequence[bytes],
    evidence: Sequence[Evidence],
    now_ms: Milliseconds,
    parent_commit: CommitCertificate | None = None,
) -> Block:
    """Return this proposer's block on the tip.

    Args:
        tip: The parent.
        rules: Of this chain.
        proposer: Whose turn it is.
        transactions: Checked by the application; the caller keeps the block within BLOCK_BYTES_MAX, records included.
        evidence: Checked, of faults that are not on chain; here brought into canonical order, one proof a fault, none
            of a later height, at most EVIDENCE_MAX.
        now_ms: The clock; a block comes at least 1 ms after its parent whatever it says.
        parent_commit: With every precommit that was heard (`decided_commit`); the tip's own when None.
    """
    commit = parent_commit or (None if tip.last is None else tip.last.commit)
    height = Height(tip.height + 1)
    chosen = {fault_place(proof): proof for proof in evidence if fault_place(proof)[2] <= height}
    proofs = tuple(sorted(list(chosen.values())[:EVIDENCE_MAX], key=encode))
    header = Header(
        protocol_version=PROTOCOL_VERSION,
        chain_id=rules.chain_id,
        height=height,
        parent_hash=tip.block_hash,
        parent_commit_hash=NO_CERTIFICATE if commit is None else certificate_hash(commit),
        transactions_root=transactions_root(transactions),
        state_root=tip.state_root,
        evidence_root=evidence_root(proofs),
        proposer=proposer,
        time_ms=Milliseconds(max(now_ms, tip.time_ms + 1)),
    )
    return Block(header=header, parent_commit=commit, evidence=proofs, transactions=tuple(transactions))


def check_block(
    block: Block,
    tip: ChainTip,
    rules: ChainRules,
    application: Application,
    check: SignatureCheck = check_signature,
) -> None:
    """Verify everything about a block but whether it was decided (rules A50, A51).

    Raises:
        RejectionError: WRONG_CHAIN, WRONG_HEIGHT, WRONG_PARENT, WRONG_STATE_ROOT, WRONG_TIME, NOT_A_MEMBER, OVERSIZED,
            WRONG_CERTIFICATE and what check_commit gives, WRONG_EVIDENCE_ROOT, BAD_EVIDENCE, WRONG_TRANSACTIONS_ROOT,
            and whatever the application says of evidence and transactions; WRONG_HEIGHT too for evidence older than
            the members that are remembered.
    """
    _check_header(block.header, tip, rules)
    if len(encode(block)) > BLOCK_BYTES_MAX:
        raise RejectionError(RejectionReason.OVERSIZED, f"a block has at most {BLOCK_BYTES_MAX} bytes")
    _check_parent_commit(block, tip, rules, check)
    _check_evidence(block, rules, check)
    application.check_evidence(block.evidence)
    if block.header.transactions_root != transactions_root(block.transactions):
        raise RejectionError(RejectionReason.WRONG_TRANSACTIONS_ROOT, "header and body differ")
    application.check_transactions(block.transactions)


def check_fresh(header: Header, tip: ChainTip, rules: ChainRules, round_: Round, now_ms: Milliseconds) -> None:
    """Verify that a proposal without a valid round brings the proposer's own block of now (rule A52).

    A parent ahead of this clock, decided while too many clocks were wrong, is followed 1 ms later: time stands still
    until the clocks have caught up, the chain does not.

    Raises:
        RejectionError: WRONG_PROPOSER, or WRONG_TIME more than drift + T(round) away from this member's clock.
    """
    _check_turn(header, tip.turns, round_)
    if header.time_ms == tip.time_ms + 1 and tip.time_ms >= now_ms:
        return
    drift_ms = clock_drift_ms(round_, rules.parameters)
    apart_ms = abs(header.time_ms - now_ms)
    if apart_ms > drift_ms:
        raise RejectionError(RejectionReason.WRONG_TIME, f"{apart_ms} ms from this clock, at most {drift_ms}")


def check_decided(
    decided: DecidedBlock,
    tip: ChainTip,
    rules: ChainRules,
    application: Application,
    check: SignatureCheck = check_signature,
) -> None:
    """Verify that a block follows the tip and was decided: for catch-up, replay and before every append.

    Raises:
        RejectionError: What check_block and check_proof give.
    """
    check_block(decided.block, tip, rules, application, check)
    check_proof(decided, tip, rules, check)


def check_proof(
    decided: DecidedBlock, tip: ChainTip, rules: ChainRules, check: SignatureCheck = check_signature
) -> None:
    """Verify that a block was decided, and made by the member whose turn it was (rule A26).

    Raises:
        RejectionError: WRONG_PROPOSER and what check_decision gives.
    """
    _check_turn(decided.block.header, tip.turns, check_decision(decided, rules.members, check))


def check_decision(decided: DecidedBlock, members: MemberSet, check: SignatureCheck = check_signature) -> Round:
    """Verify the commit certificate and, decided in a round above 0, the polkas back to valid round -1 (rule A26).

    Returns:
        The round of the earliest polka, or 0: the one in which the block was made.

    Raises:
        RejectionError: WRONG_CERTIFICATE, MISSING_POLKA and what check_commit and check_polka give.
    """
    commit = decided.commit
    check_header_commit(decided.block.header, commit, members, check)
    if commit.round > 0:
        return _check_polka_chain(decided, members, check)
    if decided.polkas:
        raise RejectionError(RejectionReason.WRONG_CERTIFICATE, "a decision of round 0 carries no polkas")
    return commit.round


def _check_polka_chain(decided: DecidedBlock, members: MemberSet, check: SignatureCheck) -> Round:
    """Walk the polkas, latest first; return the round of the earliest, in which the block was fresh."""
    commit, expected, fresh = decided.commit, decided.commit.round, decided.commit.round
    for polka in decided.polkas:
        if (polka.height, polka.block_hash) != (commit.height, commit.block_hash):
            raise RejectionError(RejectionReason.WRONG_CERTIFICATE, "a polka of another block")
        if polka.round != expected:
            raise RejectionError(RejectionReason.MISSING_POLKA, f"polka of round {polka.round}, not {expected}")
        check_polka(polka, members, check)
        fresh, expected = polka.round, polka.valid_round
    if expected != NO_ROUND:
        raise RejectionError(RejectionReason.MISSING_POLKA, f"no polka of round {expected}")
    return fresh


def _check_turn(header: Header, turns: ProposerOrder, round_: Round) -> None:
    expected = turns.proposer(header.height, round_)
    if header.proposer != expected:
        raise RejectionError(
            RejectionReason.WRONG_PROPOSER, f"block of member {header.proposer}, round {round_} was {expected}'s"
        )


def _check_header(header: Header, tip: ChainTip, rules: ChainRules) -> None:
    if (header.chain_id, header.protocol_version) != (rules.chain_id, PROTOCOL_VERSION):
        named = f"chain {header.chain_id!r}, version {header.protocol_version}"
        raise RejectionError(RejectionReason.WRONG_CHAIN, named)
    if header.height != tip.height + 1:
        raise RejectionError(RejectionReason.WRONG_HEIGHT, f"height {header.height} on tip {tip.height}")
    if header.parent_hash != tip.block_hash:
        raise RejectionError(RejectionReason.WRONG_PARENT, f"parent {header.parent_hash.hex()[:16]}")
    if header.state_root != tip.state_root:
        raise RejectionError(
            RejectionReason.WRONG_STATE_ROOT, f"{header.state_root.hex()[:16]}, here {tip.state_root.hex()[:16]}"
        )
    if header.time_ms <= tip.time_ms:
        raise RejectionError(RejectionReason.WRONG_TIME, "not after the parent's")
    rules.members.public_key(header.proposer)


def _check_parent_commit(block: Block, tip: ChainTip, rules: ChainRules, check: SignatureCheck) -> None:
    commit, stated = block.parent_commit, block.header.parent_commit_hash
    if commit is None:
        if tip.height != 0 or stated != NO_CERTIFICATE:
            raise RejectionError(RejectionReason.WRONG_CERTIFICATE, "no certificate of the parent")
        return
    if (commit.height, commit.block_hash) != (tip.height, tip.block_hash) or tip.height == 0:
        raise RejectionError(RejectionReason.WRONG_CERTIFICATE, "the certificate is not of the parent")
    if stated != certificate_hash(commit):
        raise RejectionError(RejectionReason.WRONG_CERTIFICATE, "header and body name different certificates")
    check_commit(commit, rules.schedule.members_at(tip.height), check)


def _check_evidence(block: Block, rules: ChainRules, check: SignatureCheck) -> None:
    if block.header.evidence_root != evidence_root(block.evidence):
        raise RejectionError(RejectionReason.WRONG_EVIDENCE_ROOT, "header and body differ")
    encodings = [encode(proof) for proof in block.evidence]
    if encodings != sorted(set(encodings)):
        raise RejectionError(RejectionReason.BAD_EVIDENCE, "out of order, or the same proof twice")
    places = {fault_place(proof) for proof in block.evidence}
    if len(places) != len(block.evidence):
        raise RejectionError(RejectionReason.BAD_EVIDENCE, "two proofs of one fault")
    if any(height > block.header.height for _, _, height, _ in places):
        raise RejectionError(RejectionReason.BAD_EVIDENCE, "a fault of a later height")
    for proof in block.evidence:
        check_evidence(proof, rules.schedule.members_at(fault_place(proof)[2]), check)
