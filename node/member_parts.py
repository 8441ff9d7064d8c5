"""What one member of the agreement is built from: its chain, its disk, its way to the others, its clocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from consensus.signing import check_signature
from node.high_water import HighWater
from node.reception import ReceptionEvents
from node.record_check import check_record

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.chain import ChainTip
    from consensus.identifiers import MemberIndex, Milliseconds
    from consensus.schedule import MemberSchedule
    from consensus.signing import SignatureCheck
    from node.blocking import RunBlocking
    from node.mempool import Mempool
    from node.node_chain import Appended, NodeChain
    from node.outbox import Outbox
    from node.record_check import Remembered
    from node.signer import Signer
    from node.telemetry import NodeCounters
    from node.write_ahead_log import WriteAheadLog


class RecordCheck(Protocol):
    """Says whether a seat remembers all that it has said: record_check.py; a simulated liar forgives itself."""

    def __call__(
        self,
        signer: Signer,
        seat: MemberIndex,
        tip: ChainTip,
        schedule: MemberSchedule,
        remembered: Remembered,
    ) -> None:
        """Raise WriteAheadLogError if it does not."""


class MemberEvents(ReceptionEvents, Protocol):
    """Who is told what became of the chain; returns at once."""

    def on_appended(self, appended: Appended) -> None:
        """A block is durable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberParts:
    """What a member is built from.

    Attributes:
        run_blocking: Runs what reads and writes much.
        run_flush: Runs what writes little and waits for the disk: a vote's log and record, a small block.
    """

    seat: MemberIndex
    chain: NodeChain
    signer: Signer
    log: WriteAheadLog
    mempool: Mempool
    outbox: Outbox
    counters: NodeCounters
    events: MemberEvents
    run_blocking: RunBlocking
    run_flush: RunBlocking
    monotonic_s: Callable[[], float]
    wall_ms: Callable[[], Milliseconds]
    high_water: HighWater = field(default_factory=HighWater)
    """Until the chain is as high as that, nothing is said."""
    check: SignatureCheck = check_signature
    check_record: RecordCheck = check_record
