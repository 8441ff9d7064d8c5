"""What other members send, decoded and proven before it is queued: signatures, certificates, turns, own name.

A message that breaks a rule raises RejectionError and costs its bearer the connection. A message signed by this very
seat that this process did not sign raises SecondCopyError: another copy of the seat runs, and both must not vote.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final, assert_never

from consensus.blocks import header_hash
from consensus.certificates import (
    CommitCertificate,
    PolkaCertificate,
    RoundCertificate,
    bitmap_members,
    check_commit,
    check_polka,
    check_round_certificate,
)
from consensus.errors import RejectionError, RejectionReason
from consensus.evidence import check_evidence, fault_place
from consensus.messages import (
    CommitMessage,
    PolkaMessage,
    ProposalMessage,
    RoundMessage,
    VoteMessage,
)
from consensus.proposals import Proposal, check_proposal
from consensus.signing import check_signature
from consensus.votes import SignedVote, check_vote
from node.errors import NodeError
from node.signer import Position, SignedStep, position_of

if TYPE_CHECKING:
    from consensus.evidence import Evidence
    from consensus.identifiers import Height, MemberIndex, Signature
    from consensus.members import MemberSet
    from consensus.signing import SignatureCheck
    from node.node_chain import NodeChain
    from node.signer import Signer

SEEN_MAX: Final = 4_096
"""Hashes of frames remembered, so that repetitions are not verified again: below half a MiB."""

AgreementMessage = ProposalMessage | VoteMessage | PolkaMessage | CommitMessage | RoundMessage


class SecondCopyError(NodeError):
    """Another process signs with this seat's key: stop one of them."""


def height_of(message: AgreementMessage) -> Height:
    """Return the height that a message is about."""
    match message:
        case ProposalMessage(signed=signed):
            return signed.proposal.height
        case VoteMessage(signed=signed):
            return signed.vote.height
        case PolkaMessage() | CommitMessage() | RoundMessage():
            return message.certificate.height
        case _:
            assert_never(message)


class MessageGate:
    """Checks messages of agreement once each."""

    __slots__ = ("_chain", "_me", "_seen", "_signature_check", "_signer")

    def __init__(
        self, chain: NodeChain, me: MemberIndex, signer: Signer, check: SignatureCheck = check_signature
    ) -> None:
        self._signature_check = check
        self._chain = chain
        self._me = me
        self._signer = signer
        self._seen: dict[bytes, None] = {}

    def admit(self, message: AgreementMessage, frame: bytes) -> bool:
        """Prove a message; False for a repetition of the very frame that it was decoded from.

        Raises:
            RejectionError: It is not what it claims to be.
            SecondCopyError: This seat signed it, elsewhere.
        """
        digest = sha256(frame).digest()
        if digest in self._seen:
            return False
        self._check(message)
        self._seen[digest] = None
        if len(self._seen) > SEEN_MAX:
            del self._seen[next(iter(self._seen))]
        return True

    def forget(self) -> None:
        """A new height: repetitions of the old one are not queued any more."""
        self._seen.clear()

    def check_evidence(self, evidence: Evidence) -> None:
        """Prove that a member signed two different messages.

        Raises:
            RejectionError: It did not.
            SecondCopyError: It is this seat, and one of them was signed elsewhere.
        """
        height = fault_place(evidence)[2]
        check_evidence(evidence, self._members(height), self._signature_check)
        for signed in (evidence.first, evidence.second):
            statement = signed.vote if isinstance(signed, SignedVote) else signed.proposal
            member = statement.proposer if isinstance(statement, Proposal) else statement.member
            if member == self._me:
                self._check_position(position_of(statement), signed.signature)

    def check_own(self, certificate: CommitCertificate | PolkaCertificate | RoundCertificate) -> None:
        """Raise SecondCopyError if a proven certificate holds a signature of this seat that it did not make here."""
        if isinstance(certificate, RoundCertificate):
            for signed in certificate.votes:
                if signed.vote.member == self._me:
                    self._check_position(position_of(signed.vote), signed.signature)
            return
        members = bitmap_members(certificate.members)
        if self._me in members:
            step = SignedStep.PREVOTE if isinstance(certificate, PolkaCertificate) else SignedStep.PRECOMMIT
            position = Position(height=certificate.height, round=certificate.round, step=step)
            self._check_position(position, certificate.signatures[members.index(self._me)])

    def _members(self, height: Height) -> MemberSet:
        return self._chain.rules.schedule.members_at(height)

    def _check(self, message: AgreementMessage) -> None:
        members = self._members(height_of(message))
        match message:
            case VoteMessage(signed=signed):
                check_vote(signed, members, self._signature_check)
                if signed.vote.member == self._me:
                    self._check_position(position_of(signed.vote), signed.signature)
            case ProposalMessage():
                self._check_proposal(message, members)
            case PolkaMessage(certificate=certificate):
                check_polka(certificate, members, self._signature_check)
                self.check_own(certificate)
            case CommitMessage(certificate=certificate):
                check_commit(certificate, members, self._signature_check)
                self.check_own(certificate)
            case RoundMessage(certificate=certificate):
                check_round_certificate(certificate, members, self._signature_check)
                self.check_own(certificate)
            case _:
                assert_never(message)

    def _check_proposal(self, message: ProposalMessage, members: MemberSet) -> None:
        proposal = message.signed.proposal
        expected = self._chain.turns.proposer(proposal.height, proposal.round)
        # Of later heights the turns are not known yet: the core asks again.
        if proposal.height == self._chain.tip.height + 1 and proposal.proposer != expected:
            detail = f"member {proposal.proposer} in round {proposal.round}, turn of {expected}"
            raise RejectionError(RejectionReason.WRONG_PROPOSER, detail)
        check_proposal(message.signed, members, self._signature_check)
        if header_hash(message.block.header) != proposal.block_hash:
            raise RejectionError(RejectionReason.MALFORMED, "the block beside a proposal is another")
        if message.polka is not None:
            check_polka(message.polka, members, self._signature_check)
            if (message.polka.block_hash, message.polka.round) != (proposal.block_hash, proposal.valid_round):
                raise RejectionError(RejectionReason.WRONG_CERTIFICATE, "the polka beside a proposal is another's")
        if proposal.proposer == self._me:
            self._check_position(position_of(proposal), message.signed.signature)

    def _check_position(self, position: Position, signature: Signature) -> None:
        """What the seat signed with another key is a former occupant's, or of this one's former keys."""
        if self._members(position.height).index_of(self._signer.public) != self._me:
            return
        if self._signer.is_stranger(position, signature):
            raise SecondCopyError(
                f"seat {self._me} signed {position}, which its record lacks: another copy of this seat is running,"
                " or this home is a backup; stop the other copy and start this one again, or, if there is none, move"
                " signer and wal/log away and start again: the node then rejoins as after a fire"
            )
