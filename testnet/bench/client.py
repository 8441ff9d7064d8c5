"""One measurement in a process of its own: `python -m testnet.bench.client NAME HOME` prints its figures as JSON."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Final, Protocol, cast

import msgspec
import trio

from consensus.errors import GrandestError
from node.cli.output import print_error
from testnet.bench.figures import Figure
from testnet.cluster import Cluster, open_cluster

MEASUREMENTS: Final = (
    "idle",
    "large_object",
    "small_objects",
    "stored_bytes",
    "many_names",
    "one_put",
    "transactions",
    "absent",
    "rebuild",
    "replaying",
    "long_chain",
    "s3",
    "one_large",
)
"""In the order of running: what needs a quiet network first, what needs a chain last."""


class Measurement(Protocol):
    """What a module of this package offers."""

    async def measure(self, cluster: Cluster) -> tuple[Figure, ...]:
        """Measure once on a running testnet."""
        ...


def main(name: str, home: Path) -> int:
    """Run one measurement; returns the process's exit code."""
    assert name in MEASUREMENTS, name
    measurement = cast("Measurement", importlib.import_module(f"testnet.bench.{name}"))
    try:
        figures = trio.run(measurement.measure, open_cluster(home))
    except (GrandestError, BaseExceptionGroup) as error:
        print_error(f"{name}: {error}")
        return 1
    sys.stdout.buffer.write(msgspec.json.encode(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
