"""How a seat that lost its signer record votes again without ever contradicting what it signed before.

q other members, asked with a fresh nonce, sign which height they have decided; each shows that block's commit
certificate, so that a liar cannot name a height that does not exist and keep the seat silent for ever. The seat signs
only above F = 2 + the highest of them: whatever it signed before the fire was at most two heights above what one
honest member among them has decided. Members change, so the answers count once this node's own chain has that height:
until then a member that has left, or one that is not known yet, is asked again.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import trio

from consensus.blocks import DecidedBlock, check_header_commit
from consensus.encoding import decode
from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import Height, MemberIndex
from consensus.messages import (
    MESSAGE_BYTES_MAX,
    NONCE_BYTES,
    BlocksRequest,
    BlocksResponse,
    HeightRequest,
    HeightResponse,
    check_decided_height,
)
from node.catch_up_task import ask
from node.errors import PeerUnreachableError

if TYPE_CHECKING:
    from consensus.identifiers import PublicKey
    from consensus.members import MemberSet
    from consensus.schedule import MemberSchedule
    from node.catch_up_task import Asker
    from node.signer import Signer

LOGGER = logging.getLogger(__name__)

FLOOR_MARGIN: Final = 2
RETRY_S: Final = 0.5


class RejoiningChain(Protocol):
    """What of this node's chain a rejoining seat asks by."""

    @property
    def height(self) -> Height:
        """One above the chain."""
        ...

    @property
    def schedule(self) -> MemberSchedule:
        """Who agrees on which height, as far as this chain says."""
        ...


async def rejoin(signer: Signer, chain: RejoiningChain, seat: MemberIndex, asker: Asker) -> Height:
    """Ask until q other members have answered and this chain has what they named, then write and return the floor.

    Only then are those who answered known to be the members of that height.

    Raises:
        WriteAheadLogError: The record cannot be written.
    """
    LOGGER.warning("seat %d has keys but no signer record: it rejoins, and votes later", seat)
    answers: dict[MemberIndex, _Answer] = {}
    while True:
        members = chain.schedule.members_at(chain.height)
        answers = {m: answer for m, answer in answers.items() if members.index_of(answer.public_key) == m}
        highest = max((answer.height for answer in answers.values()), default=Height(0))
        if len(answers) >= members.budget.quorum and chain.height > highest:
            break
        async with trio.open_nursery() as nursery:
            for member in members.indices:
                if member != seat and member not in answers:
                    nursery.start_soon(_ask_into, answers, asker, chain, member)
        if len(answers) < members.budget.quorum or chain.height <= highest:
            await trio.sleep(RETRY_S)
    floor = Height(highest + FLOOR_MARGIN)
    await trio.to_thread.run_sync(signer.set_floor, floor)
    LOGGER.warning("seat %d rejoined: it signs above height %d", seat, floor)
    return floor


@dataclass(frozen=True, slots=True)
class _Answer:
    """A height that a member has proven, and the key it signed with."""

    height: Height
    public_key: PublicKey


async def _ask_into(
    answers: dict[MemberIndex, _Answer], asker: Asker, chain: RejoiningChain, member: MemberIndex
) -> None:
    members = chain.schedule.members_at(chain.height)
    try:
        height = await _proven_height(asker, chain, members, member)
        answers[member] = _Answer(height, members.public_key(member))
    except RejectionError as error:
        LOGGER.info("member %d does not vouch for a height: %s", member, error)
    except PeerUnreachableError:
        return


async def _proven_height(asker: Asker, chain: RejoiningChain, members: MemberSet, member: MemberIndex) -> Height:
    nonce = secrets.token_bytes(NONCE_BYTES)
    answer = await ask(asker, member, HeightRequest(nonce=nonce))
    if not isinstance(answer, HeightResponse) or answer.member != member:
        raise RejectionError(RejectionReason.MALFORMED, "answered something else")
    check_decided_height(answer, nonce, members)
    if answer.height > 0:
        await _check_exists(asker, chain, member, answer.height)
    return answer.height


async def _check_exists(asker: Asker, chain: RejoiningChain, member: MemberIndex, height: Height) -> None:
    shown = await ask(asker, member, BlocksRequest(from_height=height, count=1))
    if not isinstance(shown, BlocksResponse) or len(shown.decided) != 1:
        raise RejectionError(RejectionReason.WRONG_HEIGHT, f"has no block {height}")
    decided = decode(shown.decided[0], DecidedBlock, bytes_max=MESSAGE_BYTES_MAX)
    if decided.block.header.height != height:
        raise RejectionError(RejectionReason.WRONG_HEIGHT, f"shows another block than {height}")
    check_header_commit(decided.block.header, decided.commit, chain.schedule.members_at(height))
