"""Seats on one side, network keys on the other: the consensus shell's way to members over the network room."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from consensus.errors import RejectionError, RejectionReason
from consensus.messages import TransactionsMessage, decode_message
from node.errors import PeerUnreachableError
from node.network.peers import Topic

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from consensus.identifiers import MemberIndex, PublicKey
    from node.admission import Admission
    from node.catch_up_task import Answer, CatchUpServer
    from node.consensus_task import ConsensusTask
    from node.network.host import Network


class MemberLinks:
    """Implements Outbox and Asker; what is sent before the network is open is dropped, as on a closed link."""

    def __init__(self, keys: Mapping[MemberIndex, PublicKey]) -> None:
        """Reach the other members by their network keys; one's own seat and those not named here get nothing."""
        self._keys = dict(keys)
        self._members = {public_key: member for member, public_key in keys.items()}
        self._network: Network | None = None

    def attach(self, network: Network) -> None:
        """Use an open network from now on."""
        self._network = network

    def member_of(self, peer: PublicKey) -> MemberIndex:
        """Return the seat of a peer that the network let in."""
        return self._members[peer]

    def connected(self) -> list[MemberIndex]:
        """Return the members whose link is up, in seat order."""
        if self._network is None:
            return []
        return sorted(self._members[peer] for peer in self._network.connected_peers())

    def send(self, member: MemberIndex, frame: bytes) -> None:
        """Queue a frame for one member; one's own seat is ignored."""
        if self._network is not None and member in self._keys:
            self._network.send(self._keys[member], frame)

    def broadcast(self, frame: bytes) -> None:
        """Queue a frame for every other member."""
        if self._network is not None:
            self._network.broadcast(frame)

    def publish_transactions(self, payload: bytes) -> None:
        """Gossip waiting transactions."""
        if self._network is not None:
            self._network.publish(Topic.TRANSACTIONS, payload)

    def publish_block(self, payload: bytes) -> None:
        """Gossip a decision."""
        if self._network is not None:
            self._network.publish(Topic.BLOCKS, payload)

    async def request(self, member: MemberIndex, payload: bytes, deadline_s: float) -> bytes:
        """Ask one member; raises PeerUnreachableError or RejectionError."""
        if self._network is None:
            raise PeerUnreachableError("the network is not open")
        if member not in self._keys:
            raise PeerUnreachableError(f"there is no link to seat {member}")
        return await self._network.request(self._keys[member], payload, deadline_s=deadline_s)

    async def request_all(self, questions: Sequence[tuple[MemberIndex, bytes]], deadline_s: float) -> list[Answer]:
        """Return what several members answer who are asked side by side, in the order of the questions."""
        answers: dict[int, Answer] = {}

        async def ask_one(place: int, member: MemberIndex, payload: bytes) -> None:
            try:
                answers[place] = await self.request(member, payload, deadline_s)
            except (PeerUnreachableError, RejectionError) as error:
                answers[place] = error

        async with trio.open_nursery() as nursery:
            for place, (member, payload) in enumerate(questions):
                nursery.start_soon(ask_one, place, member, payload)
        return [answers[place] for place in range(len(questions))]

    def refuse(self, member: MemberIndex, error: RejectionError) -> None:
        """Count a lie and close the member's connection."""
        if self._network is not None and member in self._keys:
            self._network.refuse(self._keys[member], error)


class ShellHandlers:
    """Implements NetworkHandlers: what arrives goes to the task that understands it."""

    def __init__(
        self,
        *,
        links: MemberLinks,
        consensus: ConsensusTask,
        admission: Admission,
        server: CatchUpServer,
        on_link: Callable[[], None],
    ) -> None:
        self._links = links
        self._consensus = consensus
        self._admission = admission
        self._server = server
        self._on_link = on_link

    def on_frame(self, peer: PublicKey, frame: bytes) -> None:
        """Hand a frame to the consensus task, which only queues it."""
        self._consensus.receive(self._links.member_of(peer), frame)

    async def on_gossip(self, topic: Topic, peer: PublicKey, payload: bytes) -> None:
        """Take gossiped transactions, and decisions like any frame."""
        if topic is Topic.TRANSACTIONS:
            message = decode_message(payload)
            if not isinstance(message, TransactionsMessage):
                raise RejectionError(RejectionReason.MALFORMED, "not transactions")
            self._admission.take(message)
            return
        self._consensus.receive(self._links.member_of(peer), payload)

    async def on_request(self, peer: PublicKey, payload: bytes) -> bytes:
        """Answer a catch-up request."""
        del peer
        return await self._server.answer(payload)

    def on_link_up(self, peer: PublicKey) -> None:
        """Say where we stand: whoever is behind learns it at once."""
        self._consensus.say_status(self._links.member_of(peer))
        self._on_link()

    def on_link_down(self, peer: PublicKey) -> None:
        """Nothing to do: frames wait in the bounded queue."""
        del peer
