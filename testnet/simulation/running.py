"""What a simulated node loses when its process ends, and how code that waits for nothing is run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from node.admission import Admission
    from node.catch_up_task import CatchUpServer
    from node.ledger_chain import LedgerChain
    from node.member import Member
    from node.mempool import Mempool
    from node.write_ahead_log import WriteAheadLog

ReturnT = TypeVar("ReturnT")
ArgumentsT = TypeVarTuple("ArgumentsT")


@dataclass(slots=True)
class Running:
    """What is lost when a process ends."""

    member: Member
    admission: Admission
    mempool: Mempool
    server: CatchUpServer
    chain: LedgerChain
    log: WriteAheadLog
    is_listening: bool = True
    is_idle: bool = False


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
