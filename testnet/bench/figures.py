"""What a measurement tells: figures with what is asked beside them, and what they cost in CPU-seconds.

CPU comes from /proc and counts everything that the nine nodes and the measuring client used between two moments, so a
figure is comparable on a machine that is shared with others, where MB/s is not.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from testnet.cluster import process_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from testnet.cluster import Cluster

MEGA: Final = 1_000_000
GIGA: Final = 1_000_000_000
USER_FIELD: Final = 11
SYSTEM_FIELD: Final = 12
"""Positions after the command's name in /proc/PID/stat (fields 14 and 15 of proc(5))."""
TICKS: Final = os.sysconf("SC_CLK_TCK")
PERCENT: Final = 100


class Better(StrEnum):
    """Which way a figure is to go."""

    HIGHER = ">="
    LOWER = "<="


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One measured number.

    Attributes:
        name: What it is, the same in every run.
        amount: In the unit named.
        reach: What is asked for, in the same unit.
        client_cpu_s, nodes_cpu_s, gateways_cpu_s: CPU-seconds of the client, of all nodes, of all gateways: per GB of
            objects where the figure moves bytes, else per second of the clock; None where it means nothing.
    """

    name: str
    amount: float
    unit: str
    better: Better
    reach: float
    client_cpu_s: float | None = None
    nodes_cpu_s: float | None = None
    gateways_cpu_s: float | None = None

    @property
    def is_reached(self) -> bool:
        """Say whether the figure is what is asked for."""
        return self.amount >= self.reach if self.better is Better.HIGHER else self.amount <= self.reach


@dataclass(slots=True)
class Span:
    """What passed between two moments."""

    seconds: float = 0.0
    client_cpu_s: float = 0.0
    nodes_cpu_s: float = 0.0
    gateways_cpu_s: float | None = None
    """None where no gateway runs."""


@contextmanager
def measured(cluster: Cluster) -> Generator[Span]:
    """Give a span that is filled in when the block ends; nodes started or ended meanwhile are not counted."""
    span = Span()
    processes = node_processes(cluster)
    nodes_before = {pid: cpu_seconds(pid) for pid in processes}
    gateways_before = {pid: cpu_seconds(pid) for node in processes for pid in child_processes(node)}
    client_before, began = time.process_time(), time.perf_counter()
    yield span
    span.seconds = time.perf_counter() - began
    span.client_cpu_s = time.process_time() - client_before
    span.nodes_cpu_s = sum(cpu_seconds(pid) - before for pid, before in nodes_before.items())
    if gateways_before:
        span.gateways_cpu_s = sum(cpu_seconds(pid) - before for pid, before in gateways_before.items())


def rate_of_bytes(name: str, span: Span, byte_count: int, reach: float) -> Figure:
    """Return a throughput in MB/s, with CPU-seconds per GB."""
    return Figure(
        name=name,
        amount=byte_count / span.seconds / MEGA,
        unit="MB/s",
        better=Better.HIGHER,
        reach=reach,
        client_cpu_s=span.client_cpu_s * GIGA / byte_count,
        nodes_cpu_s=span.nodes_cpu_s * GIGA / byte_count,
        gateways_cpu_s=None if span.gateways_cpu_s is None else span.gateways_cpu_s * GIGA / byte_count,
    )


def rate_of_items(name: str, span: Span, count: int, reach: float, unit: str = "objects/s") -> Figure:
    """Return a rate of small things, with CPU-seconds per second of the clock: 2.0 is two busy cores."""
    return Figure(
        name=name,
        amount=count / span.seconds,
        unit=unit,
        better=Better.HIGHER,
        reach=reach,
        client_cpu_s=span.client_cpu_s / span.seconds,
        nodes_cpu_s=span.nodes_cpu_s / span.seconds,
        gateways_cpu_s=None if span.gateways_cpu_s is None else span.gateways_cpu_s / span.seconds,
    )


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the value that `percent` of a hundred do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // PERCENT)]


def medians(runs: Sequence[Sequence[Figure]]) -> tuple[Figure, ...]:
    """Return each figure's median over the runs, in the order of the first."""
    by_name: dict[str, list[Figure]] = {}
    for figure in (figure for run in runs for figure in run):
        by_name.setdefault(figure.name, []).append(figure)
    return tuple(_median(figures) for figures in by_name.values())


def node_processes(cluster: Cluster) -> tuple[int, ...]:
    """Return the process ids of the running nodes."""
    running = (process_of(cluster, seat) for seat in cluster.all_seats())
    return tuple(owned.pid for owned in running if owned is not None)


def child_processes(pid: int) -> tuple[int, ...]:
    """Return the processes that a process has started and that still run: a node's gateway."""
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    return tuple(int(child) for children in threads for child in children.read_text().split())


def cpu_seconds(pid: int) -> float:
    """Return what a process has used of all cores since it started."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[USER_FIELD]) + int(fields[SYSTEM_FIELD])) / TICKS


def _median(figures: Sequence[Figure]) -> Figure:
    return msgspec.structs.replace(
        figures[0],
        amount=statistics.median(figure.amount for figure in figures),
        client_cpu_s=_median_known([figure.client_cpu_s for figure in figures]),
        nodes_cpu_s=_median_known([figure.nodes_cpu_s for figure in figures]),
        gateways_cpu_s=_median_known([figure.gateways_cpu_s for figure in figures]),
    )


def _median_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
