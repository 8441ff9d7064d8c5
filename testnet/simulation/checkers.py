"""What must hold after every step of every world, watched from outside of the nodes.

- Agreement: correct members append the same block at each height.
- Validity: each decided block follows the one before by the rules, and gives the state root of a ledger of our own.
- Lock safety, (a) of a member: after its precommit for v in round r it prevotes for another block only above a polka of
  a round from r on; (b) of all: once q - liars correct members have precommitted v in r, fewer than that prevote for
  another block later. A nil prevote is allowed: a member whose propose timeout ends says nil whatever it has locked.
- Signed once: no correct member releases signatures of two values for one (height, round, kind), crashes included.
- Certificates hold q distinct members, and only what their correct ones signed.
- No correct member is accused: no evidence against it in a block; nor refused: no frame of it breaks a rule.
- Replay of the log gives the state; whatever a power cut leaves, a node starts again.
- Memory: what a member keeps of a height is bounded.

Decisions after healing are timed by the world (world.py). A polka of which liars are part is known only to exist when
enough correct members prevoted: q - liars.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from consensus.blocks import header_hash
from consensus.certificates import check_commit, check_polka, signers
from consensus.chain import check_block, genesis_tip, next_tip, rules_at
from consensus.errors import RejectionError
from consensus.evidence import fault_place
from consensus.height_state import start_state
from consensus.identifiers import Height
from consensus.messages import ProposalMessage, VoteMessage, decode_message
from consensus.proposals import Proposal
from consensus.vote_keeper import POLKAS_KEPT, ROUNDS_KEPT
from consensus.votes import Precommit, Prevote, SignedVote
from node.inbox import MEMBER_MESSAGES_MAX
from node.log_replay import replay_log
from node.mempool import MEMPOOL_BYTES_MAX
from storage.ledger import apply_block, check_transactions, context_after, genesis_state, ledger_context
from storage.state import MemoryState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consensus.blocks import Block, DecidedBlock
    from consensus.certificates import CommitCertificate, PolkaCertificate
    from consensus.chain import ChainTip
    from consensus.evidence import Evidence
    from consensus.genesis import Genesis
    from consensus.height_state import HeightState
    from consensus.identifiers import BlockHash, MemberIndex, PublicKey, Round, StateRoot
    from consensus.members import MemberSet
    from consensus.schedule import MemberSchedule
    from consensus.signing import SignatureCheck
    from consensus.votes import Vote
    from node.write_ahead_log import LogContents
    from storage.ledger import LedgerContext

    Place = tuple[Round, BlockHash]

PROPOSAL_TAG: Final = 32
VOTE_TAG: Final = 33
TAG_AT: Final = 2
"""Where a frame's tag stands: behind the heads of two short arrays."""
TALLIES_MAX: Final = 4 * (2 * ROUNDS_KEPT + 1)
"""Rounds within reach, and those that certificates moved a member through."""


class Invariant(StrEnum):
    """What was broken."""

    AGREEMENT = "agreement"
    VALIDITY = "validity"
    LOCK_SAFETY = "lock safety"
    SIGNED_ONCE = "signed once"
    CERTIFICATES = "certificates"
    NOBODY_CORRECT_ACCUSED = "nobody correct is accused"
    NOBODY_CORRECT_REFUSED = "nobody correct is refused"
    REPLAY_IS_STATE = "replay is state"
    STARTS_AGAIN = "starts again"
    MEMORY = "memory is bounded"
    DECIDES_AFTER_HEALING = "decides after healing"
    NO_BUG = "no assertion fails"


class InvariantError(AssertionError):
    """An invariant does not hold in this world."""

    def __init__(self, invariant: Invariant, detail: str) -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant = invariant
        self.detail = detail


