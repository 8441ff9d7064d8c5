"""What surrounds simulated nodes, what one loses when its process ends, and how code that waits for nothing is run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

from consensus.errors import RejectionError
from node.errors import PeerUnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from consensus.chain import ChainRules, ChainTip
    from consensus.genesis import Genesis
    from consensus.identifiers import GenesisHash, Height, MemberIndex
    from consensus.schedule import MemberSchedule
    from consensus.signing import SignatureCheck
    from node.admission import Admission
    from node.catch_up_task import Answer, Asker, CatchUpServer
    from node.high_water import HighWater
    from node.ledger_chain import LedgerChain
    from node.member import Member
    from node.mempool import Mempool
    from node.record_check import Remembered
    from node.signer import Signer
    from node.write_ahead_log import WriteAheadLog
    from storage.stores.blocks import ChainStore
    from testnet.simulation.checkers import Watch
    from testnet.simulation.network import Network
    from testnet.simulation.node import SimulatedNode
    from testnet.simulation.timeline import Timeline

ReturnT = TypeVar("ReturnT")
ArgumentsT = TypeVarTuple("ArgumentsT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all nodes of a world share."""

    timeline: Timeline
    network: Network
    watch: Watch
    genesis: Genesis
    genesis_hash: GenesisHash
    judge: Callable[[ChainStore], ChainRules]
    check: SignatureCheck
    peers: list[SimulatedNode]

    def answer_of(self, member: MemberIndex, payload: bytes) -> bytes | None:
        """Return what another node answers in catch-up, None for nothing; a seat may have no machine yet."""
        return self.peers[member].answer(payload) if member < len(self.peers) else None


@dataclass(slots=True)
class Running:
    """What is lost when a process ends."""

    member: Member
    admission: Admission
    mempool: Mempool
    server: CatchUpServer
    chain: LedgerChain
    signer: Signer
    log: WriteAheadLog
    high_water: HighWater
    is_listening: bool = True
    is_idle: bool = False


class NoSnapshots:
    """Implements SnapshotSource: simulated chains are short."""

    def heights(self) -> tuple[Height, ...]:
        """Return none."""
        return ()

    def manifest(self, height: Height) -> bytes | None:
        """Return none."""
        del height
        return None

    def piece(self, height: Height, number: int) -> bytes | None:
        """Return none."""
        del height, number
        return None


def forgive(signer: Signer, seat: MemberIndex, tip: ChainTip, schedule: MemberSchedule, remembered: Remembered) -> None:
    """Check nothing: a liar's record may say what it likes."""
    del signer, seat, tip, schedule, remembered


async def run_at_once(function: Callable[[*ArgumentsT], ReturnT], /, *arguments: *ArgumentsT) -> ReturnT:
    """Return what a function returns: a RunBlocking that does not wait."""
    return function(*arguments)


def run_to_end(coroutine: Coroutine[object, None, ReturnT]) -> ReturnT:
    """Return what a coroutine returns that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        returned: ReturnT = ended.value
        return returned
    raise AssertionError("it waits")


async def ask_in_turn(asker: Asker, questions: Sequence[tuple[MemberIndex, bytes]], deadline_s: float) -> list[Answer]:
    """Ask members one after the other: side by side would only save this node's time."""
    answers: list[Answer] = []
    for member, payload in questions:
        try:
            answers.append(await asker.request(member, payload, deadline_s))
        except (PeerUnreachableError, RejectionError) as error:
            answers.append(error)
    return answers
