"""A chain of 100,000 blocks: how soon a node votes again after a restart, and one that has nothing of it.

The chain is made here, with the nine seats' own keys and a block each millisecond, and lies at eight of them when they
start; the ninth has genesis alone. Nothing of another testnet is used.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from consensus.blocks import DecidedBlock, header_hash
from consensus.certificates import commit_certificate
from consensus.chain import chain_rules, make_block
from consensus.identifiers import Height, MemberIndex, Milliseconds, Round
from consensus.votes import Precommit, SignedVote, vote_sign_bytes
from node.keys import load_keys
from storage.stores.blocks import open_chain_in
from storage.stores.leveldb import Durability, LevelDatabase, WriteBatch, WritePurpose
from storage.stores.snapshots import MadeSnapshots
from testnet.bench.figures import Better, Figure
from testnet.cluster import kill_seat, open_cluster, start_seat, stop_all, votes, wait_for_seats
from testnet.genesis import make_testnet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consensus.blocks import Block
    from consensus.genesis import Genesis
    from consensus.signing import SigningKey
    from storage.stores.blocks import ChainStore
    from testnet.cluster import Cluster, SeatView

HEIGHTS: Final = 100_000
SIGNERS: Final = 6
ABSENT: Final = 8
WAIT_S: Final = 120.0
RESTART_REACH: Final = 5.0
JOIN_REACH: Final = 60.0


class UnflushedDatabase(LevelDatabase):
    """A LevelDB whose writes need not survive a power cut: what is made here can be made again."""

    def write(
        self,
        batch: WriteBatch,
        *,
        purpose: WritePurpose = WritePurpose.CONSENSUS,
        durability: Durability = Durability.BUFFERED,
    ) -> None:
        """Write without waiting for the disk."""
        super().write(batch, purpose=purpose, durability=durability)


async def measure(_cluster: Cluster) -> tuple[Figure, ...]:
    """Make the chain, give it to eight seats, restart one, start the ninth."""
    with tempfile.TemporaryDirectory(prefix="grandest-long-") as folder:
        home = Path(folder) / "home"
        genesis = make_testnet(home)
        cluster = open_cluster(home)
        await trio.to_thread.run_sync(_make_chain, cluster, genesis)
        try:
            return await trio.to_thread.run_sync(_measure, cluster)
        finally:
            await trio.to_thread.run_sync(stop_all, cluster)


def _measure(cluster: Cluster) -> tuple[Figure, ...]:
    seats = cluster.all_seats()
    present = [seat for seat in seats if seat != ABSENT]
    for seat in present:
        start_seat(cluster, seat)
    wait_for_seats(cluster, present, votes, seconds_max=WAIT_S)
    kill_seat(cluster, seats[0])
    return (
        _until_voting("restart with 100,000 blocks until it votes", cluster, seats[0], RESTART_REACH),
        _until_voting("100,000 blocks behind until it votes", cluster, seats[ABSENT], JOIN_REACH),
    )


def _until_voting(name: str, cluster: Cluster, seat: int, reach: float) -> Figure:
    began = time.monotonic()
    started = cluster.all_seats()[seat]
    start_seat(cluster, started)
    wait_for_seats(cluster, (started,), _has_caught_up, seconds_max=WAIT_S)
    return Figure(name=name, amount=time.monotonic() - began, unit="s", better=Better.LOWER, reach=reach)


def _has_caught_up(view: SeatView) -> bool:
    return votes(view) and view.status is not None and view.status.height >= HEIGHTS


def _make_chain(cluster: Cluster, genesis: Genesis) -> None:
    """Lay the chain and its newest snapshot into the homes of all seats but one."""
    seats = cluster.all_seats()
    first = cluster.seat_home(seats[0])
    keys = [load_keys(cluster.seat_home(seat) / "keys").signing for seat in seats[:SIGNERS]]
    with open_chain_in(UnflushedDatabase(first / "chain"), genesis) as store:
        _append_blocks(store, genesis, keys)
        tip_ms = store.tip.time_ms
    for seat in seats[1:ABSENT]:
        for name in ("chain", "snapshots"):
            shutil.copytree(first / name, cluster.seat_home(seat) / name)
    time.sleep(max(0.0, tip_ms / 1_000 - time.time()))


def _append_blocks(store: ChainStore, genesis: Genesis, keys: Sequence[SigningKey]) -> None:
    rules = chain_rules(genesis)
    made = MadeSnapshots(store.directory.parent / "snapshots" / "made")
    interval = store.context.parameters.snapshot_heights
    for height in range(1, HEIGHTS + 1):
        proposer = store.tip.turns.proposer(Height(height), Round(0))
        now_ms = Milliseconds(genesis.time_ms + height)
        block = make_block(store.tip, rules, proposer, transactions=(), evidence=(), now_ms=now_ms)
        decided = _decide(block, keys, store)
        store.append(decided, store.execute(block))
        if height == HEIGHTS // interval * interval:
            with store.view() as view:
                made.make(Height(height), view)


def _decide(block: Block, keys: Sequence[SigningKey], store: ChainStore) -> DecidedBlock:
    """Return the block with the precommits of a quorum."""
    signed: list[SignedVote] = []
    named = header_hash(block.header)
    for index, signing_key in enumerate(keys):
        vote = Precommit(height=block.header.height, round=Round(0), block_hash=named, member=MemberIndex(index))
        message = vote_sign_bytes(vote, store.context.members.genesis_hash)
        signed.append(SignedVote(vote=vote, signature=signing_key.sign(message)))
    return DecidedBlock(block=block, commit=commit_certificate(signed), polkas=())
