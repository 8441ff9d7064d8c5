"""An auditor's replay of the chain as the other measurements left it: blocks a second of one core, nothing believed."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from node.errors import NodeError
from node.replay import replay
from testnet.bench.figures import Better, Figure

if TYPE_CHECKING:
    from node.replay import ReplayReport
    from testnet.cluster import Cluster

REACH: Final = 1_000.0


async def measure(cluster: Cluster) -> tuple[Figure, ...]:
    """Export over HTTP, then replay in this process."""
    with tempfile.TemporaryDirectory() as folder:
        export = Path(folder) / "chain"
        words = ("audit", "export", "--home", str(cluster.home), "--out", str(export))
        command = (sys.executable, "-P", "-m", "testnet.cli", *words)
        await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=True)
        began = time.process_time()
        report = _replay(export)
        seconds = time.process_time() - began
    if report.transactions == 0:
        raise NodeError("a chain without transactions measures nothing: run the other measurements first")
    rate = Figure(
        name=f"audit replay, {report.transactions / report.height:.1f} transactions a block",
        amount=report.height / seconds,
        unit="blocks/s",
        better=Better.HIGHER,
        reach=REACH,
    )
    return (rate,)


def _replay(export: Path) -> ReplayReport:
    with export.open("rb") as file:
        return replay(file, None)
