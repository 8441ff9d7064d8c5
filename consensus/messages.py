"""What travels between members: the frames of `/grandest/consensus/1` and of `/grandest/catch-up/1`.

A frame's payload is the canonical encoding of an array of one tagged record (`Envelope`, `Request` or `Response`).
The length prefix is the network's. Limits: a consensus frame 5 MiB (a block of 4 MiB with its records, certificates
and some slack); a catch-up request 64 KiB, its response 8 MiB (at least one decided block of the largest kind).
Decoding checks form and bounds alone; signatures are checked by `check_vote`, `check_proposal`, `check_polka`,
`check_commit`, `check_round_certificate`, `consensus.chain.check_decided` (rules A20 to A25).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta

from consensus.blocks import TRANSACTION_BYTES_MAX, Block, DecidedBlock
from consensus.certificates import CommitCertificate, PolkaCertificate, RoundCertificate
from consensus.encoding import Record, decode, encode
from consensus.evidence import Evidence
from consensus.heads import DecidedHead
from consensus.identifiers import (
    HASH,
    HEIGHT,
    MEMBER,
    ROUND,
    SIGNATURE,
    TIME,
    BlockHash,
    Height,
    MemberIndex,
    Milliseconds,
    Round,
    Signature,
)
from consensus.proposals import SignedProposal
from consensus.signing import Domain, check_signature, sign_bytes
from consensus.votes import SignedVote

if TYPE_CHECKING:
    from consensus.identifiers import GenesisHash
    from consensus.members import MemberSet
    from consensus.signing import SignatureCheck

MESSAGE_BYTES_MAX: Final = 5 * 1024 * 1024
"""A block and its records (BLOCK_BYTES_MAX) + 64 polkas, 64 signatures each (below 0.3 MiB) + framing."""
REQUEST_BYTES_MAX: Final = 64 * 1024
RESPONSE_BYTES_MAX: Final = 8 * 1024 * 1024
RECORD_BYTES_MAX: Final = 16 * 1024
RECORDS_MAX: Final = 16_384
"""Records beside one proposal; one record has about 200 bytes, so the block's bytes bind first."""
TRANSACTION_ITEMS_MAX: Final = 1_024
RECORD_ADDRESSES_MAX: Final = 1_024
"""Addresses in one question: 32 KiB."""
BLOCKS_PER_REQUEST_MAX: Final = 64
HEADS_PER_REQUEST_MAX: Final = 512
"""Of about 1.3 KB each."""
PIECES_MAX: Final = 131_072
MANIFEST_BYTES_MAX: Final = 6 * 1024 * 1024
PIECE_BYTES_MAX: Final = 2 * 1024 * 1024
MEMBER_CHANGES_MAX: Final = 4_096
"""Of one chain; each has about 1.5 KB."""
MEMBER_CHANGE_BYTES_MAX: Final = 128 * 1024
NONCE_BYTES: Final = 32

RecordBytes = Annotated[bytes, Meta(max_length=RECORD_BYTES_MAX)]
"""One sealed off-chain record; opaque here."""
RecordList = Annotated[tuple[RecordBytes, ...], Meta(max_length=RECORDS_MAX)]
RecordAddresses = Annotated[tuple[Annotated[bytes, HASH], ...], Meta(min_length=1, max_length=RECORD_ADDRESSES_MAX)]
MemberChanges = Annotated[
    tuple[Annotated[bytes, Meta(max_length=MEMBER_CHANGE_BYTES_MAX)], ...], Meta(max_length=MEMBER_CHANGES_MAX)
]
Nonce = Annotated[bytes, Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]


class ProposalMessage(Record, tag=32):
    """A proposal with its block, the records that travel beside it, and the polka when it has a valid round."""

    signed: SignedProposal
    block: Block
    records: RecordList
    polka: PolkaCertificate | None


class VoteMessage(Record, tag=33):
    """One vote."""

    signed: SignedVote


