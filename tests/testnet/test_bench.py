"""Figures are arithmetic: medians, percentiles, CPU a gigabyte; every measurement that is named can be run."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest

from node.client.chain import SegmentView
from storage.identifiers import SegmentId, ShardRoot
from testnet.bench.absent import Seen
from testnet.bench.client import MEASUREMENTS
from testnet.bench.commands import NAMES
from testnet.bench.figures import (
    Better,
    Figure,
    Span,
    child_processes,
    cpu_seconds,
    medians,
    percentile,
    rate_of_bytes,
    rate_of_items,
)
from testnet.bench.idle import anonymous_kib
from testnet.bench.rebuild import Half, Parts, rebuild_figures


def figure(name: str, amount: float, client_cpu_s: float | None = None) -> Figure:
    return Figure(name=name, amount=amount, unit="", better=Better.HIGHER, reach=2.0, client_cpu_s=client_cpu_s)


def test_a_median_is_taken_figure_by_figure() -> None:
    runs = [[figure("a", 1.0, 9.0), figure("b", 5.0)], [figure("a", 3.0, 7.0)], [figure("a", 2.0, 8.0)]]
    assert medians(runs) == (figure("a", 2.0, 8.0), figure("b", 5.0))


@pytest.mark.parametrize(("percent", "expected"), [(0, 1.0), (50, 51.0), (99, 100.0), (100, 100.0)])
def test_a_percentile_is_a_value_that_was_measured(percent: int, expected: float) -> None:
    assert percentile([float(value) for value in range(100, 0, -1)], percent) == expected


def test_bytes_cost_cpu_a_gigabyte_and_items_cpu_a_second() -> None:
    span = Span(seconds=2.0, client_cpu_s=1.0, nodes_cpu_s=3.0)
    by_bytes = rate_of_bytes("x", span, 500_000_000, 150.0)
    assert (by_bytes.amount, by_bytes.client_cpu_s, by_bytes.nodes_cpu_s) == (250.0, 2.0, 6.0)
    by_items = rate_of_items("x", span, 300, 1_000.0)
    assert (by_items.amount, by_items.client_cpu_s, by_items.nodes_cpu_s) == (150.0, 0.5, 1.5)


@pytest.mark.parametrize(("better", "least", "most"), [(Better.HIGHER, 2.0, 9.0), (Better.LOWER, 0.0, 2.0)])
def test_a_figure_knows_whether_it_is_reached(better: Better, least: float, most: float) -> None:
    def is_reached(amount: float) -> bool:
        return Figure(name="x", amount=amount, unit="", better=better, reach=2.0).is_reached

    assert is_reached(least)
    assert is_reached(most)
    assert not is_reached(least - 0.1 if better is Better.HIGHER else most + 0.1)


def test_this_process_has_used_cpu_and_memory() -> None:
    assert cpu_seconds(os.getpid()) > 0
    assert anonymous_kib(os.getpid()) > 0


def test_a_child_process_is_found_while_it_runs() -> None:
    with subprocess.Popen((sys.executable, "-c", "input()"), stdin=subprocess.PIPE) as child:
        assert child.pid in child_processes(os.getpid())
        child.communicate(b"\n")
    assert child.pid not in child_processes(os.getpid())


def test_gateways_cost_is_told_where_they_run() -> None:
    span = Span(seconds=2.0, gateways_cpu_s=1.0)
    assert rate_of_bytes("x", span, 500_000_000, 1.0).gateways_cpu_s == 2.0
    assert rate_of_items("x", span, 10, 1.0).gateways_cpu_s == 0.5
    assert rate_of_items("x", Span(seconds=2.0), 10, 1.0).gateways_cpu_s is None


def test_the_command_names_every_measurement_and_each_is_there() -> None:
    assert NAMES == MEASUREMENTS
    assert all(hasattr(importlib.import_module(f"testnet.bench.{name}"), "measure") for name in NAMES)


def test_the_time_without_a_block_counts_from_the_kill_to_the_first_answer_and_to_the_end() -> None:
    seen = Seen([(8.0, 9.0), (9.0, 12.5), (12.5, 13.0), (13.0, 16.0)])
    assert seen.longest_gap(10.0, 17.0) == 3.0
    assert seen.longest_gap(10.0, 20.0) == 4.0
    assert seen.first_after(10.0, 20.0) == 3.0, "what was sent before the kill may have been decided before it"
    assert seen.first_after(16.0, 20.0) == seen.longest_gap(16.0, 20.0) == 4.0


def test_a_rebuilt_half_is_judged_by_the_slowest_part_and_by_k_columns_for_one() -> None:
    segments = [
        SegmentView(
            segment_id=SegmentId(bytes([number]) * 32),
            k=6,
            segment_bytes=6 * 1_638_400,
            roots=(ShardRoot(bytes(32)),) * 9,
            receipted=frozenset(),
        )
        for number in range(10)
    ]
    all_bytes = 10 * 6 * 1_638_400
    parts = Parts(loopback=40e6, coding=90e6, disk=300e6)
    half = Half(columns=5, seconds=all_bytes / 2 / 30e6, read_bytes=round(all_bytes * 0.51))
    found = {one.name.partition(": ")[2]: one for one in rebuild_figures(segments, parts, half, 2.5)}
    amounts = {name: round(one.amount, 2) for name, one in found.items()}
    assert amounts["of what the slowest part allows"] == 75.0
    assert amounts["read from others"] == 30.0
    assert amounts["traffic, of k columns for one"] == 1.02
    assert amounts["again after a kill at half"] == 51.0
    assert all(one.is_reached for one in found.values())
    twice = rebuild_figures(segments, parts, Half(columns=5, seconds=60.0, read_bytes=all_bytes), 3.5)
    missed = {one.name.partition(": ")[2] for one in twice if not one.is_reached}
    assert missed == {
        "of what the slowest part allows",
        "small reads' p99 meanwhile, of without",
        "traffic, of k columns for one",
        "again after a kill at half",
    }
