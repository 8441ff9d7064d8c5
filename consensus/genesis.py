"""Genesis: the one record that everything else is signed under."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from consensus.encoding import Record, decode, encode
from consensus.identifiers import HASH, MEMBERS_MAX, TIME, GenesisHash, Milliseconds, PublicKey
from consensus.members import MemberSet, member_set
from consensus.signing import Domain, domain_hash

GENESIS_BYTES_MAX: Final = 4 * 1024 * 1024
Span = Annotated[Milliseconds, Meta(ge=0, le=3_600_000)]


class ConsensusParameters(Record):
    """Agreed times, in milliseconds (rules A52, A60, A66)."""

    propose_timeout_ms: Span = Milliseconds(500)
    prevote_timeout_ms: Span = Milliseconds(300)
    precommit_timeout_ms: Span = Milliseconds(300)
    timeout_delta_ms: Span = Milliseconds(250)
    timeout_max_ms: Span = Milliseconds(10_000)
    clock_drift_ms: Span = Milliseconds(10_000)
    heartbeat_ms: Span = Milliseconds(60_000)
    block_interval_min_ms: Span = Milliseconds(0)


class Genesis(Record, tag=14):
    """Chain, time, members in seat order, parameters, and the application's own part (opaque here)."""

    chain_id: Annotated[str, Meta(min_length=1, max_length=64)]
    time_ms: Annotated[Milliseconds, TIME]
    members: Annotated[tuple[Annotated[PublicKey, HASH], ...], Meta(min_length=1, max_length=MEMBERS_MAX)]
    parameters: ConsensusParameters
    application: Annotated[bytes, Meta(max_length=GENESIS_BYTES_MAX)]


def genesis_hash(genesis: Genesis) -> GenesisHash:
    """Return the hash that every signature on this chain includes."""
    return GenesisHash(domain_hash(Domain.GENESIS, encode(genesis)))


def genesis_members(genesis: Genesis) -> MemberSet:
    """Return the member set that genesis names."""
    return member_set(genesis_hash(genesis), genesis.members)


def decode_genesis(encoded: bytes) -> Genesis:
    """Read a genesis or raise RejectionError."""
    return decode(encoded, Genesis, bytes_max=GENESIS_BYTES_MAX)