class PolkaMessage(Record, tag=34):
    """Gossip duty on locking; also what a proposal with a valid round refers to."""

    certificate: PolkaCertificate


class CommitMessage(Record, tag=35):
    """A decision's proof without its block."""

    certificate: CommitCertificate


class RoundMessage(Record, tag=36):
    """Gossip duty on entering a round above 0."""

    certificate: RoundCertificate


class StatusMessage(Record, tag=37):
    """Where the sender votes; a peer that has decided this height answers with DecidedMessage."""

    height: Annotated[Height, HEIGHT]
    round: Annotated[Round, ROUND]


class DecidedMessage(Record, tag=38):
    """A decided block for a peer that is behind; to be checked by `consensus.chain.check_decided`."""

    decided: DecidedBlock


class TransactionItem(Record):
    """One transaction and the records that it references."""

    transaction: Annotated[bytes, Meta(max_length=TRANSACTION_BYTES_MAX)]
    records: RecordList


class TransactionsMessage(Record, tag=39):
    """Pending transactions, straight to the members whose turn comes next."""

    items: Annotated[tuple[TransactionItem, ...], Meta(min_length=1, max_length=TRANSACTION_ITEMS_MAX)]


class RecordsMissing(Record, tag=40):
    """A proposal is incomplete without these records; asked of its proposer and of the polka's signers."""

    block_hash: Annotated[BlockHash, HASH]
    addresses: RecordAddresses


class RecordsMessage(Record, tag=41):
    """The answer to RecordsMissing; the asker computes every address again."""

    block_hash: Annotated[BlockHash, HASH]
    records: RecordList


class EvidenceMessage(Record, tag=42):
    """A proof of equivocation for the next blocks; to be checked by `consensus.evidence.check_evidence`."""

    evidence: Evidence


Message = (
    ProposalMessage
    | VoteMessage
    | PolkaMessage
    | CommitMessage
    | RoundMessage
    | StatusMessage
    | DecidedMessage
    | TransactionsMessage
    | RecordsMissing
    | RecordsMessage
    | EvidenceMessage
)
"""Everything that the consensus stream may carry."""


class Envelope(Record):
    """The frame's payload: one message."""

    message: Message


class BlocksRequest(Record, tag=48):
    """Decided blocks from a height upwards; the answer may hold fewer than asked for."""

    from_height: Annotated[Height, HEIGHT]
    count: Annotated[int, Meta(ge=1, le=BLOCKS_PER_REQUEST_MAX)]


class HeightRequest(Record, tag=49):
    """The rejoin question: which height have you decided? The nonce keeps old answers out."""

    nonce: Nonce


class RecordsRequest(Record, tag=50):
    """Records by address."""

    addresses: RecordAddresses


class BlocksResponse(Record, tag=51):
    """Encoded DecidedBlocks in order of height, without gaps; empty when the first is not here."""

    decided: Annotated[
        tuple[Annotated[bytes, Meta(max_length=MESSAGE_BYTES_MAX)], ...], Meta(max_length=BLOCKS_PER_REQUEST_MAX)
    ]


class HeightResponse(Record, tag=52):
    """A member's signed word on the height it has decided."""

    height: Annotated[Height, HEIGHT]
    member: Annotated[MemberIndex, MEMBER]
    signature: Annotated[Signature, SIGNATURE]


class RecordsResponse(Record, tag=53):
    """Those of the wanted records that are here, in any order."""

    records: RecordList


class ClockRequest(Record, tag=54):
    """What time is it at your place? A starting node compares its own clock with the others'."""


class ClockResponse(Record, tag=55):
    """The time of day on the sender's clock."""

    time_ms: Annotated[Milliseconds, TIME]


class SnapshotRequest(Record, tag=56):
    """Which is your newest snapshot?"""


class HeadsRequest(Record, tag=57):
    """Heads from a height upwards; the answer may hold fewer than asked for."""

    from_height: Annotated[Height, HEIGHT]
    count: Annotated[int, Meta(ge=1, le=HEADS_PER_REQUEST_MAX)]


