"""Transactions of about 256 bytes over 64 connections: committed a second, and the latency of one at a time.

Each deletes three entries that are not there: signed, agreed on, applied and recorded by all nine, with no shard moved.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

import httpx
import trio

from consensus.genesis import genesis_hash
from consensus.identifiers import Height
from consensus.signing import SigningKey
from node.client import read_client_home
from node.client.commits import EXPIRY_HEIGHTS, TransactionSigner, submit_and_wait
from node.client.http_chain import HttpChain
from node.errors import NodeError
from node.keys import read_key
from storage.identifiers import BucketTag, NameTag, VersionId
from storage.outcomes import FailureReason
from storage.transactions import DeleteEntries, EntryName, GrantClient
from testnet.bench.figures import Better, Figure, measured, percentile, rate_of_items

if TYPE_CHECKING:
    from collections.abc import Sequence

    from node.client import ClientHome
    from testnet.cluster import Cluster

GRANTED: Final = 15
"""With the client of the genesis 16 keys, four connections each: the grants of nine gateways leave room for no 64."""
CONNECTIONS: Final = 64
TRANSACTIONS: Final = 3_000
ONE_AT_A_TIME: Final = 60
PAUSE_SECONDS: Final = 0.2
ENTRIES: Final = 3
CERTIFICATE: Final = b"none: these senders move no shards"
RATE_REACH: Final = 1_500.0
P50_REACH: Final = 40.0
P99_REACH: Final = 120.0


class Sender:
    """One client: its own connection to one of the nodes, a key that it shares with three others."""

    def __init__(self, home: ClientHome, signer: TransactionSigner, chain: HttpChain) -> None:
        self._tenant = home.tenant
        self._signer = signer
        self.chain = chain

    async def send(self, height: Height) -> None:
        """Submit one transaction and wait for its block."""
        names = tuple(
            EntryName(
                bucket_tag=BucketTag(secrets.token_bytes(16)),
                name_tag=NameTag(secrets.token_bytes(16)),
                version_id=VersionId(secrets.token_bytes(16)),
            )
            for _ in range(ENTRIES)
        )
        transaction = self._signer.sign(DeleteEntries(tenant=self._tenant, entries=names), height)
        commit = await submit_and_wait(self.chain, transaction, ())
        if commit.refusal is not None:
            raise NodeError(f"the chain refused a transaction: {commit.refusal}")


async def measure(cluster: Cluster) -> tuple[Figure, ...]:
    """Grant the senders, time one at a time, then all at once."""
    home = read_client_home(cluster.home / "client")
    owner = read_key(cluster.home / "tenant" / "signing")
    # The same keys in every run: a tenant has 64 grants at most.
    keys = [SigningKey(hashlib.sha256(owner.seed() + bytes((number,))).digest()) for number in range(GRANTED)]
    async with AsyncExitStack() as stack:
        senders: list[Sender] = []
        signers = [
            TransactionSigner(signing_key, genesis_hash(home.genesis)) for signing_key in (home.signing_key, *keys)
        ]
        for number in range(CONNECTIONS):
            http = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))
            nodes = home.nodes[number % len(home.nodes) :] + home.nodes[: number % len(home.nodes)]
            signer = signers[number % len(signers)]
            senders.append(Sender(home, signer, HttpChain(nodes, home.tenant, http)))
        await _grant(home, owner, senders[0].chain, keys)
        until = Height(await senders[0].chain.tip_height() + EXPIRY_HEIGHTS)
        seconds = await _one_at_a_time(senders[0], until)
        left = iter(range(TRANSACTIONS))

        async def work(sender: Sender) -> None:
            for _ in left:
                await sender.send(until)

        with measured(cluster) as span:
            async with trio.open_nursery() as nursery:
                for sender in senders:
                    nursery.start_soon(work, sender)
    return (
        rate_of_items("transactions of 256 bytes, 64 clients", span, TRANSACTIONS, RATE_REACH, "committed/s"),
        _latency("one transaction, idle network, p50", percentile(seconds, 50), P50_REACH),
        _latency("one transaction, idle network, p99", percentile(seconds, 99), P99_REACH),
    )


async def _grant(home: ClientHome, owner: SigningKey, chain: HttpChain, keys: Sequence[SigningKey]) -> None:
    """Let every key act for the tenant; those granted by an earlier run are refused, and that is as good."""
    signer = TransactionSigner(owner, genesis_hash(home.genesis))
    until = Height(await chain.tip_height() + EXPIRY_HEIGHTS)
    async with trio.open_nursery() as nursery:
        for signing_key in keys:
            grant = GrantClient(tenant=home.tenant, public_key=signing_key.public, certificate=CERTIFICATE)
            nursery.start_soon(submit_and_wait, chain, signer.sign(grant, until), ())
    last = GrantClient(tenant=home.tenant, public_key=keys[-1].public, certificate=CERTIFICATE)
    commit = await submit_and_wait(chain, signer.sign(last, until), ())
    if commit.refusal != FailureReason.GRANT_EXISTS:
        raise NodeError(f"the senders could not be granted: {commit.refusal}")


async def _one_at_a_time(sender: Sender, until: Height) -> list[float]:
    seconds: list[float] = []
    for _ in range(ONE_AT_A_TIME):
        began = time.perf_counter()
        await sender.send(until)
        seconds.append(time.perf_counter() - began)
        await trio.sleep(PAUSE_SECONDS)
    return seconds


def _latency(name: str, seconds: float, reach: float) -> Figure:
    return Figure(name=name, amount=1000 * seconds, unit="ms", better=Better.LOWER, reach=reach)
