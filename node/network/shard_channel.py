"""The shard channel: bulk between two parties that know each other's certificates (rules N20 to N23).

Rules:

1. TLS 1.3, both sides show the self-signed certificate of their key. A server accepts exactly the certificates it was
   given (members, granted clients), a client exactly the one of the seat it dials. Others end in the handshake: no byte
   of theirs reaches the application. The accepted set may change at any time; who left it is disconnected.
2. The dialling side asks, the other answers; requests carry numbers and are answered in any order. At most
   WINDOW requests of a connection are open: beyond that the server stops reading, and TCP holds the sender back.
3. Short frames go before long ones, and a long frame is at most 1 MiB: a question never waits behind a whole transfer.
4. Every wait for a peer has a deadline: handshake, rest of a frame, a send, an answer. A malformed frame, an answer
   nobody asked for, or a missed deadline ends the connection; what was open on it fails with PeerUnreachableError.
5. Reconnecting is the caller's, who knows which holders matter now.
"""

from __future__ import annotations

from node.network.shard_client import ANSWER_S, MemberReads, ShardClient, open_shard_client
from node.network.shard_connection import WINDOW
from node.network.shard_server import CONNECTIONS_PER_PEER_MAX, ShardHandler, ShardServer

__all__ = [
    "ANSWER_S",
    "CONNECTIONS_PER_PEER_MAX",
    "WINDOW",
    "MemberReads",
    "ShardClient",
    "ShardHandler",
    "ShardServer",
    "open_shard_client",
]
