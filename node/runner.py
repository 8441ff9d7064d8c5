"""A node from start to end: read this first. Builds the parts, then runs every task in one nursery.

    run(home)
      load_config, locked_home                    settings and keys; says plainly what forbids starting
      open stores, signer, log                    each on its own directory; inconsistent ones refuse
      check_clock_after                           a clock behind the chain forbids starting
      open_network                                libp2p: members only
      one nursery:
        consensus.run                             listen, recover, agree
        run_catch_up                              blocks decided without us
        snapshots, snapshot_catch_up              states for who is far behind, or for ourselves
        records.run                               off-chain records that we lack
        data_plane.run                            shards: serve, repair, complete, purge
        admission.run                             what is posted here reaches the proposers
        rejoin_if_needed                          keys without a signer record: vote later
        learn_heights                             a home from a backup signs nothing that it has signed since
        check_clock                               a clock far from the other members' ends the node
        serve_api                                 HTTP on a local port
        run_gateway_process                       S3, when HOME/gateway is there: a process of its own
        stop_on_signal                            SIGTERM, SIGINT: cancel everything

SIGKILL is as good an end as any: what must not be lost was flushed before it was promised. A failed flush ends the
process too, and the log restarts it. A disk without any space left ends everything but the process: it waits for
space and begins anew, as after a crash, since databases and logs are sound only when opened again (rules D21, D22).
"""

from __future__ import annotations

import logging
import secrets
import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from consensus.identifiers import Height
from consensus.messages import NONCE_BYTES, CommitMessage, encode_message
from consensus.signing import check_signature
from node.admission import Admission
from node.api.application import ApiParts, build_application
from node.api.bodies import BodyGate
from node.api.heights import HeightGate
from node.api.server import serve_api
from node.catch_up_task import CatchUpServer, run_catch_up
from node.clock import now_ms
from node.clock_check import check_clock_after, check_clock_with
from node.config import NodeConfig, load_config, locked_home
from node.consensus_task import ConsensusParts, ConsensusTask
from node.data_plane import DataPlane, open_shards
from node.descriptors import raise_descriptor_limit
from node.errors import ConfigurationError, DiskFullError, SnapshotReadyError
from node.gateway_process import run_gateway_process
from node.high_water import HeightQuestion, HighWater
from node.keys import take_next_keys
from node.ledger_chain import LedgerChain
from node.lone_copy import ANSWER_S, check_no_copy_runs
from node.member_links import MemberLinks, ShellHandlers
from node.mempool import Mempool
from node.nurseries import first_expected
from node.ports import check_port_is_free
from node.records_task import RecordsTask
from node.rejoin import rejoin
from node.remembered_checks import remembering
from node.seating import ROLL_S, SEATS_CHECK_S, SeatsChangedError, is_reseated, seated_key, seating_of, turn_of
from node.signer import Signer
from node.snapshot_catch_up import SnapshotCatchUp
from node.snapshot_server import SnapshotServer
from node.snapshot_task import SnapshotTask
from node.telemetry import NodeCounters, set_up_log
from node.write_ahead_log import WriteAheadLog
from storage.errors import StoreDamagedError, StoreFullError
from storage.stores.blocks import ChainStore, open_chain
from storage.stores.installing import install_snapshot
from storage.stores.leveldb import LevelDatabase, LevelOptions, free_bytes
from storage.stores.records import RecordStore
from storage.stores.snapshots import IncomingSnapshot, MadeSnapshots

if TYPE_CHECKING:
    from pathlib import Path

    from consensus.identifiers import MemberIndex
    from consensus.signing import SignatureCheck
    from node.network.peers import NetworkSettings
    from node.node_chain import Appended
    from node.seating import Seating
    from storage.stores.protocols import ShardStore

LOGGER = logging.getLogger(__name__)

GOSSIP_S: Final = 5.0
"""Decisions reach members over their streams; gossip is for those whose links are broken, as often as a status tells
of a height. Each one passes through every pair of members: once a second it cost as much as a block."""
SMALL_STORE: Final = LevelOptions(write_buffer_bytes=4 * 1024 * 1024, cache_bytes=8 * 1024 * 1024)
"""Chain and records: rows are small and few beside the units."""
RESUME_BYTES: Final = 32 * 1024 * 1024
"""Free space that a stopped node waits for: opening rewrites up to 12 MiB of buffers, and some blocks must follow."""
FULL_CHECK_S: Final = 1.0
DAMAGE_REMEDY: Final = (
    "move that folder away (chain together with signer and wal/log, units together with index) and start again:"
    " the node fetches it from the others (docs/operating.md, Damaged databases)"
)


