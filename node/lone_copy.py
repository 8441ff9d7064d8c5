"""Whether the seat's own address answers with the seat's own key: then another copy of it runs, and this one must not.

Asked before this process listens, so that it cannot meet itself. Nobody else can show the seat's certificate and finish
a handshake. A copy that listens where the others do not look for it is not found here, but by what it signs (rule D7).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from consensus.errors import RejectionError
from node.errors import ConfigurationError, PeerUnreachableError
from node.network.shard_channel import open_shard_client

if TYPE_CHECKING:
    from consensus.identifiers import MemberIndex
    from consensus.signing import SigningKey
    from storage.genesis import Seat

ANSWER_S: Final = 2.0
"""A node that runs answers within milliseconds; an address where packets vanish costs a start no more than this."""


async def check_no_copy_runs(number: MemberIndex, seat: Seat, network_key: SigningKey, answer_s: float) -> None:
    """Dial the address of the seat's record as any member would.

    Args:
        number: Of the seat, for the message.
        seat: This node's own, as the chain has it.
        network_key: This node's.
        answer_s: For connecting and the handshake together.

    Raises:
        ConfigurationError: Somebody there holds this very key (rule D27).
    """
    async with trio.open_nursery() as nursery:
        try:
            link = await open_shard_client(
                nursery, seat.host, seat.shard_port, network_key, seat.certificate, deadline_s=answer_s
            )
        except (PeerUnreachableError, RejectionError):
            return
        await link.aclose()
        nursery.cancel_scope.cancel()
    raise ConfigurationError(
        f"another copy of seat {number} is running: {seat.host}:{seat.shard_port} answers with this seat's own key;"
        " stop it, wherever it runs, before this one starts, or two nodes sign as one member"
    )
