"""One node in a world: the real member, chain, ledger, signer, log, mempool door and catch-up on a simulated disk.

Three things are models: the link (network.py), the process (a Task that a power cut or a refused write ends, and that a
supervisor starts again), and the records task, which is left out: a node that caught up asks for no records.
"""

from __future__ import annotations

import math
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final, TypeVar, TypeVarTuple

from consensus.errors import GrandestError, RejectionError
from consensus.identifiers import MemberIndex, Milliseconds
from consensus.messages import NONCE_BYTES
from node.admission import STALLED_S, Admission
from node.catch_up_task import CatchUpServer, run_catch_up
from node.consensus_task import LISTEN_S
from node.errors import NodeError
from node.high_water import HeightQuestion, HighWater
from node.inbox import OfferedBlock
from node.ledger_chain import LedgerChain
from node.member import Member
from node.member_parts import MemberParts
from node.mempool import Mempool
from node.message_gate import SecondCopyError
from node.record_check import check_record
from node.signer import RECORD_NAME, Signer, create_signer_record
from node.snapshot_server import SnapshotServer
from node.telemetry import NodeCounters
from node.write_ahead_log import WriteAheadLog
from storage.errors import StorageError
from storage.stores.blocks import open_chain_in
from storage.stores.records import RecordStore
from testnet.simulation.asking import Questions
from testnet.simulation.checkers import Invariant, InvariantError, check_memory, check_replay
from testnet.simulation.disks import PowerCutError, ProcessEndError, SimulatedDisk
from testnet.simulation.faults import Lie
from testnet.simulation.liars import Liar
from testnet.simulation.restart_check import RestartCheck
from testnet.simulation.running import NoSnapshots, Running, Surroundings, ask_in_turn, forgive, run_at_once, run_to_end
from testnet.simulation.timeline import FOREVER, SECOND_US, Task, sleep
from testnet.simulation.workload import GENESIS_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from consensus.blocks import DecidedBlock
    from consensus.identifiers import Height
    from consensus.messages import TransactionsMessage
    from consensus.schedule import MemberSchedule
    from consensus.signing import SignatureMaker
    from consensus.votes import Vote
    from node.catch_up_task import Answer
    from node.node_chain import Appended
    from node.outbox import Outbox
    from node.peer_help import PeerHeights
    from node.submission import Submission
    from node.write_ahead_log import LogContents

ReturnT = TypeVar("ReturnT")
ArgumentsT = TypeVarTuple("ArgumentsT")

HOME: Final = Path("home")
WAL: Final = HOME / "wal"
DISK_US: Final = (50, 600)
"""What a call that may block takes: a flush on a good disk."""
RESTART_US: Final = (50_000, 2 * SECOND_US)
"""How soon a supervisor starts a process that has ended."""
REPLAYS_CHECKED: Final = 1 / 16