def run(home: Path) -> None:
    """Run the node of a home directory until it is told to stop.

    Raises:
        ConfigurationError: What forbids starting, and what to do about it.
        GrandestError: What ended the node.
    """
    if sys.flags.optimize:
        raise ConfigurationError("assertions are part of this program: start Python without -O")
    raise_descriptor_limit()
    config = load_config(home)
    set_up_log(config.log_level, config.log_format)
    with locked_home(home):
        try:
            run_again_and_again(config)
        except StoreDamagedError as error:
            raise StoreDamagedError(f"{error}; {DAMAGE_REMEDY}") from error


def run_again_and_again(config: NodeConfig) -> None:
    """Run until told to stop, beginning anew for a snapshot, for other seats, and when the disk has space again."""
    while (reason := run_once(config)) is not None:
        if isinstance(reason, SnapshotReadyError | SeatsChangedError):
            LOGGER.info("%s: starting again", reason)
            config = load_config(config.home)
            continue
        LOGGER.error("%s; this node stops until %d MiB are free", reason, RESUME_BYTES // 1024 // 1024)
        wait_for_space(config.home)
        LOGGER.info("there is space again: starting")


def run_once(config: NodeConfig) -> StoreFullError | DiskFullError | SnapshotReadyError | SeatsChangedError | None:
    """Run until the node must begin anew, and return why; None when it was told to stop."""
    try:
        trio.run(run_node, config)
    except (StoreFullError, DiskFullError, SnapshotReadyError, SeatsChangedError) as error:
        return error
    except BaseExceptionGroup as group:
        reason = first_expected(group)
        if isinstance(reason, StoreFullError | DiskFullError | SnapshotReadyError | SeatsChangedError):
            return reason
        raise reason from group
    return None


def wait_for_space(home: Path) -> None:
    """Return once RESUME_BYTES are free; nothing is open meanwhile, and signals end the process."""
    time.sleep(FULL_CHECK_S)
    while free_bytes(home) < RESUME_BYTES:
        time.sleep(FULL_CHECK_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """What lies on this node's disk."""

    chain: ChainStore
    records: RecordStore
    shards: ShardStore
    signer: Signer
    log: WriteAheadLog
    made: MadeSnapshots
    incoming: IncomingSnapshot


def open_stores(config: NodeConfig, stack: ExitStack) -> Stores:
    """Open everything below the home; blocks.

    Raises:
        StorageError, WriteAheadLogError: Damaged, inconsistent, of another chain, or the disk refuses.
    """
    home = config.home
    incoming = IncomingSnapshot(home / "snapshots" / "incoming")
    install_if_complete(config, incoming)
    chain = stack.enter_context(open_chain(home / "chain", config.genesis, SMALL_STORE))
    records = RecordStore(home / "records", SMALL_STORE)
    stack.callback(records.close)
    shards = open_shards(config)
    stack.callback(shards.close)
    signer = Signer(home, config.keys.signing, config.genesis_hash)
    stack.callback(signer.close)
    log = WriteAheadLog(home / "wal", config.genesis_hash)
    stack.callback(log.close)
    made = MadeSnapshots(home / "snapshots" / "made")
    return Stores(chain=chain, records=records, shards=shards, signer=signer, log=log, made=made, incoming=incoming)


def install_if_complete(config: NodeConfig, incoming: IncomingSnapshot) -> None:
    """Install a snapshot that was fetched whole; blocks, and raises as install_snapshot() does."""
    if incoming.is_complete():
        LOGGER.info("installing a snapshot")
        with LevelDatabase(config.home / "chain", SMALL_STORE) as database:
            install_snapshot(database, config.genesis, incoming)


class Node:
    """The parts of one node, built and wired; run() starts them."""

    def __init__(self, config: NodeConfig, stores: Stores) -> None:
        self.config = config
        self.stores = stores
        self.counters = NodeCounters()
        self.mempool = Mempool()
        self.appended = trio.Event()
        check = remembering(check_signature)
        self.seating = seating_of(config, stores.chain.context)
        self.links = MemberLinks({member: seat.network_key for member, seat in self.seating.others.items()})
        self.snapshots = SnapshotTask(store=stores.chain, made=stores.made, history_heights=config.history_heights)
        self.chain = LedgerChain(
            store=stores.chain,
            records=stores.records,
            seat=config.seat,
            check=check,
            hold_state=self.snapshots.hold_state,
        )
        self.admission = Admission(chain=self.chain, mempool=self.mempool, outbox=self.links, counters=self.counters)
        self.records = RecordsTask(
            chain=self.chain, store=stores.chain, asker=self.links, connected=self.links.connected
        )
        self.data_plane = DataPlane(
            config=config,
            seating=self.seating,
            chain=stores.chain,
            records=stores.records,
            shards=stores.shards,
            submit=self.admission.submit,
            erased_height=lambda: self.chain.erased_height() if self.records.has_scanned else None,
            precommitted=stores.signer.precommitted_height,
        )
        self.high_water = HighWater(needed=self.chain.rules.members.budget.quorum - 1)
        self.consensus = ConsensusTask(self._consensus_parts(check))
        self.admission.on_waiting = self.consensus.wake
        self.server = CatchUpServer(
            seat=config.seat,
            signing_key=config.keys.signing,
            genesis_hash=config.genesis_hash,
            chain=self.chain,
            store=stores.chain,
            signer=stores.signer,
            snapshots=SnapshotServer(stores.chain, stores.made),
        )
        self.snapshot_catch_up = SnapshotCatchUp(
            consensus=self.consensus,
            asker=self.links,
            incoming=stores.incoming,
            genesis=config.genesis,
            interval=self.seating.parameters.snapshot_heights,
        )

    def _consensus_parts(self, check: SignatureCheck) -> ConsensusParts:
        config, stores = self.config, self.stores
        return ConsensusParts(
            seat=config.seat,
            chain=self.chain,
            signer=stores.signer,
            log=stores.log,
            mempool=self.mempool,
            outbox=self.links,
            counters=self.counters,
            take_transactions=self.admission.take,
            on_appended=self.on_appended,
            high_water=self.high_water,
            check=check,
        )

    async def run(self) -> None:
        """Run every task until cancelled or until one fails."""
        from node.network.host import open_network  # noqa: PLC0415 (half a second, needed only by a running node)

        own = self.seating.seats.get(self.config.seat)
        if own is not None:
            await check_no_copy_runs(self.config.seat, own, self.config.keys.network, ANSWER_S)
        check_port_is_free("API", self.config.api_host, self.config.api_port)
        await self.data_plane.listen()
        handlers = ShellHandlers(
            links=self.links,
            consensus=self.consensus,
            admission=self.admission,
            server=self.server,
            on_link=self.consensus.wake,
        )
        async with (
            open_network(network_settings(self.config, self.seating), handlers) as network,
            trio.open_nursery() as nursery,
        ):
            self.links.attach(network)
            nursery.start_soon(self.consensus.run)
            nursery.start_soon(self.data_plane.run)
            nursery.start_soon(run_catch_up, self.consensus, self.links)
            nursery.start_soon(self.snapshots.run)
            nursery.start_soon(self.snapshot_catch_up.run)
            nursery.start_soon(self.records.run)
            nursery.start_soon(self.admission.run, self.links.publish_transactions)
            nursery.start_soon(self.gossip_decisions)
            nursery.start_soon(self.rejoin_if_needed)
            nursery.start_soon(self.learn_heights)
            nursery.start_soon(self.check_clock)
            nursery.start_soon(self.follow_seats)
            nursery.start_soon(self.serve_api)
            nursery.start_soon(run_gateway_process, self.config.home, self.config.own_api)
            LOGGER.info(
                "seat %d (%s) runs: libp2p %d, shards %d, API %s:%d",
                self.config.seat,
                self.seating.operator,
                self.config.libp2p_port,
                self.config.shard_port,
                self.config.api_host,
                self.config.api_port,
            )

    def on_appended(self, appended: Appended) -> None:
        """Tell the other tasks of a block."""
        self.admission.on_appended()
        self.snapshots.wake()
        self.records.on_appended(appended)
        self.data_plane.on_appended(appended)
        self.appended.set()

    async def gossip_decisions(self) -> None:
        """Gossip the last decision once it was ours to propose: a hint, so never more often than GOSSIP_S."""
        while True:
            await self.appended.wait()
            await trio.sleep(GOSSIP_S)
            self.appended = trio.Event()
            last = self.stores.chain.tip.last
            if last is not None and last.block.header.proposer == self.config.seat:
                self.links.publish_block(encode_message(CommitMessage(certificate=last.commit)))

    async def learn_heights(self) -> None:
        """Ask the others how far they are: this seat signs only once its chain is there."""
        question = HeightQuestion(mark=self.high_water, nonce=secrets.token_bytes(NONCE_BYTES), chain=self.consensus)

        async def ask_one(member: MemberIndex) -> None:
            await question.ask(self.links, member, trio.sleep)
            self.consensus.wake()

        async with trio.open_nursery() as nursery:
            for member in self.chain.rules.members.indices:
                if member != self.config.seat:
                    nursery.start_soon(ask_one, member)

    async def rejoin_if_needed(self) -> None:
        """Find the height above which this seat may sign, if its record is gone."""
        if self.stores.signer.floor is None:
            await rejoin(self.stores.signer, self.consensus, self.config.seat, self.links)
            self.consensus.wake()

    async def follow_seats(self) -> None:
        """End, to begin anew, when seats or parameters have changed; raises SeatsChangedError."""
        known = self.stores.chain.context.membership
        while not is_reseated(known, self.stores.chain.context.membership) or self.is_behind():
            with trio.move_on_after(SEATS_CHECK_S):
                await self.consensus.appended.wait()
        await trio.sleep(turn_of(self.config.seat, self.stores.chain.context.membership) * ROLL_S)
        raise SeatsChangedError("the chain has other seats or parameters")

    def is_behind(self) -> bool:
        """Say whether an honest member must be ahead of this node."""
        ahead = self.consensus.peers.ahead_of(self.consensus.height, self.consensus.now())
        return len(ahead) >= self.chain.rules.members.budget.weak_quorum

    async def check_clock(self) -> None:
        """Compare the clock with the other members'."""
        rules = self.chain.rules
        await check_clock_with(self.links, rules.members, self.config.seat, now_ms, rules.parameters.clock_drift_ms)

    async def serve_api(self) -> None:
        """Serve the API until cancelled."""
        parts = ApiParts(
            config=self.config,
            store=self.stores.chain,
            consensus=self.consensus,
            admission=self.admission,
            mempool=self.mempool,
            signer=self.stores.signer,
            connected_seats=lambda: [int(member) for member in self.links.connected()],
            holder_bytes=self.data_plane.bytes_held,
            reads=self.data_plane.reads,
            operator=self.seating.operator,
        )
        application = HeightGate(
            build_application(parts), lambda: self.stores.chain.tip.height, lambda: self.consensus.appended
        )
        await serve_api(BodyGate(application), self.config.api_host, self.config.api_port)


async def run_node(config: NodeConfig) -> None:
    """Open, build, run, close."""
    with ExitStack() as stack:
        stores = await trio.to_thread.run_sync(open_stores, config, stack)
        tip = stores.chain.tip
        parameters = stores.chain.schedule.parameters_at(Height(tip.height + 1))
        check_clock_after(tip.time_ms, now_ms(), parameters.clock_drift_ms)
        if take_next_keys(config.home, config.keys, seated_key(stores.chain.context.membership, config.seat)):
            raise SeatsChangedError(f"the new keys of seat {config.seat} hold from now on")
        node = Node(config, stores)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop_on_signal, nursery.cancel_scope)
            nursery.start_soon(node.run)


def network_settings(config: NodeConfig, seating: Seating) -> NetworkSettings:
    """Return how the network room meets the other members."""
    from node.network.peers import NetworkSeed, NetworkSettings, PeerAddress  # noqa: PLC0415 (imports libp2p)

    return NetworkSettings(
        own_seed=NetworkSeed(config.keys.network.seed()),
        listen_host=config.listen_host,
        listen_port=config.libp2p_port,
        peers=tuple(
            PeerAddress(network_key=seat.network_key, host=seat.host, port=seat.libp2p_port)
            for seat in seating.others.values()
        ),
    )


async def stop_on_signal(scope: trio.CancelScope) -> None:
    """Cancel everything on SIGTERM or SIGINT."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            LOGGER.info("stopping on %s", signal.Signals(number).name)
            scope.cancel()
            return
