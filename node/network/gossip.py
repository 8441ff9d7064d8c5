"""GossipSub over the members: hints of transactions and decided blocks.

The library's spam protection, adaptive degree and eclipse protection are off: among nine known members they lost four
messages of nine (10 a second and topic at most). Every member grafts three others and nobody is pruned.

Rules
- N9. Gossip is a hint: whoever misses one pulls it. Nothing is asked of it twice. A message names its author, a member,
  by an Ed25519 signature over its whole content; another is not passed on.
- N5. A payload is at most GOSSIP_BYTES_MAX: larger ones are refused at home, and no peer may send an RPC of over 1 MiB.
- N13. A peer that ends its gossip stream while its connection lives broke a rule of the wire: its connection is closed.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service

from consensus.errors import RejectionError, RejectionReason
from node.network.peers import GOSSIP_BYTES_MAX, PEERS_MAX, Drop, Topic
from node.network.swarm import reset_stream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from libp2p.abc import INetStream

    from consensus.identifiers import PublicKey
    from node.network.peers import Membership, NetworkCounters, NetworkHandlers
    from node.network.swarm import MembersHost

logger = logging.getLogger(__name__)

GOSSIP_PROTOCOL: Final = TProtocol("/meshsub/1.1.0")
DEGREE: Final = 3
DEGREE_MAX: Final = PEERS_MAX
"""Never prune: with 5 the library left members with an empty mesh, and 80 % of the messages did not reach them."""
HEARTBEAT_S: Final = 1
WAITING_MAX: Final = 1024
"""Messages of one topic that the shell has not taken yet; the library's 32 lost the end of a burst of 40."""
RPC_BYTES_MAX: Final = 1024 * 1024
STREAM_END_GRACE_S: Final = 1.0
"""A connection that closes ends its streams first; only one still open after this is blamed (N13)."""


class MembersPubsub(Pubsub):
    """Closes the connection of a peer whose gossip the library gave up on (N13)."""

    on_stream_broken: Callable[[ID], None]

    async def stream_handler(self, stream: INetStream) -> None:
        """Read a peer's gossip until its stream ends."""
        try:
            await super().stream_handler(stream)
        except Exception as error:  # noqa: BLE001 (a peer's bytes make the library raise anything)
            logger.warning("gossip of %s failed: %s", stream.muxed_conn.peer_id, type(error).__name__)
            await reset_stream(stream)
        await trio.sleep(STREAM_END_GRACE_S)
        if not stream.muxed_conn.is_closed:
            self.on_stream_broken(stream.muxed_conn.peer_id)

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        """Check, deliver and pass on one message; the library runs this in a task whose failure stops all gossip."""
        try:
            await super().push_msg(msg_forwarder, msg)
        except Exception as error:  # noqa: BLE001 (the same)
            logger.warning("a message by way of %s failed: %s", msg_forwarder, type(error).__name__)
            if msg_forwarder != self.my_id:
                self.on_stream_broken(msg_forwarder)


def build_gossip(
    host: MembersHost, membership: Membership, refuse: Callable[[PublicKey, RejectionError], None]
) -> tuple[MembersPubsub, GossipSub]:
    """Return gossip that is not running yet."""
    router = GossipSub(
        protocols=[GOSSIP_PROTOCOL],
        degree=DEGREE,
        degree_low=DEGREE - 1,
        degree_high=DEGREE_MAX,
        heartbeat_interval=HEARTBEAT_S,
        adaptive_gossip_enabled=False,
        spam_protection_enabled=False,
        eclipse_protection_enabled=False,
    )
    pubsub = MembersPubsub(
        host,
        router,
        strict_signing=True,
        max_inbound_rpc_size=RPC_BYTES_MAX,
        max_subscriptions_per_rpc=len(Topic),
        max_subscriptions_per_peer=len(Topic),
        allowed_topics={topic.value for topic in Topic},
    )
    broken = RejectionError(RejectionReason.MALFORMED, "the gossip stream ended")

    def blame(peer_id: ID) -> None:
        member = membership.key_of(peer_id)
        if member is not None:
            refuse(member, broken)

    pubsub.on_stream_broken = blame
    return pubsub, router


@asynccontextmanager
async def run_gossip(
    pubsub: MembersPubsub, router: GossipSub
) -> AsyncGenerator[dict[Topic, trio.MemoryReceiveChannel[rpc_pb2.Message]]]:
    """Run both services and yield one subscription per topic."""
    async with background_trio_service(router), background_trio_service(pubsub):
        await pubsub.wait_until_ready()
        yield {topic: await subscribe(pubsub, topic) for topic in Topic}


async def subscribe(pubsub: MembersPubsub, topic: Topic) -> trio.MemoryReceiveChannel[rpc_pb2.Message]:
    """Subscribe with a queue of WAITING_MAX messages instead of the library's."""
    await pubsub.subscribe(topic.value)
    send, receive = trio.open_memory_channel[rpc_pb2.Message](WAITING_MAX)
    pubsub.subscribed_topics_send[topic.value] = send
    return receive


async def deliver_topic(
    topic: Topic,
    subscription: trio.MemoryReceiveChannel[rpc_pb2.Message],
    *,
    membership: Membership,
    handlers: NetworkHandlers,
    counters: NetworkCounters,
    refuse: Callable[[PublicKey, RejectionError], None],
) -> None:
    """Hand what members publish to the shell, one by one, for ever."""
    while True:
        message = await subscription.receive()
        author = membership.key_of(ID(message.from_id))
        if author is None:
            continue
        try:
            check_size(message)
            counters.gossip_delivered += 1
            await handlers.on_gossip(topic, author, message.data)
        except RejectionError as error:
            refuse(author, error)


def install_validators(pubsub: MembersPubsub, membership: Membership, own_peer_id: ID) -> None:
    """Stop what no member wrote before it is passed on (N9)."""

    def is_worth_passing_on(_forwarder: ID, message: rpc_pb2.Message) -> bool:
        author = ID(message.from_id)
        return len(message.topicIDs) == 1 and (author == own_peer_id or membership.key_of(author) is not None)

    for topic in Topic:
        pubsub.set_topic_validator(topic.value, is_worth_passing_on, is_async_validator=False)


async def publish(pubsub: MembersPubsub, topic: Topic, payload: bytes, counters: NetworkCounters) -> None:
    """Publish a hint; what the library cannot send is lost, which a hint may be (N9)."""
    if len(payload) > GOSSIP_BYTES_MAX:
        counters.dropped[Drop.GOSSIP_OVERSIZED] += 1
        return
    try:
        await pubsub.publish(topic.value, payload)
    except (BaseLibp2pError, OSError):
        return
    counters.gossip_published += 1


def check_size(message: rpc_pb2.Message) -> None:
    """Refuse a payload that no honest member publishes.

    Raises:
        RejectionError: OVERSIZED.
    """
    if len(message.data) > GOSSIP_BYTES_MAX:
        raise RejectionError(RejectionReason.OVERSIZED, f"gossip of {len(message.data)} bytes")
