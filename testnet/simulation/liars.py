"""Liars: a real member whose words are twisted on their way out, with its own key for whatever it wants to sign.

Some change one field of a vote a little, where nobody would think of it (Winter et al., "Randomized Testing of
Byzantine Fault Tolerant Algorithms", OOPSLA 2023: small-scope mutations).

A liar cannot sign for others; it may repeat, hold back and recombine whatever it has seen.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from consensus.blocks import header_hash
from consensus.certificates import CommitCertificate, PolkaCertificate, RoundCertificate, bitmap_of
from consensus.identifiers import NO_ROUND, BlockHash, Height, MemberIndex, Milliseconds, Round, Signature
from consensus.messages import (
    CommitMessage,
    Message,
    PolkaMessage,
    ProposalMessage,
    RoundMessage,
    StatusMessage,
    VoteMessage,
    decode_message,
    encode_message,
)
from consensus.proposals import SignedProposal, proposal_sign_bytes
from consensus.votes import Prevote, SignedVote, vote_sign_bytes
from testnet.simulation.faults import Lie

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from consensus.identifiers import GenesisHash
    from consensus.signing import SignatureMaker
    from consensus.votes import Vote

KEPT_MAX: Final = 200
"""Frames and hashes that a liar remembers."""
HEARD_KEPT: Final = 0.1
OWN_KEPT: Final = 0.02
REPEATED: Final = 0.1
FORGED: Final = 0.1
WITHHELD: Final = 0.4
BOTH_TOLD: Final = 0.2
"""Shares of the occasions."""


class Liar:
    """An Outbox that lies."""

    def __init__(
        self,
        *,
        seat: MemberIndex,
        members: int,
        lies: frozenset[Lie],
        signing_key: SignatureMaker,
        genesis_hash: GenesisHash,
        rng: Random,
        send: Callable[[MemberIndex, bytes], None],
    ) -> None:
        self._seat = seat
        self._members = members
        self.lies = lies
        self._signing_key = signing_key
        self._genesis_hash = genesis_hash
        self._rng = rng
        self._send = send
        self._frames: deque[bytes] = deque(maxlen=KEPT_MAX)
        self._hashes: deque[BlockHash] = deque(maxlen=KEPT_MAX)

    def hear(self, frame: bytes) -> None:
        """Remember what others said."""
        if Lie.REPLAY in self.lies and self._rng.random() < HEARD_KEPT:
            self._frames.append(frame)

    def send(self, member: MemberIndex, frame: bytes) -> None:
        """Send to one member, or not, or something else."""
        if member != self._seat:
            self._tell(member, frame, self._versions(decode_message(frame)))

    def broadcast(self, frame: bytes) -> None:
        """Tell every member a story of its own."""
        versions = self._versions(decode_message(frame))
        for member in range(self._members):
            if member != self._seat:
                self._tell(MemberIndex(member), frame, versions)
        if Lie.FORGE in self.lies and self._rng.random() < FORGED:
            self._forge(decode_message(frame))

    def answer(self, honest: bytes) -> bytes | None:
        """Return what is answered in catch-up instead of the truth; None for nothing."""
        if Lie.LIE_IN_SYNC not in self.lies or self._rng.random() < 1 / 4:
            return honest
        luck = self._rng.random()
        if luck < 1 / 3:
            return None
        position = self._rng.randrange(len(honest))
        return honest[:position] + bytes([honest[position] ^ 1]) + honest[position + 1 :]

    def _tell(self, member: MemberIndex, frame: bytes, versions: list[bytes]) -> None:
        rng = self._rng
        if Lie.WITHHOLD in self.lies and rng.random() < WITHHELD:
            return
        told = rng.choice(versions) if versions and rng.random() < 1 / 2 else frame
        self._send(member, told)
        if versions and rng.random() < BOTH_TOLD:
            self._send(member, rng.choice(versions))
        if self._frames and rng.random() < REPEATED:
            self._send(member, rng.choice(self._frames))
        if Lie.REPLAY in self.lies and rng.random() < OWN_KEPT:
            self._frames.append(frame)

    def _versions(self, message: Message) -> list[bytes]:
        """Return other statements in the place of an honest one."""
        if isinstance(message, StatusMessage) and Lie.LIE_IN_SYNC in self.lies:
            ahead = Height(message.height + self._rng.choice((1, 2, 1_000)))
            return [encode_message(StatusMessage(height=ahead, round=message.round))]
        if Lie.MUTATE in self.lies and isinstance(message, VoteMessage):
            return [self._vote_frame(self._mutated(message.signed.vote))]
        if Lie.EQUIVOCATE not in self.lies:
            return []
        match message:
            case VoteMessage(signed=signed):
                return [self._vote_frame(vote) for vote in self._other_votes(signed.vote)]
            case ProposalMessage() if message.signed.proposal.valid_round == NO_ROUND:
                return [self._other_proposal(message)]
            case _:
                return []

    def _other_votes(self, vote: Vote) -> list[Vote]:
        if vote.member != self._seat:
            return []
        self._remember_hash(vote.block_hash)
        wanted = [None, BlockHash(self._rng.randbytes(32)), *list(self._hashes)[-3:]]
        values = [value for value in dict.fromkeys(wanted) if value != vote.block_hash]
        if isinstance(vote, Prevote):
            return [replace(vote, block_hash=value, valid_round=NO_ROUND) for value in values]
        return [replace(vote, block_hash=value) for value in values]

    def _mutated(self, vote: Vote) -> Vote:
        """Change one field a little: the round or height by one, or the value to one that is past."""
        if vote.member != self._seat:
            return vote
        self._remember_hash(vote.block_hash)
        step = self._rng.choice((-1, 1))
        match self._rng.randrange(3):
            case 0:
                return _in_round(vote, Round(max(0, vote.round + step)))
            case 1:
                return replace(vote, height=Height(max(1, vote.height + step)))
            case _:
                stale = self._rng.choice(self._hashes) if self._hashes else None
                return _in_round(replace(vote, block_hash=stale), vote.round)

    def _remember_hash(self, block_hash: BlockHash | None) -> None:
        if block_hash is not None:
            self._hashes.append(block_hash)

    def _vote_frame(self, vote: Vote) -> bytes:
        return encode_message(VoteMessage(signed=self._signed(vote)))

    def _signed(self, vote: Vote) -> SignedVote:
        return SignedVote(vote=vote, signature=self._signing_key.sign(vote_sign_bytes(vote, self._genesis_hash)))

    def _other_proposal(self, message: ProposalMessage) -> bytes:
        header = message.block.header
        other = replace(message.block, header=replace(header, time_ms=Milliseconds(header.time_ms + 1)))
        block_hash = header_hash(other.header)
        self._hashes.append(block_hash)
        proposal = replace(message.signed.proposal, block_hash=block_hash)
        if proposal.proposer != self._seat:
            return encode_message(message)
        signature = self._signing_key.sign(proposal_sign_bytes(proposal, self._genesis_hash))
        signed = SignedProposal(proposal=proposal, signature=signature)
        return encode_message(ProposalMessage(signed=signed, block=other, records=message.records, polka=None))

    def _forge(self, message: Message) -> None:
        """Claim a certificate that nobody signed, or that too few did."""
        if not isinstance(message, VoteMessage):
            return
        vote = message.signed.vote
        block_hash = vote.block_hash or BlockHash(self._rng.randbytes(32))
        forged: list[Message] = [
            self._forged_polka(vote.height, vote.round, block_hash),
            self._forged_commit(vote.height, vote.round, block_hash),
            RoundMessage(
                certificate=RoundCertificate(
                    height=vote.height, round=Round(vote.round + 3), votes=(message.signed,), proposal=None
                )
            ),
        ]
        self._send(MemberIndex(self._victim()), encode_message(self._rng.choice(forged)))

    def _forged_polka(self, height: Height, round_: Round, block_hash: BlockHash) -> PolkaMessage:
        certificate = PolkaCertificate(
            height=height,
            round=round_,
            block_hash=block_hash,
            valid_round=NO_ROUND,
            members=bitmap_of(MemberIndex(i) for i in range(self._members)),
            signatures=tuple(Signature(self._rng.randbytes(64)) for _ in range(self._members)),
        )
        return PolkaMessage(certificate=certificate)

    def _forged_commit(self, height: Height, round_: Round, block_hash: BlockHash) -> CommitMessage:
        certificate = CommitCertificate(
            height=height,
            round=round_,
            block_hash=block_hash,
            members=bitmap_of([self._seat]),
            signatures=(Signature(self._rng.randbytes(64)),),
        )
        return CommitMessage(certificate=certificate)

    def _victim(self) -> int:
        return self._rng.choice([member for member in range(self._members) if member != self._seat])


def _in_round(vote: Vote, round_: Round) -> Vote:
    """Return a vote of another round, as for a fresh proposal."""
    return (
        replace(vote, round=round_, valid_round=NO_ROUND) if isinstance(vote, Prevote) else replace(vote, round=round_)
    )
