"""`grandest demo`: the main job on real input, from an empty home to an auditor's replay, and a table at the end."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from node.cli import ExitCode
from node.cli.output import Json, bytes_text, note, print_json, print_line, print_table
from node.cli.parser import Commands, add_json_option, new_command
from testnet.processes import ignore_signals

if TYPE_CHECKING:
    from testnet.cluster import Cluster
    from testnet.scenarios.three_fires import Report

DEFAULT_HOME: Final = ".demo"
LARGE_FILE_BYTES: Final = 256 * 1024 * 1024
UP_SECONDS_MAX: Final = 15.0
MEGA: Final = 1_000_000


def add_commands(commands: Commands) -> None:
    """Mount `demo`."""
    demo = new_command(commands, "demo", "nine nodes, real files, three fires, every byte back, an audit")
    demo.add_argument("--home", type=Path, default=Path(DEFAULT_HOME), metavar="DIR", help="emptied first")
    demo.add_argument("--keep", action="store_true", help="leave the home there afterwards, for a look at the logs")
    add_json_option(demo)
    demo.set_defaults(run=run_demo)


def run_demo(arguments: Namespace) -> int:
    """Run the main job in a fresh home; nothing is left running whatever happens."""
    from testnet.cluster import open_cluster, stop_all
    from testnet.genesis import make_testnet

    home: Path = arguments.home.resolve()
    _empty(home)
    began = time.monotonic()
    make_testnet(home)
    cluster = open_cluster(home)
    is_done = False
    try:
        up_seconds = _bring_up(cluster)
        report = _live_through(cluster)
        audit = _audit(home)
        all_seconds = time.monotonic() - began
        if arguments.json:
            print_json(_summary_json(report, audit, up_seconds, all_seconds))
        else:
            _print_summary(cluster, report, audit, up_seconds, all_seconds)
        is_done = True
    finally:
        ignore_signals()
        stop_all(cluster)
        if not is_done:
            note(f"the demo did not finish; the logs are {home}/seat-*/log")
    if not arguments.keep:
        shutil.rmtree(home)
    return ExitCode.DONE


def _empty(home: Path) -> None:
    """Remove an earlier demo's home, ending its nodes; anything else in that place is refused."""
    from node.errors import ConfigurationError
    from testnet.cluster import open_cluster, stop_all

    if not home.exists():
        return
    if any(home.iterdir()) and not (home / "seat-0").is_dir():
        raise ConfigurationError(f"{home} holds something that is no testnet: name another with --home")
    if (home / "genesis").is_file():
        stop_all(open_cluster(home))
    shutil.rmtree(home)


def _bring_up(cluster: Cluster) -> float:
    from node.errors import NodeError
    from testnet.cluster import start_all

    note("- nine nodes start")
    began = time.monotonic()
    states = start_all(cluster)
    seconds = time.monotonic() - began
    heights = {state.status.height for state in states if state.status is not None}
    note(f"  all nine vote after {seconds:.1f} s, at height {', '.join(map(str, sorted(heights)))}")
    if seconds > UP_SECONDS_MAX:
        raise NodeError(f"nine nodes took {seconds:.1f} s to vote, {UP_SECONDS_MAX:.0f} s allowed")
    return seconds


def _live_through(cluster: Cluster) -> Report:
    from node.client import open_client, read_client_home
    from node.nurseries import run_plainly
    from testnet.scenarios.inputs import demo_tree, write_large_file
    from testnet.scenarios.three_fires import Plan, three_fires

    large = write_large_file(cluster.home / "large.bin", LARGE_FILE_BYTES)
    plan = Plan(files=(*demo_tree(), large))

    async def run() -> Report:
        async with open_client(read_client_home(cluster.home / "client")) as client:
            return await three_fires(cluster, client, plan)

    return run_plainly(run)


def _audit(home: Path) -> dict[str, object]:
    """Export and replay with the commands that an auditor types."""
    note("- an auditor exports the chain and replays it from genesis")
    export = home / "export.grandest"
    _command("audit", "export", "--home", str(home), "--out", str(export))
    return msgspec.json.decode(_command("audit", "replay", str(export), "--json"), type=dict[str, object])


def _command(*words: str) -> bytes:
    from node.errors import NodeError

    ended = subprocess.run((sys.executable, "-P", "-m", "testnet.cli", *words), stdout=subprocess.PIPE, check=False)
    if ended.returncode != 0:
        raise NodeError(f"`grandest {' '.join(words)}` ended with {ended.returncode}")
    return ended.stdout


def _summary_json(report: Report, audit: dict[str, object], up_seconds: float, all_seconds: float) -> Json:
    return {
        "up_seconds": up_seconds,
        "stages": [
            {"name": stage.name, "seconds": stage.seconds, "objects": stage.objects, "bytes": stage.byte_count}
            for stage in report.stages
        ],
        "columns_by_seat": {str(seat): columns for seat, columns in report.columns_by_seat.items()},
        "bytes_by_seat": {str(seat): held for seat, held in report.bytes_by_seat.items()},
        "stored_bytes": report.stored_bytes,
        "logical_bytes": report.logical_bytes,
        "segments_by_k": {str(k): count for k, count in report.k_counts.items()},
        "acknowledge_seconds": report.acknowledge_seconds,
        "audit": msgspec.to_builtins(audit),
        "seconds": all_seconds,
    }


def _print_summary(
    cluster: Cluster, report: Report, audit: dict[str, object], up_seconds: float, all_seconds: float
) -> None:
    from testnet.cluster import cluster_states

    rows = [["nine nodes vote", f"{up_seconds:.1f}", "9", "", ""]]
    rows += [
        [
            stage.name,
            f"{stage.seconds:.1f}",
            str(stage.objects or ""),
            bytes_text(stage.byte_count) if stage.byte_count else "",
            f"{stage.byte_count / stage.seconds / MEGA:.0f}" if stage.byte_count else "",
        ]
        for stage in report.stages
    ]
    print_line("")
    print_table(["stage", "seconds", "objects", "bytes", "MB/s"], rows)
    print_line("")
    seats = [
        [
            str(state.seat),
            state.operator,
            str(state.status.height if state.status else "-"),
            str(report.columns_by_seat[state.seat]),
            bytes_text(report.bytes_by_seat[state.seat]),
        ]
        for state in cluster_states(cluster)
    ]
    print_table(["seat", "operator", "height", "columns", "holds"], seats)
    ratio = report.stored_bytes / report.logical_bytes
    ks = ", ".join(f"{count} with k = {k}" for k, count in sorted(report.k_counts.items(), reverse=True))
    print_line("")
    print_line(
        f"stored / logical    {ratio:.3f} ({bytes_text(report.stored_bytes)} for {bytes_text(report.logical_bytes)})"
    )
    print_line(f"segments            {ks}")
    print_line(f"after the fire      next object acknowledged in {report.acknowledge_seconds:.2f} s")
    print_line(f"replayed            {audit.get('blocks')} blocks, {audit.get('transactions')} transactions, no fault")
    print_line(f"everything          {all_seconds:.1f} s; every byte came back")
