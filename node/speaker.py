"""The seat's voice: flushes, signs and sends, in this order, and says which of its own messages left.

The only way from an effect of the core to a signature on the wire. What the signer record forbids is not said.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from consensus.events import ProposalReceived, Validity, VoteReceived
from consensus.messages import ProposalMessage, VoteMessage, encode_message
from node.signer import SigningRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.effects import BroadcastProposal
    from consensus.votes import Vote
    from node.blocking import RunBlocking
    from node.outbox import Outbox
    from node.proposal_intake import ProposalIntake
    from node.signer import Signer
    from node.telemetry import NodeCounters
    from node.write_ahead_log import WriteAheadLog

LOGGER = logging.getLogger(__name__)

WantedT = TypeVar("WantedT")
SignedT = TypeVar("SignedT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """Signs for one seat."""

    signer: Signer
    log: WriteAheadLog
    intake: ProposalIntake
    outbox: Outbox
    counters: NodeCounters
    run_flush: RunBlocking

    async def propose(self, effect: BroadcastProposal) -> ProposalReceived | None:
        """Send a proposal with its block and records; return it as the event that it is to ourselves."""
        known = self.intake.pool.get(effect.proposal.block_hash)
        if known is None:
            LOGGER.warning("the block to propose again is not here any more")
            return None
        signed = await self._signed(self.signer.sign_proposal, effect.proposal)
        if signed is None:
            return None
        records = await self.intake.records_of(known.addresses)
        message = ProposalMessage(signed=signed, block=known.block, records=records, polka=effect.polka)
        self.outbox.broadcast(encode_message(message))
        return ProposalReceived(signed=signed, validity=Validity.VALID)

    async def vote(self, vote: Vote) -> VoteReceived | None:
        """Send a vote; return it as the event that it is to ourselves."""
        signed = await self._signed(self.signer.sign_vote, vote)
        if signed is None:
            return None
        self.outbox.broadcast(encode_message(VoteMessage(signed=signed)))
        self.counters.votes_sent += 1
        return VoteReceived(signed=signed)

    async def _signed(self, sign: Callable[[WantedT], SignedT], wanted: WantedT) -> SignedT | None:
        try:
            return await self.run_flush(self._flush_and_sign, sign, wanted)
        except SigningRefusedError as error:
            self.counters.signatures_refused += 1
            LOGGER.info("%s", error)
            return None

    def _flush_and_sign(self, sign: Callable[[WantedT], SignedT], wanted: WantedT) -> SignedT:
        """What led to a signature is durable before the signature exists."""
        self.log.flush()
        return sign(wanted)
