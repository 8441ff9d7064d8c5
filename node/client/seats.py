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
from storage.membership import decode_seats
from storage.state import SeatState

if TYPE_CHECKING:
    from node.client.home import ClientHome

ANSWER_SECONDS: Final = 2.0


async def all_seats(home: ClientHome, http: httpx.AsyncClient) -> tuple[SeatState, ...]:
    """Return every seat that ever was, by number, as the first node says that answers; genesis' when none does."""
    for node in home.nodes:
        try:
            answer = await http.get(f"{node}/v1/raw/seats", timeout=ANSWER_SECONDS)
            return decode_seats(answer.raise_for_status().content)
        except (httpx.HTTPError, RejectionError):
            continue
    return genesis_seats(home)


def genesis_seats(home: ClientHome) -> tuple[SeatState, ...]:
    """Return the seats of genesis."""
    keys = home.genesis.members
    return tuple(
        SeatState(signing_key=keys[number], seat=seat, opened=Height(0), joined=Height(0), closed=None)
        for number, seat in enumerate(storage_genesis(home.genesis).seats)
    )
