"""Transactions of about 256 bytes from 64 clients: committed a second, and the latency of one at a time.

Measured twice: each client on a connection of its own, and all 64 on one connection to each node, where those of one
moment share a request, as behind a gateway. Each client waits for its block before it sends the next. A transaction
deletes three entries that are not there: signed, agreed on, applied and recorded by all nine, with no shard moved.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import httpx
import trio

from consensus.genesis import genesis_hash
from consensus.identifiers import Height
from consensus.signing import SigningKey
from node.client import read_client_home
from node.client.commits import EXPIRY_HEIGHTS, TransactionSigner, submit_and_wait
from node.client.http_chain import HttpChain
from node.client.submitting import SharedSubmitting
from node.errors import NodeError
from node.keys import read_key
from storage.identifiers import BucketTag, NameTag, VersionId
from storage.outcomes import FailureReason
from storage.transactions import DeleteEntries, EntryName, GrantClient
from testnet.bench.figures import Better, Figure, measured, percentile, rate_of_items

if TYPE_CHECKING:
    from collections.abc import Sequence

    from node.client import ClientHome
    from node.client.chain import Commit
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


class Carry(Protocol):
    """Brings a transaction into a block."""

    async def __call__(self, transaction: bytes) -> Commit:
        """Return what became of it."""
        ...


class Sender:
    """One client, with a key that it shares with three others."""

    def __init__(self, home: ClientHome, signer: TransactionSigner, carry: Carry) -> None:
        self._tenant = home.tenant
        self._signer = signer
        self._carry = carry

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
        commit = await self._carry(transaction)
        if commit.refusal is not None:
            raise NodeError(f"the chain refused a transaction: {commit.refusal}")


async def measure(cluster: Cluster) -> tuple[Figure, ...]:
    """Grant the senders, time one at a time, then all at once."""
    home = read_client_home(cluster.home / "client")
    owner = read_key(cluster.home / "tenant" / "signing")
    # The same keys in every run: a tenant has 64 grants at most.
    keys = [SigningKey(hashlib.sha256(owner.seed() + bytes((number,))).digest()) for number in range(GRANTED)]
    signers = [TransactionSigner(signing_key, genesis_hash(home.genesis)) for signing_key in (home.signing_key, *keys)]
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        own = [await _open_chain(stack, home, number) for number in range(CONNECTIONS)]
        shared = [SharedSubmitting(await _open_chain(stack, home, number)) for number in range(len(home.nodes))]
        for door in shared:
            nursery.start_soon(door.run)
        alone = _senders(home, signers, [partial(submit_and_wait, chain, records=()) for chain in own])
        together = _senders(home, signers, [door.submit_and_wait for door in shared])
        await _grant(home, owner, own[0], keys)
        until = Height(await own[0].tip_height() + EXPIRY_HEIGHTS)
        seconds = await _one_at_a_time(alone[0], until)
        figures = (
            await _all_at_once(cluster, alone, until, "64 connections"),
            await _all_at_once(cluster, together, until, "64 clients, 9 connections"),
        )
        nursery.cancel_scope.cancel()
    return (
        *figures,
        _latency("one transaction, idle network, p50", percentile(seconds, 50), P50_REACH),
        _latency("one transaction, idle network, p99", percentile(seconds, 99), P99_REACH),
    )


async def _open_chain(stack: AsyncExitStack, home: ClientHome, number: int) -> HttpChain:
    """Return a way to the nodes that begins with another one for each number."""
    http = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))
    first = number % len(home.nodes)
    return HttpChain(home.nodes[first:] + home.nodes[:first], home.tenant, http)


def _senders(home: ClientHome, signers: Sequence[TransactionSigner], doors: Sequence[Carry]) -> list[Sender]:
    return [Sender(home, signers[number % len(signers)], doors[number % len(doors)]) for number in range(CONNECTIONS)]


async def _all_at_once(cluster: Cluster, senders: Sequence[Sender], until: Height, how: str) -> Figure:
    left = iter(range(TRANSACTIONS))

    async def work(sender: Sender) -> None:
        for _ in left:
            await sender.send(until)

    with measured(cluster) as span:
        async with trio.open_nursery() as nursery:
            for sender in senders:
                nursery.start_soon(work, sender)
    return rate_of_items(f"transactions of 256 bytes, {how}", span, TRANSACTIONS, RATE_REACH, "committed/s")


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
