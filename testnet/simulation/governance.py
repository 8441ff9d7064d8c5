"""Changes of the seats while a world runs: proposed, approved, and enacted upon the machines once they are effective.

Members sign with their own keys, liars among them too; proposals compete, are lost with the links and the nodes that
took them, and are made again. What a change means for machines happens when the first correct node has appended the
last block before it: who leaves is switched off, a newcomer's machine has an empty disk and catches up from genesis,
whoever has new keys starts again with them. The next change waits until the newcomer has caught up: while it is away
it counts as one of the failures that the budget bears.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from consensus.identifiers import Height, Milliseconds, PublicKey
from node.submission import Submission
from storage.genesis import Seat
from storage.identifiers import COLUMNS_MAX, SeatIndex
from storage.membership import Membership, read_proposals
from storage.seat_changes import (
    AddSeat,
    ApproveChange,
    Change,
    ChangeParameters,
    ProposeChange,
    RemoveSeat,
    ReplaceOccupant,
    RotateKeys,
    SeatOffer,
    change_id,
    make_offer,
)
from storage.transactions import Envelope, sign_transaction
from testnet.simulation.faults import Move

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from consensus.identifiers import GenesisHash
    from consensus.signing import SignatureMaker
    from storage.transactions import Body
    from testnet.simulation.checkers import Watch
    from testnet.simulation.node import SimulatedNode
    from testnet.simulation.signatures import KeyRing

STEP_MS: Final = (100, 500)
RIVALS: Final = 0.3
"""How often two members propose at once."""
VOTES: Final = 0.6
"""Share of the members that say what they think in one step."""
TOLD: Final = 3
"""Nodes at which a member posts."""
BEHIND: Final = 2
"""Heights that a newcomer may miss when the next change is proposed."""


@dataclass(slots=True, kw_only=True)
class Governance:
    """What the members of one world agree on about themselves."""

    rng: Random
    ring: KeyRing
    watch: Watch
    genesis_hash: GenesisHash
    nodes: list[SimulatedNode]
    keys: dict[PublicKey, SignatureMaker]
    moves: list[Move]
    """Changes still to be made, the next one first."""
    install: Callable[[SeatIndex, SignatureMaker], None]
    """Puts a newcomer's machine in the place of a seat, or behind the last one."""
    enacted: int = 0
    _known: Membership | None = None
    _newest: SimulatedNode | None = None
    _sequence: int = 0
    _newcomers: int = 0
    _parameter_changes: int = 0

    def step(self) -> None:
        """Enact what is effective, approve what is proposed, propose what is next."""
        membership = self.watch.context.membership
        self._enact(membership)
        if membership.scheduled is not None:
            return
        proposals = read_proposals(self.watch.state)
        if proposals:
            self._approve()
        elif self.moves and self._is_settled():
            self._propose(membership)

    @property
    def is_over(self) -> bool:
        """Say whether nothing is to be changed and nothing is under way."""
        membership = self.watch.context.membership
        return not self.moves and membership.scheduled is None and not read_proposals(self.watch.state)

    def _is_settled(self) -> bool:
        newest = self._newest
        return newest is None or newest.is_retired or newest.has_height(Height(self.watch.height - BEHIND))

    # --- what machines do --------------------------------------------------------------------------------------------

    def _enact(self, membership: Membership) -> None:
        known, self._known = self._known or membership, membership
        if (known.seats, known.chain) == (membership.seats, membership.chain):
            return
        self.enacted += 1
        self.moves = self.moves[1:]
        before = known.seats
        for number, seat in enumerate(membership.seats):
            if number < len(before) and seat == before[number]:
                continue
            node = self.nodes[number] if number < len(self.nodes) else None
            if seat.closed is not None:
                assert node is not None, "who ends has been"
                node.retire()
            elif node is not None and seat.joined == before[number].joined:
                node.take_key(self.keys[seat.signing_key])
            else:
                self.install(SeatIndex(number), self.keys[seat.signing_key])
                self._newest = self.nodes[number]

    # --- what members say --------------------------------------------------------------------------------------------

    def _propose(self, membership: Membership) -> None:
        self._offer(membership, self.moves[0])
        if self.rng.random() < RIVALS:
            self._offer(membership, self.rng.choice(list(Move)))

    def _offer(self, membership: Membership, move: Move) -> None:
        change = self._change(membership, move)
        voters = [seat.signing_key for _, seat in membership.occupied]
        if change is not None:
            self._post(self.keys[self.rng.choice(voters)], ProposeChange(change=change))

    def _approve(self) -> None:
        for proposer, proposal in read_proposals(self.watch.state):
            name = change_id(proposer, proposal.height, proposal.change)
            for _, seat in self.watch.context.membership.occupied:
                if self.rng.random() < VOTES:
                    self._post(self.keys[seat.signing_key], ApproveChange(proposer=proposer, change_id=name))

    def _change(self, membership: Membership, move: Move) -> Change | None:
        """Return a change that these seats bear, as a rule."""
        occupied = [number for number, _ in membership.occupied]
        number = self.rng.choice(occupied)
        match move:
            case Move.ADD:
                return AddSeat(offer=self._newcomer(SeatIndex(len(membership.seats))))
            case Move.REMOVE:
                if len(occupied) > COLUMNS_MAX and len(occupied) > sum(seat.opened == 0 for seat in membership.seats):
                    return RemoveSeat(number=number)
                return AddSeat(offer=self._newcomer(SeatIndex(len(membership.seats))))
            case Move.REPLACE:
                return ReplaceOccupant(offer=self._newcomer(number))
            case Move.ROTATE:
                operator = membership.seats[number].seat.operator
                return RotateKeys(offer=self._newcomer(number, operator))
            case Move.PARAMETERS:
                self._parameter_changes += 1
                agreement = membership.chain.agreement
                delta_ms = Milliseconds(agreement.timeout_delta_ms + self._parameter_changes)
                return ChangeParameters(
                    agreement=replace(agreement, timeout_delta_ms=delta_ms), storage=membership.chain.parameters
                )

    def _newcomer(self, number: SeatIndex, operator: str | None = None) -> SeatOffer:
        self._newcomers += 1
        signing_key = self.ring.new_key(f"newcomer {self._newcomers}".encode().ljust(32))
        self.keys[signing_key.public] = signing_key
        seat = Seat(
            operator=operator or f"newcomer {self._newcomers}",
            site="nowhere",
            network_key=signing_key.public,
            certificate=b"certificate",
            host="127.0.0.1",
            libp2p_port=1,
            shard_port=2,
            api_port=3,
        )
        return make_offer(number, seat, signing_key, self.genesis_hash)

    def _post(self, signing_key: SignatureMaker, body: Body) -> None:
        self._sequence += 1
        envelope = Envelope(
            transaction_version=1,
            sender=signing_key.public,
            sequence=self._sequence,
            valid_until_height=Height(900),
            body=body,
        )
        transaction = sign_transaction(envelope, signing_key, self.genesis_hash)
        for node in self.rng.sample(self.nodes, min(TOLD, len(self.nodes))):
            node.submit(Submission(transaction=transaction, records=()))
