"""The API of a node: HTTP/1.1 and JSON on a local port, for clients, auditors and people.

    GET  /v1/status                                 where this node stands (StatusAnswer)
    GET  /v1/seats                                  the members, where they are reached, who is suspended
    GET  /v1/evidence                               proven equivocation, and the blocks that hold the proofs
    GET  /v1/audits                                 every operator's proofs of possession, erasure reports, maintenance
    GET  /v1/reads, /v1/reads/NAME?from=BYTES       what members signed for what they read here: 4 bytes length
                                                    (big-endian), ReadReceipt, again and again
    GET  /v1/blocks/HEIGHT                          a decided block
    GET  /v1/raw/genesis                            the encoded genesis
    GET  /v1/raw/blocks?from=H&count=N              N <= 256 times 4 bytes length (big-endian), DecidedBlock; <= 16 MiB
    POST /v1/transactions?wait_s=S                  body: an encoded Submission (node/submission.py); its outcome if a
                                                    block carries it in time, else 202
    POST /v1/transactions/many?wait_s=S             body: encoded Submissions; each is taken or refused by itself
    GET  /v1/transactions/ID?wait_s=S               place and outcome; waits up to 30 s for it; 404 while it waits
    GET  /v1/senders/PUBLIC_KEY                     the sequence numbers a sender has used
    GET  /v1/entries?tenant=T&bucket=B&after=B.N&limit=L
    GET  /v1/entries/TENANT/BUCKET/NAME
    GET  /v1/buckets, /v1/versions, /v1/changes     and what else tenants ask (bucket_views.py)
    GET  /v1/tenants/T, /v1/grants/PUBLIC_KEY       of owners and gateways (tenant_views.py)
    GET  /v1/segments/ID
    POST /v1/entries/find, /v1/segments/find        up to FOUND_MAX of either at once
    GET  /v1/proofs/entry/TENANT/BUCKET/NAME, /v1/proofs/segment/ID, /v1/proofs/state/KEY, /v1/proofs/transaction/ID
                                                    `?raw=1`: the canonical StateProof or TransactionProof itself

Handles and hashes are lower-case hex. Every error is {error, detail, remedy}. Bodies are bounded by
SUBMISSION_BYTES_MAX, answers by ANSWER_BYTES_MAX; disk work runs in threads.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from consensus.blocks import header_hash
from consensus.certificates import signers
from consensus.encoding import encode
from consensus.identifiers import Height, MemberIndex, PublicKey, TransactionId
from consensus.turns import suspensions
from node.api.answers import (
    OCTETS,
    EntriesAnswer,
    EntriesQuestion,
    EvidenceAnswer,
    FaultAnswer,
    FoundEntriesAnswer,
    FoundSegmentsAnswer,
    ProofAnswer,
    SeatAnswer,
    SeatsAnswer,
    SegmentsQuestion,
    SenderAnswer,
    StatusAnswer,
    block_answer,
    entry_answer,
    error_answer,
    json_answer,
    segment_answer,
)
from node.api.audits import audits_answer
from node.api.bucket_views import BucketViews
from node.api.changes import changes_answer, raw_seats
from node.api.questions import (
    FIND_BYTES_MAX,
    HANDLE_BYTES,
    HASH_BYTES,
    MissingError,
    PrunedError,
    answering,
    entry_name,
    listing_place,
    read_body,
    read_hex,
    read_question,
    whole_number,
)
from node.api.reads import ReadViews
from node.api.submissions import SubmissionViews
from node.api.tenant_views import TenantViews
from node.clock import now_ms
from storage.identifiers import BucketTag, NameTag, SegmentId, TenantId
from storage.state import EntryState, SenderState, entry_key, read_state, segment_key, sender_key
from storage.transactions import transaction_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from node.admission import Admission
    from node.config import NodeConfig
    from node.consensus_task import ConsensusTask
    from node.mempool import Mempool
    from node.read_book import ReadBook
    from node.signer import Signer
    from storage.proofs import StateProof, TransactionProof
    from storage.stores.blocks import ChainStore, ListedEntry

ANSWER_BYTES_MAX: Final = 16 * 1024 * 1024
RAW_BLOCKS_MAX: Final = 256
ENTRIES_MAX: Final = 4_096
LISTED_AT_ONCE: Final = 64
"""Entries read together: an entry has at most 10,240 references, half a MiB; few have more than one."""
REFERENCES_MAX: Final = 65_536
"""Of one listing: at most 180 bytes each in JSON keep it below ANSWER_BYTES_MAX."""
STATE_KEY_BYTES_MAX: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiParts:
    """What the API reads and the one thing it changes: the mempool, through admission."""

    config: NodeConfig
    store: ChainStore
    consensus: ConsensusTask
    admission: Admission
    mempool: Mempool
    signer: Signer
    connected_seats: Callable[[], list[int]]
    holder_bytes: Callable[[], int]
    reads: ReadBook
    operator: str
    """Who sits here, as the state says."""


def build_application(parts: ApiParts) -> Starlette:
    """Return the ASGI application."""
    views = _Views(parts)
    posted = SubmissionViews(
        store=parts.store, carried=parts.consensus.carried, admission=parts.admission, mempool=parts.mempool
    )
    buckets = BucketViews(parts.store)
    tenants = TenantViews(parts.store)
    reads = ReadViews(parts.reads)
    routes = (
        ("/v1/status", views.status),
        ("/v1/seats", views.seats),
        ("/v1/seats/changes", views.seat_changes),
        ("/v1/evidence", views.evidence),
        ("/v1/audits", views.audits),
        ("/v1/reads", reads.reads),
        ("/v1/reads/{name}", reads.page),
        ("/v1/blocks/{height}", views.block),
        ("/v1/raw/genesis", views.raw_genesis),
        ("/v1/raw/seats", views.raw_seats),
        ("/v1/raw/members", views.raw_members),
        ("/v1/raw/blocks", views.raw_blocks),
        ("/v1/transactions/{transaction_id}", posted.transaction),
        ("/v1/senders/{public_key}", views.sender),
        ("/v1/entries", views.entries),
        ("/v1/entries/{tenant}/{bucket}/{name}", views.entry),
        ("/v1/buckets", buckets.buckets),
        ("/v1/tenants/{tenant}", tenants.tenant),
        ("/v1/grants/{public_key}", tenants.grants),
        ("/v1/versions", buckets.versions),
        ("/v1/changes", buckets.changes),
        ("/v1/segments/{segment_id}", views.segment),
        ("/v1/proofs/entry/{tenant}/{bucket}/{name}", views.entry_proof),
        ("/v1/proofs/segment/{segment_id}", views.segment_proof),
        ("/v1/proofs/state/{state_key}", views.state_proof),
        ("/v1/proofs/transaction/{transaction_id}", views.transaction_proof),
    )
    return Starlette(
        routes=[
            Route("/v1/transactions", answering(posted.submit), methods=["POST"]),
            Route("/v1/transactions/many", answering(posted.submit_many), methods=["POST"]),
            *(Route(path, answering(view), methods=["GET"]) for path, view in routes),
            Route("/v1/entries/find", answering(views.find_entries), methods=["POST"]),
            Route("/v1/versions/find", answering(buckets.find_versions), methods=["POST"]),
            Route("/v1/buckets/find", answering(buckets.find_buckets), methods=["POST"]),
            Route("/v1/segments/find", answering(views.find_segments), methods=["POST"]),
        ],
        exception_handlers={
            404: lambda _request, _error: error_answer("not_found", "no such path", "see docs/api.md", 404),
            405: lambda _request, _error: error_answer("bad_method", "another method is needed", "GET or POST", 405),
        },
    )


class _Views:
    def __init__(self, parts: ApiParts) -> None:
        self._parts = parts
        self._store = parts.store

    async def status(self, _request: Request) -> Response:
        parts, tip = self._parts, self._store.tip
        config = parts.config
        return json_answer(
            StatusAnswer(
                seat=config.seat,
                operator=parts.operator,
                pid=os.getpid(),
                chain_id=config.genesis.chain_id,
                genesis_hash=config.genesis_hash.hex(),
                height=tip.height,
                block_hash=tip.block_hash.hex(),
                state_root=tip.state_root.hex(),
                voting=parts.consensus.is_voting,
                signs_above=parts.signer.floor,
                peers=parts.connected_seats(),
                waiting_transactions=len(parts.mempool),
                holder_bytes=await trio.to_thread.run_sync(parts.holder_bytes),
                time_ms=now_ms(),
                libp2p_port=config.libp2p_port,
                shard_port=config.shard_port,
            )
        )

    async def seats(self, _request: Request) -> Response:
        occupied = self._store.context.membership.occupied
        suspended = suspensions(self._store.tip.turns)
        return json_answer(
            SeatsAnswer(
                seats=[
                    SeatAnswer(
                        seat=number,
                        operator=occupant.seat.operator,
                        site=occupant.seat.site,
                        signing_key=occupant.signing_key.hex(),
                        network_key=occupant.seat.network_key.hex(),
                        host=occupant.seat.host,
                        libp2p_port=occupant.seat.libp2p_port,
                        shard_port=occupant.seat.shard_port,
                        api_port=occupant.seat.api_port,
                        joined=occupant.joined,
                        suspended=suspended.get(MemberIndex(number)),
                    )
                    for number, occupant in occupied
                ]
            )
        )

    async def evidence(self, _request: Request) -> Response:
        faults = await trio.to_thread.run_sync(self._store.faults)
        return json_answer(
            EvidenceAnswer(
                faults=[
                    FaultAnswer(
                        seat=fault.member,
                        kind=fault.kind,
                        height=fault.height,
                        round=fault.round,
                        proven_at=fault.proven_at,
                    )
                    for fault in faults
                ]
            )
        )

    async def audits(self, _request: Request) -> Response:
        return json_answer(await trio.to_thread.run_sync(audits_answer, self._store))

    async def block(self, request: Request) -> Response:
        height = Height(whole_number(request.path_params["height"], "height"))
        decided = await trio.to_thread.run_sync(self._store.decided_block, height)
        if decided is None:
            if 0 < height <= self._store.tip.height:
                raise PrunedError(f"the transactions of block {height} are pruned here")
            raise MissingError(f"no block {height}: this chain ends at {self._store.tip.height}")
        return json_answer(
            block_answer(
                decided,
                header_hash(decided.block.header).hex(),
                [int(member) for member in signers(decided.commit)],
                [transaction_id(encoded).hex() for encoded in decided.block.transactions],
            )
        )

    async def seat_changes(self, _request: Request) -> Response:
        return json_answer(await trio.to_thread.run_sync(changes_answer, self._store))

    async def raw_seats(self, _request: Request) -> Response:
        return Response(raw_seats(self._store), media_type=OCTETS)

    async def raw_members(self, _request: Request) -> Response:
        proofs = await trio.to_thread.run_sync(self._store.member_changes)
        return Response(b"".join(len(p).to_bytes(4, "big") + p for p in proofs), media_type=OCTETS)

    async def raw_genesis(self, _request: Request) -> Response:
        return Response(encode(self._parts.config.genesis), media_type=OCTETS)

    async def raw_blocks(self, request: Request) -> Response:
        first = Height(whole_number(request.query_params.get("from", "1"), "from"))
        count = min(whole_number(request.query_params.get("count", str(RAW_BLOCKS_MAX)), "count"), RAW_BLOCKS_MAX)
        blocks = await trio.to_thread.run_sync(self._store.decided_range, first, count, ANSWER_BYTES_MAX - 4 * count)
        return Response(b"".join(len(b).to_bytes(4, "big") + b for b in blocks), media_type=OCTETS)

    async def sender(self, request: Request) -> Response:
        public_key = PublicKey(read_hex(request.path_params["public_key"], HASH_BYTES, "public key"))
        state = await trio.to_thread.run_sync(read_state, self._store, sender_key(public_key), SenderState)
        sequences = [] if state is None else list(state.sequences)
        return json_answer(SenderAnswer(public_key=public_key.hex(), sequences=sequences))

    async def entries(self, request: Request) -> Response:
        query = request.query_params
        tenant = TenantId(read_hex(query.get("tenant", ""), HANDLE_BYTES, "tenant"))
        bucket = BucketTag(read_hex(query["bucket"], HANDLE_BYTES, "bucket")) if "bucket" in query else None
        after = listing_place(query["after"]) if "after" in query else None
        limit = min(whole_number(query.get("limit", str(ENTRIES_MAX)), "limit"), ENTRIES_MAX)
        found = await trio.to_thread.run_sync(self._listed, tenant, bucket, after, max(limit, 1))
        return json_answer(EntriesAnswer(entries=[entry_answer(e.bucket_tag, e.name_tag, e.state) for e in found]))

    def _listed(
        self, tenant: TenantId, bucket: BucketTag | None, after: tuple[BucketTag, NameTag] | None, limit: int
    ) -> list[ListedEntry]:
        """Return entries behind a place, fewer than asked for when they have many references; at least one."""
        found: list[ListedEntry] = []
        references = 0
        while len(found) < limit:
            page = self._store.entries(tenant, bucket, after=after, limit=min(limit - len(found), LISTED_AT_ONCE))
            for listed in page:
                references += len(listed.state.extents)
                if found and references > REFERENCES_MAX:
                    return found
                found.append(listed)
            if not page:
                return found
            after = page[-1].bucket_tag, page[-1].name_tag
        return found

    async def entry(self, request: Request) -> Response:
        tenant, bucket, name = entry_name(request)
        state = await trio.to_thread.run_sync(self._store.entry, tenant, bucket, name)
        if state is None:
            raise MissingError("no such entry")
        return json_answer(entry_answer(bucket, name, state))

    async def find_entries(self, request: Request) -> Response:
        question = read_question(await read_body(request, FIND_BYTES_MAX), EntriesQuestion)
        tenant = TenantId(read_hex(question.tenant, HANDLE_BYTES, "tenant"))
        places = [
            (BucketTag(read_hex(bucket, HANDLE_BYTES, "bucket")), NameTag(read_hex(name, HANDLE_BYTES, "name")))
            for bucket, name in question.names
        ]
        found = await trio.to_thread.run_sync(self._found, tenant, places)
        return json_answer(
            FoundEntriesAnswer(
                entries=[
                    None if state is None else entry_answer(*place, state)
                    for place, state in zip(places, found, strict=False)
                ]
            )
        )

    def _found(self, tenant: TenantId, places: list[tuple[BucketTag, NameTag]]) -> list[EntryState | None]:
        """Return the entries of the first places, all unless they have many references; at least one."""
        found: list[EntryState | None] = []
        references = 0
        for place in places:
            state = self._store.entry(tenant, *place)
            references += 0 if state is None else len(state.extents)
            if found and references > REFERENCES_MAX:
                break
            found.append(state)
        return found

    async def find_segments(self, request: Request) -> Response:
        question = read_question(await read_body(request, FIND_BYTES_MAX), SegmentsQuestion)
        ids = [SegmentId(read_hex(text, HASH_BYTES, "segment id")) for text in question.segment_ids]
        found = await trio.to_thread.run_sync(lambda: [self._store.segment(segment_id) for segment_id in ids])
        return json_answer(
            FoundSegmentsAnswer(
                segments=[
                    None if state is None else segment_answer(segment_id, state)
                    for segment_id, state in zip(ids, found, strict=True)
                ]
            )
        )

    async def segment(self, request: Request) -> Response:
        segment_id = SegmentId(read_hex(request.path_params["segment_id"], HASH_BYTES, "segment id"))
        state = await trio.to_thread.run_sync(self._store.segment, segment_id)
        if state is None:
            raise MissingError("no such segment")
        return json_answer(segment_answer(segment_id, state))

    async def entry_proof(self, request: Request) -> Response:
        return await self._proof(request, entry_key(*entry_name(request)))

    async def segment_proof(self, request: Request) -> Response:
        segment_id = SegmentId(read_hex(request.path_params["segment_id"], HASH_BYTES, "segment id"))
        return await self._proof(request, segment_key(segment_id))

    async def state_proof(self, request: Request) -> Response:
        text = request.path_params["state_key"]
        return await self._proof(request, read_hex(text, len(text[: 2 * STATE_KEY_BYTES_MAX]) // 2, "state key"))

    async def transaction_proof(self, request: Request) -> Response:
        wanted = TransactionId(read_hex(request.path_params["transaction_id"], HASH_BYTES, "transaction id"))
        proof = await trio.to_thread.run_sync(self._store.transaction_proof, wanted)
        if proof is None:
            raise MissingError(f"transaction {wanted.hex()} is not on this chain")
        return _proof_answer(request, proof)

    async def _proof(self, request: Request, state_key: bytes) -> Response:
        return _proof_answer(request, await trio.to_thread.run_sync(self._store.proof, state_key))


def _proof_answer(request: Request, proof: StateProof | TransactionProof) -> Response:
    encoded = encode(proof)
    if request.query_params.get("raw"):
        return Response(encoded, media_type=OCTETS)
    return json_answer(ProofAnswer(height=proof.certified.header.height, proof=encoded.hex()))
