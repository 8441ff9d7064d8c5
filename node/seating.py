"""Who sits where at the chain's next height, and how this node reaches them: the seats of the state with its overrides.

A node learns it when it starts. When seats or parameters change it starts again, one node after the other in order of
seat, so that never more than a few are away; its votes follow the members of each height at once, without that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from consensus.identifiers import MemberIndex
from node.errors import NodeError
from storage.identifiers import SeatIndex

if TYPE_CHECKING:
    from collections.abc import Mapping

    from consensus.identifiers import PublicKey
    from consensus.members import MemberSet
    from node.config import NodeConfig
    from storage.genesis import Seat, StorageParameters
    from storage.ledger import LedgerContext
    from storage.membership import Membership
    from storage.placement import Placement

SEATS_CHECK_S: Final = 1.0
ROLL_S: Final = 3.0
"""Between the restarts of two seats: twice what closing and opening takes on a busy machine."""


class SeatsChangedError(NodeError):
    """Seats or parameters are others than when this node started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seating:
    """The seats of the chain's next height.

    Attributes:
        own: This node's seat; somebody else's, or none yet, while its chain is behind.
        seats: By number, hosts and ports as this node reaches them.
    """

    own: MemberIndex
    operator: str
    seats: Mapping[MemberIndex, Seat]
    placement: Placement
    members: MemberSet
    parameters: StorageParameters

    @property
    def numbers(self) -> tuple[SeatIndex, ...]:
        """Return the numbers of all seats, in order."""
        return tuple(SeatIndex(member) for member in self.seats)

    @property
    def others(self) -> dict[MemberIndex, Seat]:
        """Return all seats but this node's."""
        return {member: seat for member, seat in self.seats.items() if member != self.own}


def seating_of(config: NodeConfig, context: LedgerContext) -> Seating:
    """Return the seats that follow from the state."""
    occupied = context.membership.occupied
    own = next((seat for _, seat in occupied if seat.signing_key == config.keys.signing.public), None)
    return Seating(
        own=config.seat,
        operator="nobody yet" if own is None else own.seat.operator,
        seats={MemberIndex(number): _reached(config, number, seat.seat) for number, seat in occupied},
        placement=context.placement,
        members=context.members,
        parameters=context.parameters,
    )


def seated_key(membership: Membership, number: MemberIndex) -> PublicKey | None:
    """Return the signing key that holds a seat now, None for none."""
    return next((seat.signing_key for occupied, seat in membership.occupied if MemberIndex(occupied) == number), None)


def _reached(config: NodeConfig, number: SeatIndex, seat: Seat) -> Seat:
    override = config.overrides.get(MemberIndex(number))
    if override is None:
        return seat
    return msgspec.structs.replace(
        seat,
        host=override.host or seat.host,
        libp2p_port=override.libp2p_port or seat.libp2p_port,
        shard_port=override.shard_port or seat.shard_port,
    )


def is_reseated(known: Membership, found: Membership) -> bool:
    """Say whether seats or parameters are others."""
    return (known.seats, known.chain) != (found.seats, found.chain)


def turn_of(own: MemberIndex, membership: Membership) -> int:
    """Return how many seats start again before this one."""
    return sum(number < own for number, _ in membership.occupied)