@dataclass(slots=True)
class _Votes:
    """What correct members signed at one height; `locks` is the last block that each member precommitted."""

    prevoters: dict[Place, set[MemberIndex]] = field(default_factory=dict["Place", "set[MemberIndex]"])
    precommitters: dict[Place, set[MemberIndex]] = field(default_factory=dict["Place", "set[MemberIndex]"])
    locks: dict[MemberIndex, Place] = field(default_factory=dict["MemberIndex", "Place"])


class Watch:
    """Sees what correct nodes sign, append and refuse; raises InvariantError."""

    def __init__(self, genesis: Genesis, liars: frozenset[PublicKey], check: SignatureCheck) -> None:
        """Watch a world whose liars are known; members and budget are the ledger's here, whatever its nodes believe."""
        self._chain_id = genesis.chain_id
        self._liars = set(liars)
        self._check = check
        self._statements: dict[tuple[str, MemberIndex, Height, Round], object] = {}
        self._votes: dict[Height, _Votes] = {}
        self._context = ledger_context(genesis)
        self._ledger = MemoryState()
        change = genesis_state(genesis)
        self._ledger.commit(change.values, change.pages)
        self._tips: list[ChainTip] = [genesis_tip(genesis, change.state_root)]
        self.rounds_decided: list[Round] = []
        self.faults = 0
        """Proven in blocks so far."""

    @property
    def height(self) -> Height:
        """The highest that any correct node has appended."""
        return self._tips[-1].height

    @property
    def context(self) -> LedgerContext:
        """What follows from the state after the highest block."""
        return self._context

    @property
    def state(self) -> MemoryState:
        """The state after the highest block."""
        return self._ledger

    @property
    def schedule(self) -> MemberSchedule:
        """Who agrees on which height (the Application's part)."""
        return self._context.schedule

    def note_liar(self, public_key: PublicKey) -> None:
        """Learn of a liar's new key."""
        self._liars.add(public_key)

    def _is_liar(self, member: MemberIndex, height: Height) -> bool:
        """Say whether who sits there at a height is a liar; whoever never sat is none."""
        return self._members(height).public_key(member) in self._liars

    def _was_liar(self, seat: MemberIndex) -> bool:
        """Say whether a liar sits or has sat there: its last words arrive late, in heights that are another's."""
        return any(members.index_of(liar) == seat for members in self.schedule.members for liar in self._liars)

    def _members(self, height: Height) -> MemberSet:
        return self._context.schedule.members_at(height)

    def _quorum(self, height: Height) -> int:
        budget = self._members(height).budget
        return budget.members - budget.failures

    def _possible(self, height: Height) -> int:
        """So many correct votes make a certificate possible, with all liars' help."""
        members = self._members(height)
        return self._quorum(height) - sum(self._is_liar(member, height) for member in members.indices)

    @property
    def statements(self) -> list[MemberIndex]:
        """Return who has said something, once for each of its statements, in their order."""
        return [member for _, member, _, _ in self._statements]

    # --- signatures --------------------------------------------------------------------------------------------------

    def on_frame(self, frame: bytes) -> Vote | None:
        """A correct member sends this to all; return a vote that it says for the first time."""
        if frame[TAG_AT] not in {PROPOSAL_TAG, VOTE_TAG}:
            return None
        message = decode_message(frame)
        match message:
            case VoteMessage(signed=signed):
                return signed.vote if self.on_vote(signed) else None
            case ProposalMessage():
                self.on_proposal(message.signed.proposal)
                self.check_evidence(message.block.evidence)
                return None
            case _:
                raise AssertionError(f"the tag says otherwise than {type(message).__name__}")

    def on_vote(self, signed: SignedVote) -> bool:
        """A correct member released a vote; say whether for the first time."""
        vote = signed.vote
        is_new = self._note_statement((type(vote).__name__, vote.member, vote.height, vote.round), vote)
        if not is_new or vote.block_hash is None:
            return is_new
        votes = self._votes.setdefault(vote.height, _Votes())
        if isinstance(vote, Prevote):
            self._check_prevote(votes, vote, vote.block_hash)
            votes.prevoters.setdefault((vote.round, vote.block_hash), set()).add(vote.member)
            self._check_locked(votes, vote)
        else:
            votes.locks[vote.member] = vote.round, vote.block_hash
            votes.precommitters.setdefault((vote.round, vote.block_hash), set()).add(vote.member)
        return True

    def on_proposal(self, proposal: Proposal) -> None:
        """A correct member released a proposal."""
        self._note_statement(("Proposal", proposal.proposer, proposal.height, proposal.round), proposal)

    def _note_statement(self, place: tuple[str, MemberIndex, Height, Round], statement: Vote | Proposal) -> bool:
        known = self._statements.setdefault(place, statement)
        if known is statement:
            return True
        if known != statement:
            raise InvariantError(Invariant.SIGNED_ONCE, f"{statement} after {known}")
        return False

    def _check_prevote(self, votes: _Votes, vote: Prevote, block_hash: BlockHash) -> None:
        lock = votes.locks.get(vote.member)
        if lock is None or lock[1] == block_hash or vote.round <= lock[0]:
            return
        valid_round = vote.valid_round
        prevoters = votes.prevoters.get((valid_round, block_hash), ())
        if not lock[0] <= valid_round < vote.round or len(prevoters) < self._possible(vote.height):
            detail = f"member {vote.member}, locked on {lock[1].hex()[:8]} in round {lock[0]}, prevotes {vote}"
            raise InvariantError(Invariant.LOCK_SAFETY, detail)

    def _check_locked(self, votes: _Votes, vote: Prevote) -> None:
        """No second polka is possible after a possible commit."""
        round_, block_hash, possible = vote.round, vote.block_hash, self._possible(vote.height)
        assert block_hash is not None, "nil locks nothing"
        if len(votes.prevoters[round_, block_hash]) < possible:
            return
        for (locked_round, locked_hash), members in votes.precommitters.items():
            if locked_round < round_ and locked_hash != block_hash and len(members) >= possible:
                detail = (
                    f"{locked_hash.hex()[:8]} may be committed in round {locked_round},"
                    f" {block_hash.hex()[:8]} may have a polka in round {round_}"
                )
                raise InvariantError(Invariant.LOCK_SAFETY, detail)

    # --- blocks ------------------------------------------------------------------------------------------------------

    def on_appended(self, member: MemberIndex, decided: DecidedBlock, state_root: StateRoot) -> None:
        """A correct member appended a block."""
        header = decided.block.header
        if header.height > self.height + 1:
            raise InvariantError(Invariant.VALIDITY, f"member {member} appends {header.height} on {self.height}")
        self._check_commit(decided.commit)
        for polka in decided.polkas:
            self._check_polka(polka)
        if header.height == self.height + 1:
            self._extend(decided)
        tip = self._tips[header.height]
        if tip.block_hash != header_hash(header):
            named = f"{header_hash(header).hex()[:8]}, others {tip.block_hash.hex()[:8]}"
            raise InvariantError(Invariant.AGREEMENT, f"height {header.height}: member {member} has {named}")
        if tip.state_root != state_root:
            raise InvariantError(Invariant.AGREEMENT, f"height {header.height}: state root of member {member}")

    def check_evidence(self, evidence: Sequence[Evidence]) -> None:
        """Evidence that a correct member believes, or that stands in a block."""
        for proof in evidence:
            _, accused, height, _ = fault_place(proof)
            if not self._is_liar(accused, height):
                raise InvariantError(Invariant.NOBODY_CORRECT_ACCUSED, f"member {accused} by {proof}")

    def on_refused(self, sender: MemberIndex, receiver: MemberIndex, error: Exception) -> None:
        """A correct member refused what another one sent."""
        if not self._was_liar(sender):
            detail = f"member {receiver} refuses member {sender}: {error}"
            raise InvariantError(Invariant.NOBODY_CORRECT_REFUSED, detail)

    def _extend(self, decided: DecidedBlock) -> None:
        """Follow the chain with rules, ledger and certificates of our own."""
        block, tip = decided.block, self._tips[-1]
        try:
            rules = rules_at(self._chain_id, self.schedule, block.header.height)
            check_block(block, tip, rules, self, self._check)
        except RejectionError as error:
            raise InvariantError(Invariant.VALIDITY, f"height {block.header.height}: {error}") from error
        if (decided.commit.height, decided.commit.block_hash) != (block.header.height, header_hash(block.header)):
            raise InvariantError(Invariant.CERTIFICATES, f"height {block.header.height}: of another block")
        self.check_evidence(block.evidence)
        self.faults += len(block.evidence)
        change = apply_block(self._context, self._ledger, block)
        self._ledger.commit(change.values, change.pages)
        self._context = context_after(self._context, self._ledger, change)
        self._tips.append(next_tip(tip, decided, change.state_root, self.schedule))
        self.rounds_decided.append(decided.commit.round)

    def check_transactions(self, transactions: Sequence[bytes]) -> None:
        """The Application's part of check_block()."""
        check_transactions(self._context, transactions, self._check)

    def apply(self, block: Block) -> StateRoot:
        """The Application's other part; nobody asks."""
        raise AssertionError(f"the watch applies block {block.header.height} itself")

    def _check_commit(self, certificate: CommitCertificate) -> None:
        try:
            check_commit(certificate, self._members(certificate.height), self._check)
        except RejectionError as error:
            raise InvariantError(Invariant.CERTIFICATES, str(error)) from error
        for member in self._correct_signers(certificate):
            place = (Precommit.__name__, member, certificate.height, certificate.round)
            said = self._statements.get(place)
            if not isinstance(said, Precommit) or said.block_hash != certificate.block_hash:
                raise InvariantError(Invariant.CERTIFICATES, f"member {member} said {said}, not {certificate}")

    def _check_polka(self, certificate: PolkaCertificate) -> None:
        try:
            check_polka(certificate, self._members(certificate.height), self._check)
        except RejectionError as error:
            raise InvariantError(Invariant.CERTIFICATES, str(error)) from error
        for member in self._correct_signers(certificate):
            said = self._statements.get((Prevote.__name__, member, certificate.height, certificate.round))
            if not isinstance(said, Prevote) or said.block_hash != certificate.block_hash:
                raise InvariantError(Invariant.CERTIFICATES, f"member {member} said {said}, not {certificate}")

    def _correct_signers(self, certificate: CommitCertificate | PolkaCertificate) -> list[MemberIndex]:
        members, quorum = signers(certificate), self._quorum(certificate.height)
        if len(set(members)) < quorum:
            raise InvariantError(Invariant.CERTIFICATES, f"{len(members)} members, {quorum} are a quorum")
        return [member for member in members if not self._is_liar(member, certificate.height)]


def check_replay(state: HeightState, contents: LogContents | None) -> None:
    """Raise unless the log gives the state."""
    if contents is None:
        raise InvariantError(Invariant.REPLAY_IS_STATE, f"member {state.context.me} has spoken and its log is empty")
    replayed = replay_log(start_state(state.context), contents)
    if replayed.state != state:
        detail = f"member {state.context.me}, height {state.context.height}: {len(contents.entries)} entries"
        raise InvariantError(Invariant.REPLAY_IS_STATE, detail)


def check_memory(state: HeightState, queued: int, mempool_bytes: int) -> None:
    """Raise if a member keeps more than it may."""
    members = state.context.budget.members
    if (
        len(state.keeper.tallies) > TALLIES_MAX
        or len(state.keeper.polkas) > POLKAS_KEPT + TALLIES_MAX
        or queued > members * MEMBER_MESSAGES_MAX
        or mempool_bytes > MEMPOOL_BYTES_MAX
    ):
        detail = f"{len(state.keeper.tallies)} tallies, {len(state.keeper.polkas)} polkas, {queued} queued"
        raise InvariantError(Invariant.MEMORY, detail)
