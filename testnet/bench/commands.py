"""`grandest bench`: what nine nodes on this machine do, medians of three runs, with what is asked beside each.

Every run of a measurement is a fresh client process. Without --home a testnet is made in a temporary folder, and ended
and removed afterwards.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from node.cli import ExitCode
from node.cli.output import note, print_json, print_line, print_table
from node.cli.parser import Commands, add_json_option, existing_directory, new_command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from testnet.bench.figures import Figure
    from testnet.genesis import Gateways

NAMES: Final = (
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
BY_GATEWAYS: Final = frozenset({"s3", "one_large"})
"""Measured on a testnet that serves S3; the others on one without gateways."""
RUNS: Final = 3
SMALL: Final = 10
"""Below it a figure is a ratio or a count, and shown with decimals."""
RUN_SECONDS_MAX: Final = 900.0
"""The longest, which makes a chain of 100,000 blocks, takes four minutes on a quiet machine."""


def add_commands(commands: Commands) -> None:
    """Mount `bench`."""
    bench = new_command(commands, "bench", "measure nine nodes on this machine against what was promised")
    bench.add_argument("--home", type=existing_directory, metavar="DIR", help="a running testnet's home")
    bench.add_argument("--only", action="append", choices=NAMES, metavar="NAME", help=f"one of {', '.join(NAMES)}")
    bench.add_argument("--runs", type=int, default=RUNS, metavar="N", help="of each measurement (default: 3)")
    add_json_option(bench)
    bench.set_defaults(run=run_bench)


def run_bench(arguments: Namespace) -> int:
    """Measure, print, leave nothing running."""
    names = tuple(arguments.only or NAMES)
    runs = max(1, int(arguments.runs))
    home: Path | None = arguments.home
    figures = _measure_each(names, runs) if home is None else _measure(home, names, runs)
    if arguments.json:
        import msgspec

        print_json([msgspec.to_builtins(figure) for figure in figures])
    else:
        _print(figures, runs)
    return ExitCode.DONE


def _measure_each(names: Sequence[str], runs: int) -> tuple[Figure, ...]:
    """Measure on testnets of our own: gateways cost memory and CPU that the other figures are not about."""
    from testnet.genesis import Gateways

    found: list[Figure] = []
    for gateways in Gateways:
        wanted = [name for name in names if (name in BY_GATEWAYS) is (gateways is Gateways.BESIDE_NODES)]
        if wanted:
            found += _measure_own(wanted, runs, gateways)
    return tuple(found)


def _measure_own(names: Sequence[str], runs: int, gateways: Gateways) -> tuple[Figure, ...]:
    from testnet.cluster import open_cluster, start_all, stop_all
    from testnet.genesis import make_testnet

    folder = Path(tempfile.mkdtemp(prefix="grandest-bench-"))
    home = folder / "home"
    make_testnet(home, gateways=gateways)
    cluster = open_cluster(home)
    try:
        note("- nine nodes start")
        start_all(cluster)
        figures = _measure(home, names, runs)
    finally:
        stop_all(cluster)
    shutil.rmtree(folder)  # a measurement that failed leaves its nodes' logs
    return figures


def _measure(home: Path, names: Sequence[str], runs: int) -> tuple[Figure, ...]:
    from testnet.bench.figures import medians

    found: list[Figure] = []
    for name in names:
        results: list[tuple[Figure, ...]] = []
        for number in range(runs):
            note(f"- {name}, run {number + 1} of {runs}")
            results.append(_run(home, name))
            note("".join(f"    {figure.name}: {figure.amount:.4g} {figure.unit}\n" for figure in results[-1]).rstrip())
        found += medians(results)
    return tuple(found)


def _run(home: Path, name: str) -> tuple[Figure, ...]:
    import msgspec

    from node.errors import NodeError
    from testnet.bench.figures import Figure

    command = (sys.executable, "-P", "-m", "testnet.bench.client", name, str(home))
    ended = subprocess.run(command, stdout=subprocess.PIPE, check=False, timeout=RUN_SECONDS_MAX)
    if ended.returncode != 0:
        raise NodeError(f"measurement {name} failed; the nodes' logs are {home}/seat-*/log")
    return msgspec.json.decode(ended.stdout, type=tuple[Figure, ...])


def _print(figures: Sequence[Figure], runs: int) -> None:
    rows = [
        [
            figure.name,
            f"{figure.amount:,.{3 if figure.amount < SMALL else 0}f}",
            figure.unit,
            f"{figure.better.value} {figure.reach:g}",
            "yes" if figure.is_reached else "NO",
            _cpu(figure.client_cpu_s),
            _cpu(figure.nodes_cpu_s),
            _cpu(figure.gateways_cpu_s),
        ]
        for figure in figures
    ]
    print_table(["what", "measured", "unit", "asked", "reached", "client CPU", "nodes CPU", "gateways CPU"], rows)
    print_line("")
    print_line(f"medians of {runs}; CPU in seconds per GB where MB/s or a share of it is measured, else per second")


def _cpu(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f}"
