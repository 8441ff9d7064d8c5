"""Fetches what was decided without this node, and answers those who fetch from it.

Blocks come in bulk from any member that says it is ahead; each is verified by the consensus task before it is
appended. A member whose blocks are refused, or that has not what it claims, is not asked again until it says more.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Protocol, assert_never

import trio

from consensus.blocks import DecidedBlock
from consensus.encoding import decode
from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import Height
from consensus.messages import (
    BLOCKS_PER_REQUEST_MAX,
    MESSAGE_BYTES_MAX,
    RESPONSE_BYTES_MAX,
    BlocksRequest,
    BlocksResponse,
    CatchUpRequest,
    CatchUpResponse,
    HeightRequest,
    HeightResponse,
    RecordsRequest,
    RecordsResponse,
    decided_height_sign_bytes,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from node.errors import PeerUnreachableError
from storage.identifiers import RecordAddress

if TYPE_CHECKING:
    from consensus.identifiers import GenesisHash, MemberIndex
    from consensus.signing import SigningKey
    from node.consensus_task import ConsensusTask
    from node.node_chain import NodeChain
    from node.signer import Signer
    from storage.stores.blocks import ChainStore

LOGGER = logging.getLogger(__name__)

GRACE_S: Final = 0.15
"""A member one height ahead is usually a moment ahead: its votes are on their way."""
ANSWER_S: Final = 10.0
RETRY_S: Final = 0.5
BLOCKS_BYTES_MAX: Final = RESPONSE_BYTES_MAX - 64 * 1024
"""Blocks of one answer; 64 KiB are left for what stands around them."""
RECORDS_BYTES_MAX: Final = RESPONSE_BYTES_MAX // 2


class Asker(Protocol):
    """Requests to one member (node/network)."""

    async def request(self, member: MemberIndex, payload: bytes, deadline_s: float) -> bytes:
        """Return the answer; raises PeerUnreachableError or RejectionError."""
        ...

    def refuse(self, member: MemberIndex, error: RejectionError) -> None:
        """Count a lie and close the member's connection."""
        ...


async def ask(asker: Asker, member: MemberIndex, request: CatchUpRequest) -> CatchUpResponse:
    """Ask one member and decode its answer; raises PeerUnreachableError or RejectionError."""
    return decode_response(await asker.request(member, encode_request(request), ANSWER_S))


async def run_catch_up(consensus: ConsensusTask, asker: Asker) -> None:
    """Keep the chain up with the furthest member, until cancelled."""
    while True:
        height = consensus.height
        ahead = consensus.peers.ahead_of(height)
        if not ahead:
            consensus.peer_ahead = trio.Event()
            await consensus.peer_ahead.wait()
            continue
        if consensus.peers.height_of(ahead[0]) == height + 1:
            await trio.sleep(GRACE_S)
            if consensus.height != height:
                continue
        await _fetch_from(ahead[0], consensus, asker)


def _decided(response: object) -> tuple[bytes, ...]:
    if not isinstance(response, BlocksResponse):
        raise RejectionError(RejectionReason.MALFORMED, "answered something else")
    return response.decided


async def _fetch_from(member: MemberIndex, consensus: ConsensusTask, asker: Asker) -> None:
    before = consensus.height
    try:
        request = BlocksRequest(from_height=before, count=BLOCKS_PER_REQUEST_MAX)
        response = await ask(asker, member, request)
        for encoded in _decided(response):
            await consensus.offer_decided(decode(encoded, DecidedBlock, bytes_max=MESSAGE_BYTES_MAX))
    except RejectionError as error:
        LOGGER.warning("member %d gave a block that is refused: %s", member, error)
        asker.refuse(member, error)
    except PeerUnreachableError as error:
        LOGGER.info("member %d does not give blocks: %s", member, error)
    if consensus.height == before:
        consensus.peers.forget(member)
        await trio.sleep(RETRY_S)


class CatchUpServer:
    """Answers other members' requests."""

    def __init__(
        self,
        *,
        seat: MemberIndex,
        signing_key: SigningKey,
        genesis_hash: GenesisHash,
        chain: NodeChain,
        store: ChainStore,
        signer: Signer,
    ) -> None:
        self._seat = seat
        self._signing_key = signing_key
        self._genesis_hash = genesis_hash
        self._chain = chain
        self._store = store
        self._signer = signer

    async def answer(self, payload: bytes) -> bytes:
        """Return the encoded answer to an encoded request; raises RejectionError."""
        request = decode_request(payload)
        match request:
            case BlocksRequest(from_height=first, count=count):
                blocks = await trio.to_thread.run_sync(self._store.decided_range, first, count, BLOCKS_BYTES_MAX)
                return encode_response(BlocksResponse(decided=blocks))
            case HeightRequest(nonce=nonce):
                return encode_response(self._height(nonce))
            case RecordsRequest(addresses=addresses):
                wanted = [RecordAddress(address) for address in addresses]
                found = await trio.to_thread.run_sync(self._chain.read_records, wanted)
                return encode_response(RecordsResponse(records=_within(found, wanted)))
            case _:
                assert_never(request)

    def _height(self, nonce: bytes) -> HeightResponse:
        """Vouch for the decided height; not while rejoining: whoever lost its memory cannot speak for it."""
        height = Height(self._chain.tip.height)
        floor = self._signer.floor
        if floor is None or height < floor:
            raise RejectionError(RejectionReason.TOO_LATE, "this seat is rejoining itself")
        message = decided_height_sign_bytes(nonce, height, self._genesis_hash)
        return HeightResponse(height=height, member=self._seat, signature=self._signing_key.sign(message))


def _within(found: dict[RecordAddress, bytes], wanted: list[RecordAddress]) -> tuple[bytes, ...]:
    records: list[bytes] = []
    free_bytes = RECORDS_BYTES_MAX
    for address in wanted:
        sealed = found.get(address)
        if sealed is None:
            continue
        free_bytes -= len(sealed)
        if free_bytes < 0:
            break
        records.append(sealed)
    return tuple(records)
