"""Nine nodes with nothing to do: blocks, CPU, memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from testnet.bench.figures import PERCENT, Better, Figure, measured, node_processes
from testnet.cluster import cluster_states

if TYPE_CHECKING:
    from testnet.cluster import Cluster

SETTLE_SECONDS: Final = 3.0
WATCH_SECONDS: Final = 60.0
BLOCKS_REACH: Final = 1.0
CPU_REACH: Final = 3.0
MEMORY_REACH: Final = 120.0
KIB_PER_MIB: Final = 1024


async def measure(cluster: Cluster) -> tuple[Figure, ...]:
    """Watch for a minute without asking anything of the nodes."""
    await trio.sleep(SETTLE_SECONDS)
    height = _height(cluster)
    with measured(cluster) as span:
        await trio.sleep(WATCH_SECONDS)
    blocks = _height(cluster) - height
    memory = max(anonymous_kib(pid) for pid in node_processes(cluster)) / KIB_PER_MIB
    return (
        _most("idle, blocks a minute", blocks * 60 / span.seconds, "", BLOCKS_REACH),
        _most("idle, CPU of all nine, of one core", PERCENT * span.nodes_cpu_s / span.seconds, "%", CPU_REACH),
        _most("anonymous memory, the largest node", memory, "MiB", MEMORY_REACH),
    )


def anonymous_kib(pid: int) -> int:
    """Return a process's anonymous memory; mapped tables are the page cache's, not its own."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1])
    raise OSError(f"/proc/{pid}/smaps_rollup has no line Anonymous")


def _height(cluster: Cluster) -> int:
    return max(state.status.height for state in cluster_states(cluster) if state.status is not None)


def _most(name: str, amount: float, unit: str, reach: float) -> Figure:
    return Figure(name=name, amount=amount, unit=unit, better=Better.LOWER, reach=reach)