class PieceRequest(Record, tag=58):
    """One piece of the snapshot of a height."""

    height: Annotated[Height, HEIGHT]
    number: Annotated[int, Meta(ge=0, le=PIECES_MAX - 1)]


class SnapshotResponse(Record, tag=59):
    """The application's manifest of a state, the head of the block that certifies its root, and who signed that.

    `member_changes` are the application's proofs of all changes of members since genesis, oldest first.
    """

    certifying: DecidedHead
    manifest: Annotated[bytes, Meta(max_length=MANIFEST_BYTES_MAX)]
    member_changes: MemberChanges


class HeadsResponse(Record, tag=60):
    """Heads in order of height, without gaps; empty when the first is not here."""

    heads: Annotated[tuple[DecidedHead, ...], Meta(max_length=HEADS_PER_REQUEST_MAX)]


class PieceResponse(Record, tag=61):
    """A piece as the application encodes it."""

    piece: Annotated[bytes, Meta(max_length=PIECE_BYTES_MAX)]


CatchUpRequest = (
    BlocksRequest | HeightRequest | RecordsRequest | ClockRequest | SnapshotRequest | HeadsRequest | PieceRequest
)
CatchUpResponse = (
    BlocksResponse | HeightResponse | RecordsResponse | ClockResponse | SnapshotResponse | HeadsResponse | PieceResponse
)


class Request(Record):
    """The payload of a catch-up question."""

    request: CatchUpRequest


class Response(Record):
    """The payload of a catch-up answer."""

    response: CatchUpResponse


def encode_message(message: Message) -> bytes:
    """Return the payload of a consensus frame; a payload above MESSAGE_BYTES_MAX is our bug."""
    encoded = encode(Envelope(message=message))
    assert len(encoded) <= MESSAGE_BYTES_MAX, f"own message of {len(encoded)} bytes"
    return encoded


def decode_message(encoded: bytes) -> Message:
    """Read a consensus frame or raise RejectionError(OVERSIZED, MALFORMED, NOT_CANONICAL)."""
    return decode(encoded, Envelope, bytes_max=MESSAGE_BYTES_MAX).message


def encode_request(request: CatchUpRequest) -> bytes:
    """Return the payload of a catch-up question."""
    return encode(Request(request=request))


def decode_request(encoded: bytes) -> CatchUpRequest:
    """Read a catch-up question or raise RejectionError."""
    return decode(encoded, Request, bytes_max=REQUEST_BYTES_MAX).request


def encode_response(response: CatchUpResponse) -> bytes:
    """Return the payload of a catch-up answer; the caller keeps it below RESPONSE_BYTES_MAX."""
    encoded = encode(Response(response=response))
    assert len(encoded) <= RESPONSE_BYTES_MAX, f"own response of {len(encoded)} bytes"
    return encoded


def decode_response(encoded: bytes) -> CatchUpResponse:
    """Read a catch-up answer or raise RejectionError."""
    return decode(encoded, Response, bytes_max=RESPONSE_BYTES_MAX).response


def decided_height_sign_bytes(nonce: bytes, height: Height, genesis_hash: GenesisHash) -> bytes:
    """Return what a member signs to vouch for the height it has decided: nonce (32 bytes), height (8, big-endian)."""
    assert len(nonce) == NONCE_BYTES, "a nonce has 32 bytes"
    return sign_bytes(Domain.DECIDED_HEIGHT, genesis_hash, nonce + height.to_bytes(8, "big"))


def check_decided_height(
    response: HeightResponse, nonce: bytes, members: MemberSet, check: SignatureCheck = check_signature
) -> None:
    """Raise RejectionError(NOT_A_MEMBER, BAD_SIGNATURE) unless a member answered this very nonce."""
    message = decided_height_sign_bytes(nonce, response.height, members.genesis_hash)
    check(members.public_key(response.member), message, response.signature)