class SimulatedNode:
    """One seat: its disk, and its process while it runs. Implements Outbox, Asker, MemberEvents and CatchingUp."""

    def __init__(
        self, around: Surroundings, seat: MemberIndex, signing_key: SignatureMaker, rng: Random, lies: frozenset[Lie]
    ) -> None:
        """Install a seat that has never signed; start() runs it."""
        self.seat = seat
        self._around = around
        self._signing_key = signing_key
        self._rng = rng
        self.disk = SimulatedDisk(rng)
        create_signer_record(HOME, self.disk)
        self.clock_offset_ms = 0
        self.slow_us = 0
        self.restarts = 0
        self.is_retired = False
        self._running: Running | None = None
        self._tasks: tuple[Task, ...] = ()
        self._questions = Questions(seat, around.timeline, around.network, around.answer_of)
        self._restart = RestartCheck()
        self.liar = self._new_liar(lies) if lies else None

    def _new_liar(self, lies: frozenset[Lie]) -> Liar:
        return Liar(
            seat=self.seat,
            members=len(self._around.peers),
            lies=lies,
            signing_key=self._signing_key,
            genesis_hash=self._around.genesis_hash,
            rng=Random(self._rng.random()),
            send=self._pass,
        )

    # --- the process -------------------------------------------------------------------------------------------------

    @property
    def is_up(self) -> bool:
        """Say whether the process runs."""
        return self._running is not None

    @property
    def is_taking_part(self) -> bool:
        """Say whether the process has recovered."""
        return self._running is not None and not self._running.is_listening

    @property
    def member(self) -> Member | None:
        """The member, while the process runs."""
        return None if self._running is None else self._running.member

    def start(self) -> None:
        """Start the process on what the disk holds."""
        if self._running is not None or self.is_retired:
            return
        self.restarts += 1
        try:
            self._running = self._open()
        except ProcessEndError as end:
            self._end_and_restart(loses_power=isinstance(end, PowerCutError))
            return
        except (GrandestError, OSError) as error:
            self._refuse_start(error)
            return
        timeline = self._around.timeline
        self._tasks = (
            Task(timeline, self._run(self._running), self._on_end),
            Task(timeline, run_catch_up(self, self), self._on_end),
            Task(timeline, self._pass_on(self._running), self._on_end),
            *self._ask_heights(self._running),
        )

    def _ask_heights(self, running: Running) -> list[Task]:
        """Ask how far the others are, as runner.py does."""
        question = HeightQuestion(
            mark=running.high_water, nonce=bytes(NONCE_BYTES), chain=self, check=self._around.check
        )
        others = (member for member in running.chain.rules.members.indices if member != self.seat)
        return [Task(self._around.timeline, question.ask(self, m, self.pause), self._on_end) for m in others]

    def stop(self, *, loses_power: bool) -> None:
        """End the process where it stands; with the power go the writes that were not flushed."""
        for task in self._tasks:
            task.cancel()
        self._tasks = ()
        self._running = None
        self._questions.forget()
        if loses_power:
            self.disk.lose_power()

    def retire(self) -> None:
        """The seat is another's, or no more: this machine is switched off, and its links are cut."""
        self.is_retired = True
        self.stop(loses_power=False)

    def take_key(self, signing_key: SignatureMaker) -> None:
        """Start again with other keys, which have never signed, on the same disk."""
        self._signing_key = signing_key
        if self.liar is not None:
            self.liar = self._new_liar(self.liar.lies)
            self._around.watch.note_liar(signing_key.public)
        self._restart = RestartCheck()
        self._forget()

    def has_height(self, height: Height) -> bool:
        """Say whether the process takes part and its chain has this height."""
        return self.is_taking_part and self.height > height

    def forget(self) -> None:
        """Amnesia: a liar starts again as if its seat had never signed."""
        assert self.liar is not None, "a correct member never forgets"
        self._forget()

    def _forget(self) -> None:
        self.stop(loses_power=False)
        self.disk.wipe(HOME / RECORD_NAME)
        self.disk.wipe(WAL / "log")
        self.disk.disarm()
        create_signer_record(HOME, self.disk)
        self.start()

    def _open(self) -> Running:
        around = self._around
        store = open_chain_in(self.disk.chain, around.genesis, around.check)
        records = RecordStore(self.disk.records)
        chain = LedgerChain(store=store, records=records, seat=self.seat, check=around.check, judge=around.judge)
        signer = Signer(HOME, self._signing_key, around.genesis_hash, self.disk)
        log = WriteAheadLog(WAL, around.genesis_hash, self.disk)
        mempool, counters = Mempool(), NodeCounters()
        high_water = HighWater(needed=chain.rules.members.budget.quorum - 1 if self.liar is None else 0)
        outbox: Outbox = self if self.liar is None else self.liar
        admission = Admission(chain=chain, mempool=mempool, outbox=outbox, counters=counters, now=self.now)
        member = Member(
            MemberParts(
                seat=self.seat,
                chain=chain,
                signer=signer,
                log=log,
                mempool=mempool,
                outbox=outbox,
                counters=counters,
                events=self,
                run_blocking=self._run_blocking,
                run_flush=self._run_blocking,
                monotonic_s=self.now,
                wall_ms=self._wall_ms,
                high_water=high_water,
                check=around.check,
                check_record=check_record if self.liar is None else forgive,
            )
        )
        server = CatchUpServer(
            seat=self.seat,
            signing_key=self._signing_key,
            genesis_hash=around.genesis_hash,
            chain=chain,
            store=store,
            signer=signer,
            snapshots=SnapshotServer(store, NoSnapshots()),
            run_blocking=run_at_once,
        )
        admission.on_waiting = self._wake
        return Running(member, admission, mempool, server, chain, signer, log, high_water)

    async def _run(self, running: Running) -> None:
        """What ConsensusTask.run() does, in virtual time."""
        await sleep(int(LISTEN_S * SECOND_US))
        if self.liar is None:
            self._restart.on_start(running.signer.last, self._read_log(), running.member.height)
        await running.member.recover()
        if self.liar is None:
            self._restart.on_recovered(running.member.state)
        running.is_listening = False
        while True:
            await running.member.advance()
            self._look(running)
            if running.member.has_queued:
                if self.slow_us:
                    await sleep(self.slow_us)
                continue
            span_s = running.member.next_moment() - self.now()
            if span_s > 0:
                running.is_idle = True
                await sleep(FOREVER if span_s == math.inf else math.ceil(span_s * SECOND_US))
                running.is_idle = False

    async def _pass_on(self, running: Running) -> None:
        """What Admission.run() does, in virtual time; published transactions are told to every member."""
        while True:
            await sleep(int(STALLED_S * SECOND_US) if running.admission.has_posted else FOREVER)
            running.admission.pass_on(self.broadcast)

    async def _run_blocking(self, function: Callable[[*ArgumentsT], ReturnT], /, *arguments: *ArgumentsT) -> ReturnT:
        """Take the time of a disk, before or after: a node may stop with the work done and nobody told."""
        span_us = self._rng.randrange(*DISK_US) + self.slow_us
        if self._rng.random() < 1 / 2:
            await sleep(span_us)
            return function(*arguments)
        returned = function(*arguments)
        await sleep(span_us)
        return returned

    def _look(self, running: Running) -> None:
        if self.liar is None:
            check_memory(running.member.state, int(running.member.has_queued), running.mempool.byte_count)

    def _on_end(self, error: BaseException) -> None:
        """Tell what the world did to the process from what it did to itself."""
        match error:
            case ProcessEndError():
                self._end_and_restart(loses_power=isinstance(error, PowerCutError))
            case StopIteration():
                self._wake()  # a height is learned
            case InvariantError():
                raise error
            case _ if self.liar is not None:
                self._end_and_restart(loses_power=False)
            case SecondCopyError():
                raise InvariantError(Invariant.NOBODY_CORRECT_ACCUSED, f"node {self.seat}: {error}") from error
            case NodeError() | StorageError() | OSError():
                running = self._running
                if running is not None and running.is_listening:
                    self._refuse_start(error)
                else:
                    self._end_and_restart(loses_power=False)
            case _:
                raise InvariantError(Invariant.NO_BUG, f"node {self.seat}: {error!r}") from error

    def _refuse_start(self, error: BaseException) -> None:
        """A disk that refuses may refuse a start; one that is well again may not."""
        if self.liar is None and not self.disk.refused_lately():
            raise InvariantError(Invariant.STARTS_AGAIN, f"node {self.seat}: {error}") from error
        self._end_and_restart(loses_power=False)

    def _end_and_restart(self, *, loses_power: bool) -> None:
        self.stop(loses_power=loses_power)
        self._around.timeline.after(self._rng.randrange(*RESTART_US), self.start)

    # --- what comes in -----------------------------------------------------------------------------------------------

    def receive(self, sender: MemberIndex, frame: bytes) -> None:
        """Take a frame from the network."""
        running = self._running
        if running is None:
            return
        if self.liar is not None:
            self.liar.hear(frame)
        try:
            running.member.receive(sender, frame)
        except RejectionError as error:
            if self.liar is None:
                self._around.watch.on_refused(sender, self.seat, error)
        except SecondCopyError as error:
            if self.liar is None:
                raise InvariantError(Invariant.NOBODY_CORRECT_ACCUSED, f"node {self.seat}: {error}") from error
        if running.is_idle:
            self._wake()

    def submit(self, submission: Submission) -> bool:
        """Post a transaction at this node; False when it cannot take it."""
        if self._running is None:
            return False
        try:
            self._running.admission.submit(submission)
        except RejectionError:
            return False
        self._tasks[2].wake()
        return True

    def say_status_to_all(self) -> None:
        """All links have come up."""
        if self._running is not None:
            for peer in self._around.peers:
                if peer.seat != self.seat:
                    self._running.member.say_status(peer.seat)

    def _wake(self) -> None:
        if self._running is not None and self._running.is_idle and self._tasks:
            self._tasks[0].wake()

    # --- Outbox ------------------------------------------------------------------------------------------------------

    def send(self, member: MemberIndex, frame: bytes) -> None:
        """Send to one member."""
        if member != self.seat:
            self._pass(member, frame)

    def broadcast(self, frame: bytes) -> None:
        """Send to every other member; what a correct seat says passes the watch first."""
        if self.liar is None:
            self._show(frame)
        for peer in self._around.peers:
            if peer.seat != self.seat:
                self._pass(peer.seat, frame)

    def _pass(self, member: MemberIndex, frame: bytes) -> None:
        if member >= len(self._around.peers):  # a seat whose machine does not stand yet
            return
        self._around.network.send(self.seat, member, frame, self._arrive)

    def _arrive(self, sender: int, receiver: int, frame: bytes) -> None:
        if self.is_retired:
            return
        self._around.peers[receiver].receive(MemberIndex(sender), frame)

    def _show(self, frame: bytes) -> None:
        vote = self._around.watch.on_frame(frame)
        if vote is not None:
            self._remember(vote)

    def _remember(self, vote: Vote) -> None:
        """A vote was said for the first time: the log was flushed just before, and holds all that led to it."""
        running = self._running
        assert running is not None, "somebody speaks"
        self._restart.on_vote(vote, running.member.state, running.log.entry_count)
        if self._rng.random() < REPLAYS_CHECKED:
            check_replay(running.member.state, self._read_log())

    def _read_log(self) -> LogContents | None:
        return WriteAheadLog(WAL, self._around.genesis_hash, self.disk.copy()).read()

    # --- MemberEvents ------------------------------------------------------------------------------------------------

    def on_appended(self, appended: Appended) -> None:  # noqa: ARG002 (the chain's tip says more)
        """A block is durable."""
        running = self._running
        assert running is not None, "somebody appends"
        running.admission.on_appended()
        tip = running.chain.tip
        if self.liar is None:
            assert tip.last is not None, "a block was appended"
            self._around.watch.on_appended(self.seat, tip.last, tip.state_root)
        running.admission.pass_on(self.broadcast)

    def on_peer_ahead(self) -> None:
        """Have catch-up look."""
        if len(self._tasks) > 1 and self._waits_for_peer:
            self._tasks[1].wake()

    def on_transactions(self, message: TransactionsMessage) -> None:
        """Let them wait in the mempool."""
        if self._running is not None:
            self._running.admission.take(message)

    # --- CatchingUp and Asker ----------------------------------------------------------------------------------------

    _waits_for_peer = False

    @property
    def height(self) -> Height:
        """One above the chain."""
        assert self._running is not None, "a task of the process asks"
        return self._running.member.height

    @property
    def schedule(self) -> MemberSchedule:
        """Who agrees on which height."""
        assert self._running is not None, "a task of the process asks"
        return self._running.chain.rules.schedule

    @property
    def peers(self) -> PeerHeights:
        """Where the other members stand."""
        assert self._running is not None, "a task of the process asks"
        return self._running.member.peers

    def now(self) -> float:
        """Return seconds of this node's monotonic clock."""
        return self._around.timeline.now_us / SECOND_US

    def _wall_ms(self) -> Milliseconds:
        return Milliseconds(GENESIS_MS + self._around.timeline.now_us // 1_000 + self.clock_offset_ms)

    async def pause(self, span_s: float) -> None:
        """Wait."""
        await sleep(int(span_s * SECOND_US))

    async def wait_for_peer_ahead(self, span_s: float) -> None:
        """Wait until a member says that it is ahead."""
        self._waits_for_peer = True
        await sleep(FOREVER if span_s == math.inf else int(span_s * SECOND_US))
        self._waits_for_peer = False

    async def offer_decided(self, decided: DecidedBlock) -> None:
        """Append a block of catch-up."""
        running = self._running
        assert running is not None, "a task of the process offers"
        answers: list[RejectionError | None] = []
        task = self._tasks[1]

        def answer(refusal: RejectionError | None) -> None:
            answers.append(refusal)
            task.wake()

        running.member.offer(OfferedBlock(decided=decided, answer=answer))
        self._wake()
        while not answers:
            await sleep(FOREVER)
        if answers[0] is not None:
            raise answers[0]

    async def request(self, member: MemberIndex, payload: bytes, deadline_s: float) -> bytes:
        """Ask another node's catch-up server."""
        return await self._questions.request(member, payload, deadline_s)

    async def request_all(self, questions: Sequence[tuple[MemberIndex, bytes]], deadline_s: float) -> list[Answer]:
        """Ask several nodes."""
        return await ask_in_turn(self, questions, deadline_s)

    def refuse(self, member: MemberIndex, error: RejectionError) -> None:
        """A member lied in catch-up."""
        if self.liar is None:
            self._around.watch.on_refused(member, self.seat, error)

    def answer(self, payload: bytes) -> bytes | None:
        """Answer another node's question; None when nobody is here."""
        if self._running is None:
            return None
        try:
            honest = run_to_end(self._running.server.answer(payload))
        except RejectionError:
            return None
        return honest if self.liar is None else self.liar.answer(honest)

    def break_requests(self) -> None:
        """Links have come up anew: what was asked before gets no answer."""
        self._questions.break_all()
