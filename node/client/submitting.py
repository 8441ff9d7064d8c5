"""Transactions of many tasks over the same connections: those of one moment are posted together.

For whoever speaks for many senders at once. Each transaction is one sender's own, signed, judged and answered alone;
what they share is the request, which costs a node as much as several transactions do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from consensus.errors import RejectionError, RejectionReason
from node.client.gathering import Gathering
from node.submission import SUBMISSIONS_MAX, Submission
from storage.transactions import transaction_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consensus.identifiers import TransactionId
    from node.client.chain import Commit

REQUESTS_IN_FLIGHT: Final = 4
"""Each waits for a block or two; what comes while all wait shares the next."""


class ManyDoor(Protocol):
    """The chain as it takes many transactions; node.client.http_chain.HttpChain."""

    async def submit_many(self, submissions: Sequence[Submission]) -> list[Commit | RejectionError | None]:
        """Hand transactions to a node; what became of each, None for one that waits still."""
        ...

    async def wait(self, transaction_id: TransactionId) -> Commit:
        """Wait until the chain carries the transaction."""
        ...


class SharedSubmitting:
    """Posts what many tasks submit; run() does it."""

    def __init__(self, chain: ManyDoor) -> None:
        self._chain = chain
        self._gathering = Gathering(chain.submit_many, together_max=SUBMISSIONS_MAX, in_flight_max=REQUESTS_IN_FLIGHT)

    async def run(self) -> None:
        """Post until cancelled."""
        await self._gathering.run()

    async def submit_and_wait(self, transaction: bytes, records: Sequence[bytes] = ()) -> Commit:
        """Submit a transaction and wait until the chain carries it; a copy that a node knows already is no error.

        Raises:
            RejectionError: Refused at the door.
            PeerUnreachableError: No node answers, or no block carried it in time; it may come.
        """
        found = await self._gathering.ask(Submission(transaction=transaction, records=tuple(records)))
        if isinstance(found, RejectionError) and found.reason is not RejectionReason.DUPLICATE_TRANSACTION:
            raise found
        if found is None or isinstance(found, RejectionError):
            return await self._chain.wait(transaction_id(transaction))
        return found
