"""Sends what a seat itself has to say to the chain: signed by its own key, through its own node's mempool."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from consensus.identifiers import Height
from node.submission import Submission
from storage.transactions import TRANSACTION_VERSION, Envelope, sign_transaction

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.identifiers import GenesisHash, TransactionId
    from consensus.signing import SigningKey
    from storage.transactions import Body

VALID_HEIGHTS: Final = 500
"""Half of what genesis allows, so that a member slightly behind accepts it."""


class SeatSender:
    """Signs and submits for one seat."""

    def __init__(
        self,
        *,
        signing_key: SigningKey,
        genesis_hash: GenesisHash,
        tip_height: Callable[[], Height],
        submit: Callable[[Submission], TransactionId],
    ) -> None:
        self._signing_key = signing_key
        self._genesis_hash = genesis_hash
        self._tip_height = tip_height
        self._submit = submit
        self._last_sequence = 0

    def send(self, body: Body) -> TransactionId:
        """Have a block carry this, if one will; raises RejectionError when the mempool does not take it."""
        self._last_sequence = max(self._last_sequence + 1, time.time_ns() // 1_000)
        envelope = Envelope(
            transaction_version=TRANSACTION_VERSION,
            sender=self._signing_key.public,
            sequence=self._last_sequence,
            valid_until_height=Height(self._tip_height() + VALID_HEIGHTS),
            body=body,
        )
        transaction = sign_transaction(envelope, self._signing_key, self._genesis_hash)
        return self._submit(Submission(transaction=transaction, records=()))
