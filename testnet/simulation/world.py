"""One world: n nodes, one seed, a storm and what comes after it. Every step is watched (checkers.py).

run_world(settings, seed)
storm       everything that the plan holds happens to nodes, links, disks and clocks
healing     links, disks and clocks are well again, every process is started; liars go on lying
decision    a transaction waits: a new block within five rounds, their timeouts and one rebroadcast interval
growth      to the wanted height, at every correct node
idleness    if wanted: calm minutes with nothing to do, one block each heartbeat, at every correct node
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from random import Random
from typing import TYPE_CHECKING, Final, assert_never

from consensus.genesis import genesis_hash
from consensus.identifiers import Height, MemberIndex, Round
from consensus.quorum import fault_budget
from consensus.timeouts import rebroadcast_ms
from node.consensus_task import LISTEN_S
from node.ledger_chain import next_rules
from testnet.simulation.checkers import Invariant, InvariantError, Watch
from testnet.simulation.disks import Trap
from testnet.simulation.faults import ALL_KINDS, STORM_MS, Fault, FaultKind, Lie, Plan, draw_plan
from testnet.simulation.governance import STEP_MS, Governance
from testnet.simulation.network import Network, Trace
from testnet.simulation.node import SimulatedNode
from testnet.simulation.running import Surroundings
from testnet.simulation.signatures import KeyRing, SignatureKind
from testnet.simulation.timeline import MILLISECOND_US, SECOND_US, Timeline
from testnet.simulation.workload import Workload, make_genesis

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.chain import ChainRules
    from consensus.genesis import ConsensusParameters
    from consensus.signing import SignatureMaker
    from storage.identifiers import SeatIndex
    from storage.stores.blocks import ChainStore

ROUNDS_AFTER_HEALING: Final = 5
START_US: Final = int((LISTEN_S + 0.5) * SECOND_US)
"""A started process listens first; then its status and its wishes pass a link."""
CATCH_UP_US: Final = 30 * SECOND_US
"""How long after the decision the last correct node may take to have it: a silent liar is asked for ten seconds."""
HEIGHT_US: Final = 30 * SECOND_US
"""In calm weather a height takes less, whoever proposes."""
STEPS_MAX: Final = 3_000_000
SUBMIT_MS: Final = (20, 400)
SPLIT_MS: Final = (200, 1_200)
"""A round that is decided takes less, one that times out about so long."""
AMNESIA_MS: Final = (500, 4_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What worlds of a run have in common."""

    seats: int = 9
    heights: int = 20
    liars_max: int | None = None
    """None: as many as the budget bears."""
    kinds: frozenset[FaultKind] = ALL_KINDS
    signatures: SignatureKind = SignatureKind.STUB
    storm_ms_max: int = STORM_MS[1]
    """The longest storm; more than 2,000."""
    idle_minutes: int = 0
    """Of virtual time, after everything else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldReport:
    """What became of a world in which every invariant held."""

    seed: int
    steps: int
    heights: int
    virtual_s: float
    restarts: int
    rounds_above_zero: int
    changes: int
    trace: str


class Phase(Enum):
    """How far a world has come."""

    STORM = auto()
    HEALING = auto()
    GROWTH = auto()
    IDLENESS = auto()


@dataclass(slots=True)
class World:
    """Build it, run() it once."""

    settings: Settings
    seed: int
    plan: Plan
    judge: Callable[[ChainStore], ChainRules] = next_rules
    """By which rules the nodes judge, for tests of the watch."""
    crashing: MemberIndex | None = None
    """A seat whose disk keeps its trap when everything else heals (crash_points.py)."""
    timeline: Timeline = field(init=False)
    network: Network = field(init=False)
    watch: Watch = field(init=False)
    nodes: list[SimulatedNode] = field(init=False)
    _trace: Trace = field(init=False)
    _workload: Workload = field(init=False)
    _governance: Governance = field(init=False)
    _rng: Random = field(init=False)
    _parameters: ConsensusParameters = field(init=False)
    _phase: Phase = Phase.STORM

    def __post_init__(self) -> None:
        """Install everything; nothing has happened yet."""
        self._rng = Random(f"world {self.seed}")
        self.timeline = Timeline()
        self._trace = Trace(self.timeline)
        self.network = Network(self.timeline, Random(f"network {self.seed}"), self._trace)
        ring = KeyRing(self.settings.signatures)
        keys = tuple(ring.new_key(bytes([seat]) * 32) for seat in range(self.settings.seats))
        owner, client = ring.new_key(b"o" * 32), ring.new_key(b"c" * 32)
        genesis = make_genesis(keys, owner, client)
        self._parameters = genesis.parameters
        lies = {MemberIndex(seat): said for seat, said in self.plan.liars}
        liars = frozenset(keys[member].public for member in lies)
        self.watch = Watch(genesis, liars, ring.check)
        self.nodes = []
        around = Surroundings(
            timeline=self.timeline,
            network=self.network,
            watch=self.watch,
            genesis=genesis,
            genesis_hash=genesis_hash(genesis),
            judge=self.judge,
            check=ring.check,
            peers=self.nodes,
        )
        for seat, signing_key in enumerate(keys):
            member = MemberIndex(seat)
            rng = Random(f"node {self.seed} {seat}")
            self.nodes.append(SimulatedNode(around, member, signing_key, rng, lies.get(member, frozenset())))
        self._governance = Governance(
            rng=Random(f"governance {self.seed}"),
            ring=ring,
            watch=self.watch,
            genesis_hash=around.genesis_hash,
            nodes=self.nodes,
            keys={signing_key.public: signing_key for signing_key in keys},
            moves=list(self.plan.moves),
            install=lambda seat, signing_key: self._install(around, seat, signing_key),
        )
        self._workload = Workload(rng=Random(f"workload {self.seed}"), genesis=genesis, owner=owner, client=client)

    def _install(self, around: Surroundings, seat: SeatIndex, signing_key: SignatureMaker) -> None:
        """Put a newcomer's machine where a seat is; it starts with nothing but genesis and keys."""
        rng = Random(f"node {self.seed} {signing_key.public.hex()}")
        node = SimulatedNode(around, MemberIndex(seat), signing_key, rng, frozenset())
        if seat < len(self.nodes):
            self.nodes[seat].retire()
            self.nodes[seat] = node
        else:
            self.nodes.append(node)
        node.start()

    def run(self) -> WorldReport:
        """Let it happen.

        Raises:
            InvariantError: What does not hold.
        """
        for node in self.nodes:
            node.start()
        for fault in self.plan.faults:
            self.timeline.after(fault.at_ms * MILLISECOND_US, lambda fault=fault: self._begin(fault))  # type: ignore[misc]
        self._submit_often()
        self._govern_often()
        for node in self.nodes:
            if node.liar is not None and Lie.AMNESIA in node.liar.lies:
                self._forget_often(node)
        self._run_until(self.plan.storm_ms * MILLISECOND_US)
        self._heal()
        self._await_decision()
        self._await_growth()
        if self.settings.idle_minutes:
            self._idle()
        return WorldReport(
            seed=self.seed,
            steps=self.timeline.steps,
            heights=self.watch.height,
            virtual_s=self.timeline.now_us / SECOND_US,
            restarts=sum(node.restarts - 1 for node in self.nodes),
            rounds_above_zero=sum(round_ > 0 for round_ in self.watch.rounds_decided),
            changes=self._governance.enacted,
            trace=self._trace.hexdigest(),
        )

    def run_on(self, seconds: int) -> None:
        """Let a world that has run go on in calm weather; nothing is posted any more."""
        self._run_until(self.timeline.now_us + seconds * SECOND_US)

    @property
    def correct(self) -> list[SimulatedNode]:
        """The nodes that do not lie, of those that have a seat."""
        return [node for node in self.nodes if node.liar is None and not node.is_retired]

    def _run_until(self, end_us: int) -> None:
        is_over: list[None] = []
        self.timeline.after(end_us - self.timeline.now_us, lambda: is_over.append(None))
        while not is_over:
            self._step()

    def _step(self) -> None:
        assert self.timeline.steps < STEPS_MAX, f"seed {self.seed}: the world does not end"
        self.timeline.step()

    # --- the storm ---------------------------------------------------------------------------------------------------

    def _begin(self, fault: Fault) -> None:
        span_us = fault.span_ms * MILLISECOND_US
        nodes = [self.nodes[seat] for seat in fault.seats]
        match fault.kind:
            case FaultKind.LOSS | FaultKind.DUPLICATES | FaultKind.DELAY:
                self._disturb(fault.kind, 0.02 + (fault.number % 1_000) / 2_500)
                self.timeline.after(span_us, lambda: self._disturb(fault.kind, 0.0))
            case FaultKind.HALVES | FaultKind.RING | FaultKind.ONE_WAY:
                self._cut_for(self._cuts_of(fault), span_us)
            case FaultKind.FLAPPING:
                self._flap(fault, span_us)
            case FaultKind.SPLITS:
                self._split(span_us)
            case FaultKind.CRASH | FaultKind.POWER_CUT:
                for node in nodes:
                    node.stop(loses_power=fault.kind is FaultKind.POWER_CUT)
                    self.timeline.after(span_us, node.start)
            case FaultKind.DISK:
                for node in nodes:
                    node.disk.arm(list(Trap)[(fault.number + node.seat) % len(Trap)], 1 + fault.number % 40)
            case FaultKind.CLOCK:
                self._set_clocks(nodes, (fault.number % 120_000) - 60_000)
                self.timeline.after(span_us, lambda: self._set_clocks(nodes, 0))
            case FaultKind.SLOW:
                self._slow(nodes, fault.number % 50_000)
                self.timeline.after(span_us, lambda: self._slow(nodes, 0))
            case FaultKind.LIARS | FaultKind.SEATS:
                raise AssertionError("liars are drawn by seat, changes of the seats one by one")
            case _:
                assert_never(fault.kind)

    def _disturb(self, kind: FaultKind, share: float) -> None:
        if self._phase is not Phase.STORM:
            return
        if kind is FaultKind.LOSS:
            self.network.loss = share
        elif kind is FaultKind.DUPLICATES:
            self.network.duplicates = share
        else:
            self.network.late = share

    def _cuts_of(self, fault: Fault) -> list[tuple[int, int]]:
        seats, some = range(self.settings.seats), set(fault.seats)
        pairs = [(a, b) for a in seats for b in seats if a != b]
        match fault.kind:
            case FaultKind.HALVES:
                return [(a, b) for a, b in pairs if (a in some) != (b in some)]
            case FaultKind.RING:
                place = {seat: position for position, seat in enumerate(fault.seats)}
                return [(a, b) for a, b in pairs if (place[a] - place[b]) % len(place) not in {1, len(place) - 1}]
            case _:
                return [(a, b) for a, b in pairs if a in some and (fault.number >> (b % 32)) & 1]

    def _cut_for(self, pairs: list[tuple[int, int]], span_us: int) -> None:
        for sender, receiver in pairs:
            self.network.cut(sender, receiver)
        self.timeline.after(span_us, lambda: self._mend(pairs))

    def _mend(self, pairs: list[tuple[int, int]]) -> None:
        if self._phase is not Phase.STORM:
            return
        for sender, receiver in pairs:
            self.network.mend(sender, receiver)
        for node in self.nodes:
            node.say_status_to_all()

    def _flap(self, fault: Fault, left_us: int) -> None:
        """Cut the seats off for a moment, again and again."""
        if left_us <= 0 or self._phase is not Phase.STORM:
            return
        up_us, down_us = (self._rng.randrange(30_000, 400_000) for _ in range(2))
        some = set(fault.seats)
        pairs = [(a, b) for a in range(self.settings.seats) for b in some if a != b]
        self._cut_for(pairs + [(b, a) for a, b in pairs if a not in some], down_us)
        self.timeline.after(up_us + down_us, lambda: self._flap(fault, left_us - up_us - down_us))

    def _split(self, left_us: int) -> None:
        """Cut all nodes into two sides for about a round, then into two others (ByzzFuzz: partitions by round)."""
        if left_us <= 0 or self._phase is not Phase.STORM:
            return
        span_us = min(left_us, self._rng.randrange(*SPLIT_MS) * MILLISECOND_US)
        sides = [self._rng.randrange(2) for _ in self.nodes]
        seats = range(len(sides))
        self._cut_for([(a, b) for a in seats for b in seats if sides[a] != sides[b]], span_us)
        self.timeline.after(span_us, lambda: self._split(left_us - span_us))

    def _set_clocks(self, nodes: list[SimulatedNode], offset_ms: int) -> None:
        for node in nodes:
            node.clock_offset_ms = offset_ms if self._phase is Phase.STORM else 0

    def _slow(self, nodes: list[SimulatedNode], slow_us: int) -> None:
        for node in nodes:
            node.slow_us = slow_us if self._phase is Phase.STORM else 0

    def _govern_often(self) -> None:
        """Let members change the seats, as long as there is something to change; then only what is under way."""
        self._governance.step()
        if self.watch.height >= self.settings.heights:
            self._governance.moves = []
            if self._governance.is_over:
                return
        self.timeline.after(self._governance.rng.randrange(*STEP_MS) * MILLISECOND_US, self._govern_often)

    def _submit_often(self) -> None:
        """Post at a random node, as long as blocks are wanted."""
        if self.watch.height >= self.settings.heights:
            return
        self._submit()
        self.timeline.after(self._rng.randrange(*SUBMIT_MS) * MILLISECOND_US, self._submit_often)

    def _submit(self) -> None:
        self._rng.choice(self.nodes).submit(self._workload.next_submission())

    def _forget_often(self, node: SimulatedNode) -> None:
        def forget() -> None:
            if self._phase is not Phase.IDLENESS:
                node.forget()
                self._forget_often(node)

        self.timeline.after(self._rng.randrange(*AMNESIA_MS) * MILLISECOND_US, forget)

    # --- and after ---------------------------------------------------------------------------------------------------

    def _heal(self) -> None:
        self._phase = Phase.HEALING
        self.network.heal()
        for node in self.nodes:
            if node.seat != self.crashing:
                node.disk.disarm()
            node.clock_offset_ms = node.slow_us = 0
            node.start()
        self._run_until(self.timeline.now_us + START_US)
        for node in self.nodes:
            node.break_requests()
            node.say_status_to_all()

    def _await_decision(self) -> None:
        """A transaction waits at every correct node: a block must come in time."""
        before, begun_us = self.watch.height, self.timeline.now_us
        for node in self.correct:
            node.submit(self._workload.next_submission())
        bound_us = self._bound_us()
        while self.watch.height == before:
            if self.timeline.now_us - begun_us > bound_us:
                detail = (
                    f"height {before + 1} is not decided {bound_us / SECOND_US:.1f} s after healing: {self._rounds()}"
                )
                raise InvariantError(Invariant.DECIDES_AFTER_HEALING, detail)
            self._step()
        self._phase = Phase.GROWTH

    def _bound_us(self) -> int:
        """Five rounds from the latest one that a correct member is in, and one rebroadcast interval."""
        parameters = self._parameters
        latest = max(0, *self._rounds().values())
        spans_ms = [rebroadcast_ms(Round(latest + i), parameters) for i in range(ROUNDS_AFTER_HEALING)]
        return (sum(spans_ms) + rebroadcast_ms(Round(latest), parameters)) * MILLISECOND_US

    def _rounds(self) -> dict[int, int]:
        """Where the correct members of the highest height are."""
        members = [node.member for node in self.correct]
        return {
            int(node.seat): int(member.state.machine.round)
            for node, member in zip(self.correct, members, strict=True)
            if member is not None and member.height == self.watch.height + 1
        }

    def _await_growth(self) -> None:
        wanted = Height(max(self.watch.height, self.settings.heights))
        missing = wanted - self.watch.height
        end_us = self.timeline.now_us + CATCH_UP_US + missing * HEIGHT_US
        late = self._late(wanted)
        while late is not None:
            if self.timeline.now_us > end_us:
                heights = {int(node.seat): node.height - 1 for node in self.correct if node.is_up}
                detail = f"correct nodes are not all at {wanted} long after healing: {heights}"
                raise InvariantError(Invariant.DECIDES_AFTER_HEALING, detail)
            self._step()
            if late.is_retired or late.has_height(wanted):
                late = self._late(wanted)

    def _idle(self) -> None:
        """Nothing is posted and nobody forgets: nearly every heartbeat makes a block, and all have it."""
        self._phase = Phase.IDLENESS
        before, minutes = self.watch.height, self.settings.idle_minutes
        self.run_on(60 * minutes)
        made, wanted = (
            self.watch.height - before,
            60_000 * minutes // (self._parameters.heartbeat_ms + HEIGHT_US // 1_000),
        )
        if made < wanted:
            detail = f"{made} blocks in {minutes} idle minutes, at least {wanted}"
            raise InvariantError(Invariant.DECIDES_AFTER_HEALING, detail)
        self._await_growth()

    def _late(self, wanted: Height) -> SimulatedNode | None:
        """Return a correct node that is not there yet; while it is not, nobody else need be asked."""
        return next((node for node in self.correct if not node.has_height(wanted)), None)


def plan_of(settings: Settings, seed: int) -> Plan:
    """Return what a seed has in store under these settings."""
    budget = fault_budget(settings.seats)
    liars_max = budget.liars if settings.liars_max is None else settings.liars_max
    return draw_plan(seed, budget, settings.kinds, liars_max, settings.storm_ms_max)


def run_world(settings: Settings, seed: int, plan: Plan | None = None) -> WorldReport:
    """Run one seed; raises InvariantError."""
    return World(settings, seed, plan or plan_of(settings, seed)).run()
