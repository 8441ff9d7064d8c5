"""What the API says: one struct an answer, bytes as lower-case hex, and one shape for every error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from starlette.responses import Response

from consensus.errors import GrandestError, RejectionError, RejectionReason
from node.client.chain import FOUND_MAX

if TYPE_CHECKING:
    from consensus.blocks import DecidedBlock
    from storage.identifiers import BucketTag, NameTag, SegmentId
    from storage.outcomes import TransactionPlace
    from storage.state import EntryState, SegmentState

JSON: Final = "application/json"
OCTETS: Final = "application/octet-stream"
STATUS_OF_REASON: Final = {
    RejectionReason.OVERSIZED: 413,
    RejectionReason.NOT_GRANTED: 403,
    RejectionReason.BAD_SIGNATURE: 403,
    RejectionReason.DUPLICATE_TRANSACTION: 409,
    RejectionReason.QUEUE_FULL: 429,
}
REMEDIES: Final = {
    RejectionReason.QUEUE_FULL: "wait for blocks to carry what waits, then send it again",
    RejectionReason.TOO_LATE: "sign it again with a later valid_until_height",
    RejectionReason.DUPLICATE_TRANSACTION: "ask GET /v1/transactions/ID for its outcome, or use a new sequence number",
    RejectionReason.BAD_RECORD: "send every record that the entries name, in their order",
    RejectionReason.NOT_GRANTED: "let the tenant grant this key first",
}


class ErrorAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Every error: a reason for programs, a detail and a remedy for people."""

    error: str
    detail: str
    remedy: str


class StatusAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/status."""

    seat: int
    operator: str
    pid: int
    chain_id: str
    genesis_hash: str
    height: int
    block_hash: str
    state_root: str
    voting: bool
    signs_above: int | None
    """The height above which this seat signs; null while it rejoins."""
    peers: list[int]
    """Seats whose link is up."""
    waiting_transactions: int
    holder_bytes: int
    time_ms: int
    libp2p_port: int
    shard_port: int


class SubmitAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """POST /v1/transactions."""

    transaction_id: str


class TransactionAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/transactions/ID."""

    transaction_id: str
    height: int
    index: int
    refusal: str | None
    place: int
    failed_entries: list[tuple[int, str]]


class PostedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One of many that were posted: carried, refused, or waiting for a block."""

    transaction_id: str
    carried: TransactionAnswer | None
    refused: ErrorAnswer | None


class PostedManyAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """POST /v1/transactions/many: in the order posted."""

    posted: list[PostedAnswer]


class ReferenceAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Part of an entry: a range of a segment."""

    segment_id: str
    offset: int
    bytes: int


class RetentionAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Until when a version stays as it is."""

    mode: str
    until_ms: int


class EntryAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/entries/TENANT/BUCKET/NAME."""

    bucket: str
    name: str
    version_id: str
    record_address: str
    height: int
    order: int
    kind: str
    is_null: bool
    retention: RetentionAnswer | None
    legal_hold: bool | None
    """Null where nothing was ever set."""
    tags_address: str | None
    older: str | None
    references: list[ReferenceAnswer]


class EntriesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/entries."""

    entries: list[EntryAnswer]


class SegmentAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/segments/ID."""

    segment_id: str
    tenant: str
    k: int
    bytes: int
    roots: list[str]
    receipted: list[int]
    references: int
    height: int


class BlockAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/blocks/HEIGHT."""

    height: int
    block_hash: str
    parent_hash: str
    state_root: str
    """After the parent."""
    transactions_root: str
    proposer: int
    round: int
    time_ms: int
    signers: list[int]
    transactions: list[str]
    evidence: int


class SeatAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One of GET /v1/seats."""

    seat: int
    operator: str
    site: str
    signing_key: str
    network_key: str
    host: str
    libp2p_port: int
    shard_port: int
    api_port: int
    joined: int
    """The first height of this occupant; 0 since genesis."""
    suspended: str | None
    """Why it has no turns at the next height: guilty, absent or silent; null while it has."""


class FaultAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One of GET /v1/evidence: two different signed messages of one kind, height and round."""

    seat: int
    kind: str
    height: int
    round: int
    proven_at: int
    """The height of the block that holds both messages."""


class EvidenceAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/evidence."""

    faults: list[FaultAnswer]


class SeatsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/seats."""

    seats: list[SeatAnswer]


class SenderAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/senders/PUBLIC_KEY."""

    public_key: str
    sequences: list[int]
    """The greatest numbers used; a new one is none of them and, once 64 are kept, above the least."""


class ProofAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/proofs/...; `?raw=1` gives the same bytes unwrapped."""

    height: int
    proof: str


def json_answer(answer: msgspec.Struct, status: int = 200) -> Response:
    """Return a JSON response."""
    return Response(msgspec.json.encode(answer), status_code=status, media_type=JSON)


def error_answer(error: str, detail: str, remedy: str, status: int) -> Response:
    """Return an error in its one shape."""
    return json_answer(ErrorAnswer(error=error, detail=detail, remedy=remedy), status)


def refusal_answer(error: GrandestError) -> Response:
    """Return the response for an expected error."""
    return json_answer(*refusal_of(error))


def refusal_of(error: GrandestError) -> tuple[ErrorAnswer, int]:
    """Map an expected error to the outside, with its status: the one place for it."""
    if isinstance(error, RejectionError):
        remedy = REMEDIES.get(error.reason, "correct the request")
        answer = ErrorAnswer(error=error.reason.value, detail=error.detail, remedy=remedy)
        return answer, STATUS_OF_REASON.get(error.reason, 400)
    return ErrorAnswer(error="unavailable", detail=str(error), remedy="ask again, or ask another node"), 503


class EntriesQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """Body of POST /v1/entries/find: names are [bucket tag, name tag]."""

    tenant: str
    names: Annotated[list[tuple[str, str]], msgspec.Meta(max_length=FOUND_MAX)]


class FoundEntriesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """POST /v1/entries/find: in the order asked, null where there is none; of the first alone when they are long."""

    entries: list[EntryAnswer | None]


class SegmentsQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """Body of POST /v1/segments/find."""

    segment_ids: Annotated[list[str], msgspec.Meta(max_length=FOUND_MAX)]


class FoundSegmentsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """POST /v1/segments/find: in the order asked, null where there is none."""

    segments: list[SegmentAnswer | None]


def entry_answer(bucket_tag: BucketTag, name_tag: NameTag, state: EntryState) -> EntryAnswer:
    """Return an entry as the API shows it."""
    return EntryAnswer(
        bucket=bucket_tag.hex(),
        name=name_tag.hex(),
        version_id=state.version_id.hex(),
        record_address=state.record_address.hex(),
        height=state.height,
        order=state.order,
        kind=state.kind.value,
        is_null=state.is_null,
        retention=_retention_answer(state),
        legal_hold=None if state.lock is None else state.lock.legal_hold,
        tags_address=None if state.tags_address is None else state.tags_address.hex(),
        older=None if state.older is None else state.older.hex(),
        references=[
            ReferenceAnswer(segment_id=part.segment_id.hex(), offset=part.offset, bytes=part.extent_bytes)
            for part in state.extents
        ],
    )


def _retention_answer(state: EntryState) -> RetentionAnswer | None:
    retention = None if state.lock is None else state.lock.retention
    return None if retention is None else RetentionAnswer(mode=retention.mode.value, until_ms=retention.until_ms)


def segment_answer(segment_id: SegmentId, state: SegmentState) -> SegmentAnswer:
    """Return a segment as the API shows it."""
    return SegmentAnswer(
        segment_id=segment_id.hex(),
        tenant=state.tenant.hex(),
        k=state.k,
        bytes=state.segment_bytes,
        roots=[root.hex() for root in state.roots],
        receipted=list(state.columns),
        references=state.references,
        height=state.height,
    )


def transaction_answer(place: TransactionPlace) -> TransactionAnswer:
    """Return a transaction's place and outcome as the API shows them."""
    outcome = place.outcome
    return TransactionAnswer(
        transaction_id=outcome.transaction.hex(),
        height=place.height,
        index=place.index,
        refusal=None if outcome.reason is None else outcome.reason.value,
        place=outcome.place,
        failed_entries=[(failed.index, failed.reason.value) for failed in outcome.failed_entries],
    )


def block_answer(decided: DecidedBlock, block_hash: str, signers: list[int], transactions: list[str]) -> BlockAnswer:
    """Return a decided block as the API shows it."""
    header = decided.block.header
    return BlockAnswer(
        height=header.height,
        block_hash=block_hash,
        parent_hash=header.parent_hash.hex(),
        state_root=header.state_root.hex(),
        transactions_root=header.transactions_root.hex(),
        proposer=header.proposer,
        round=decided.commit.round,
        time_ms=header.time_ms,
        signers=signers,
        transactions=transactions,
        evidence=len(decided.block.evidence),
    )
