"""Fetches what was decided without this node, and answers those who fetch from it.

Blocks come in bulk from members that say they are ahead, several side by side; each block is verified by the consensus
task before it is appended. A member that was asked in vain is avoided for a growing while, whatever it claims: a liar
that is always furthest ahead costs one question in between, not the chain.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, assert_never

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
    ClockRequest,
    ClockResponse,
    HeadsRequest,
    HeightRequest,
    HeightResponse,
    PieceRequest,
    RecordsRequest,
    RecordsResponse,
    SnapshotRequest,
    decided_height_sign_bytes,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from node.clock import now_ms
from node.errors import PeerUnreachableError
from node.helping import RECORDS_BYTES_MAX, within_bytes
from storage.identifiers import RecordAddress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consensus.identifiers import GenesisHash, MemberIndex
    from consensus.signing import SignatureMaker
    from node.blocking import RunBlocking
    from node.node_chain import NodeChain
    from node.peer_help import PeerHeights
    from node.signer import Signer
    from node.snapshot_server import SnapshotServer
    from storage.stores.blocks import ChainStore

LOGGER = logging.getLogger(__name__)

GRACE_S: Final = 0.15
"""A member one height ahead is usually a moment ahead: its votes are on their way."""
ANSWER_S: Final = 10.0
RETRY_S: Final = 0.5
"""How often it is looked whether a member that was avoided may be asked again."""
SIDE_BY_SIDE_MAX: Final = 4
"""Members asked for blocks at once: 32 MiB of answers at most."""
BLOCKS_BYTES_MAX: Final = RESPONSE_BYTES_MAX - 64 * 1024
"""Blocks of one answer; 64 KiB are left for what stands around them."""


class Asker(Protocol):
    """Requests to one member (node/network)."""

    async def request(self, member: MemberIndex, payload: bytes, deadline_s: float) -> bytes:
        """Return the answer; raises PeerUnreachableError or RejectionError."""
        ...

    def refuse(self, member: MemberIndex, error: RejectionError) -> None:
        """Count a lie and close the member's connection."""
        ...


Answer: TypeAlias = bytes | PeerUnreachableError | RejectionError
"""What a member said, or why it said nothing."""


class ManyAsker(Asker, Protocol):
    """Requests to several members."""

    async def request_all(self, questions: Sequence[tuple[MemberIndex, bytes]], deadline_s: float) -> list[Answer]:
        """Ask side by side; return what each says, in the order of the questions."""
        ...


class CatchingUp(Protocol):
    """Whose chain is kept up, and how it waits: ConsensusTask in a node."""

    @property
    def height(self) -> Height:
        """One above the chain."""
        ...

    @property
    def peers(self) -> PeerHeights:
        """Where the other members stand."""
        ...

    def now(self) -> float:
        """Return seconds of a monotonic clock."""
        ...

    async def pause(self, span_s: float) -> None:
        """Wait."""
        ...

    async def wait_for_peer_ahead(self, span_s: float) -> None:
        """Wait until a member says that it is ahead, at most this long."""
        ...

    async def offer_decided(self, decided: DecidedBlock) -> None:
        """Append a block if it follows the tip and is proven; raises RejectionError."""
        ...


async def ask(asker: Asker, member: MemberIndex, request: CatchUpRequest) -> CatchUpResponse:
    """Ask one member and decode its answer; raises PeerUnreachableError or RejectionError."""
    return decode_response(await asker.request(member, encode_request(request), ANSWER_S))


async def run_catch_up(consensus: CatchingUp, asker: ManyAsker) -> None:
    """Keep the chain up with the members that are ahead, until cancelled."""
    while True:
        height = consensus.height
        ahead = consensus.peers.ahead_of(height, consensus.now())
        if not ahead:
            await consensus.wait_for_peer_ahead(RETRY_S if consensus.peers.is_any_ahead(height) else math.inf)
            continue
        if consensus.peers.height_of(ahead[0]) == height + 1:
            await consensus.pause(GRACE_S)
            if consensus.height != height:
                continue
        await _fetch_from(ahead, consensus, asker)


