"""Which seats there are now, and their keys: asked of a node when a client opens, since genesis may be long ago.

Nobody is trusted by it: the ledger accepts receipts of the seats' own keys alone, and what holders send is checked
against the chain's roots. A node that lies here only makes its client fail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import httpx

from consensus.errors import RejectionError
from consensus.identifiers import Height
from storage.genesis import storage_genesis
from storage.identifiers import SeatIndex
from storage.membership import decode_seats
from storage.state import SeatState

if TYPE_CHECKING:
    from node.client.home import ClientHome

ANSWER_SECONDS: Final = 2.0


async def present_seats(home: ClientHome, http: httpx.AsyncClient) -> dict[SeatIndex, SeatState]:
    """Return the seats that exist, as the first node says that answers; those of genesis when none does."""
    for node in home.nodes:
        try:
            answer = await http.get(f"{node}/v1/raw/seats", timeout=ANSWER_SECONDS)
            seats = decode_seats(answer.raise_for_status().content)
        except (httpx.HTTPError, RejectionError):
            continue
        return {SeatIndex(number): seat for number, seat in enumerate(seats) if seat.closed is None}
    return genesis_seats(home)


def genesis_seats(home: ClientHome) -> dict[SeatIndex, SeatState]:
    """Return the seats of genesis."""
    keys = home.genesis.members
    return {
        SeatIndex(number): SeatState(
            signing_key=keys[number], seat=seat, opened=Height(0), joined=Height(0), closed=None
        )
        for number, seat in enumerate(storage_genesis(home.genesis).seats)
    }
