"""How work that waits for a disk is run: in a worker thread by a node, at once by a simulation.

What takes a RunBlocking uses `async` for nothing else, so that under a runner that never waits it is plain code that
one seed decides (testnet/simulation).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    from collections.abc import Callable

ReturnT = TypeVar("ReturnT")
ArgumentsT = TypeVarTuple("ArgumentsT")


class RunBlocking(Protocol):
    """Calls a function that may block, and waits for it."""

    async def __call__(self, function: Callable[[*ArgumentsT], ReturnT], /, *arguments: *ArgumentsT) -> ReturnT:
        """Return what the function returns; its exceptions come through."""
        ...