@dataclass(frozen=True, slots=True)
class _Share:
    """The blocks that one member is asked for."""

    member: MemberIndex
    first: Height


def _shares(ahead: Sequence[MemberIndex], height: Height, peers: PeerHeights) -> tuple[_Share, ...]:
    """Divide the next blocks among those who say that they have them."""
    shares: list[_Share] = []
    for member in ahead[:SIDE_BY_SIDE_MAX]:
        first = Height(height + len(shares) * BLOCKS_PER_REQUEST_MAX)
        if (peers.height_of(member) or 0) > first:
            shares.append(_Share(member, first))
    return tuple(shares)


async def _fetch_from(ahead: Sequence[MemberIndex], consensus: CatchingUp, asker: ManyAsker) -> None:
    """Ask several members for a share each, side by side; whoever brings the chain no further is avoided."""
    shares = _shares(ahead, consensus.height, consensus.peers)
    requests = [BlocksRequest(from_height=share.first, count=BLOCKS_PER_REQUEST_MAX) for share in shares]
    answers = await asker.request_all(
        [(share.member, encode_request(request)) for share, request in zip(shares, requests, strict=True)], ANSWER_S
    )
    for share, answer in zip(shares, answers, strict=True):
        if consensus.height < share.first:
            return  # the one before left a gap: what follows it is asked for again
        await _offer(share.member, answer, consensus, asker)
        if consensus.height <= share.first:
            consensus.peers.avoid(share.member, consensus.now())
        else:
            consensus.peers.trust(share.member)


async def _offer(member: MemberIndex, answer: Answer, consensus: CatchingUp, asker: Asker) -> None:
    """Append the blocks of an answer; a member that refuses or does not answer is blamed for nothing."""
    if not isinstance(answer, bytes):
        LOGGER.info("member %d does not give blocks: %s", member, answer)
        return
    try:
        for encoded in _decided(decode_response(answer)):
            await consensus.offer_decided(decode(encoded, DecidedBlock, bytes_max=MESSAGE_BYTES_MAX))
    except RejectionError as error:
        LOGGER.warning("member %d gave a block that is refused: %s", member, error)
        asker.refuse(member, error)


def _decided(response: CatchUpResponse) -> tuple[bytes, ...]:
    if not isinstance(response, BlocksResponse):
        raise RejectionError(RejectionReason.MALFORMED, "answered something else")
    return response.decided


class CatchUpServer:
    """Answers other members' requests."""

    def __init__(
        self,
        *,
        seat: MemberIndex,
        signing_key: SignatureMaker,
        genesis_hash: GenesisHash,
        chain: NodeChain,
        store: ChainStore,
        signer: Signer,
        snapshots: SnapshotServer,
        run_blocking: RunBlocking = trio.to_thread.run_sync,
    ) -> None:
        self._run_blocking = run_blocking
        self._seat = seat
        self._signing_key = signing_key
        self._genesis_hash = genesis_hash
        self._chain = chain
        self._store = store
        self._signer = signer
        self._snapshots = snapshots

    async def answer(self, payload: bytes) -> bytes:
        """Return the encoded answer to an encoded request; raises RejectionError."""
        request = decode_request(payload)
        match request:
            case BlocksRequest(from_height=first, count=count):
                blocks = await self._run_blocking(self._store.decided_range, first, count, BLOCKS_BYTES_MAX)
                return encode_response(BlocksResponse(decided=blocks))
            case HeightRequest(nonce=nonce):
                return encode_response(self._height(nonce))
            case RecordsRequest(addresses=addresses):
                wanted = [RecordAddress(address) for address in addresses]
                found = await self._run_blocking(self._chain.read_records, wanted)
                records = [found[address] for address in wanted if address in found]
                return encode_response(RecordsResponse(records=within_bytes(records, RECORDS_BYTES_MAX)))
            case ClockRequest():
                return encode_response(ClockResponse(time_ms=now_ms()))
            case SnapshotRequest() | HeadsRequest() | PieceRequest():
                return encode_response(await self._run_blocking(self._snapshots.answer, request))
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
