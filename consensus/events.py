"""Everything that may enter the core: a closed union. All signatures were checked before; sizes are bounded.

Each event is a record, because the write-ahead log keeps every one of them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from consensus.certificates import CommitCertificate, PolkaCertificate, RoundCertificate
from consensus.encoding import Record
from consensus.identifiers import HASH, HEIGHT, ROUND, BlockHash, Height, Round
from consensus.proposals import SignedProposal
from consensus.votes import SignedVote


class Validity(StrEnum):
    """What the application said of a proposed block."""

    VALID = "valid"
    INVALID = "invalid"


class TimeoutKind(StrEnum):
    """Which step a timeout belongs to."""

    PROPOSE = "propose"
    PREVOTE = "prevote"
    PRECOMMIT = "precommit"


class Timeout(Record):
    """A timeout acts only in the height, round and step it was set for."""

    kind: TimeoutKind
    height: Annotated[Height, HEIGHT]
    round: Annotated[Round, ROUND]


class HeightStarted(Record, tag=1):
    """There is a reason to make a block: enter round 0. Votes that came before are already counted."""

    height: Annotated[Height, HEIGHT]


class ValueReady(Record, tag=2):
    """The application's answer to AskForValue."""

    height: Annotated[Height, HEIGHT]
    round: Annotated[Round, ROUND]
    block_hash: Annotated[BlockHash, HASH]


class ProposalReceived(Record, tag=3):
    """A proposal whose block and records are here and whose block was checked."""

    signed: SignedProposal
    validity: Validity


class VoteReceived(Record, tag=4):
    """A vote, one's own included: the core counts what comes in, never what it asked to send."""

    signed: SignedVote


class PolkaReceived(Record, tag=5):
    """A verified polka certificate."""

    certificate: PolkaCertificate


class CommitReceived(Record, tag=6):
    """A verified commit certificate."""

    certificate: CommitCertificate


class RoundReceived(Record, tag=7):
    """A verified round certificate."""

    certificate: RoundCertificate


class TimeoutElapsed(Record, tag=8):
    """A timeout that the core had scheduled."""

    timeout: Timeout


Event = (
    HeightStarted
    | ValueReady
    | ProposalReceived
    | VoteReceived
    | PolkaReceived
    | CommitReceived
    | RoundReceived
    | TimeoutElapsed
)
