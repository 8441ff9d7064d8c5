"""What Prometheus scrapes of a gateway."""

from __future__ import annotations

import re

import httpx
import trio
import trio.testing

from node.gateway.metrics import BOUNDS_S, Metrics, serve_metrics
from testnet.genesis import free_ports

LINE = re.compile(r'(?:# TYPE \w+ (?:counter|histogram)|\w+\{\w+="[\w.+]*"(?:,\w+="[\w.+]*")*\} [0-9.]+)\Z')


def filled() -> Metrics:
    metrics = Metrics()
    for seconds in (0.003, 0.02, 0.02, 0.7, 100.0):
        metrics.count("GetObject", "aa" * 16, 200, seconds)
    metrics.count("PutObject", "", 403, 0.001)
    return metrics


def test_durations_stand_in_every_bound_above_them() -> None:
    text = filled().text()
    found = re.findall(r'seconds_bucket\{operation="GetObject",le="([^"]+)"\} (\d+)', text)
    assert [bound for bound, _ in found] == [*(str(bound) for bound in BOUNDS_S), "+Inf"]
    assert [int(count) for _, count in found] == [1, 1, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4, 5]
    assert 'grandest_s3_seconds_sum{operation="GetObject"} 100.743000' in text
    assert 'grandest_s3_seconds_count{operation="GetObject"} 5' in text


def test_every_line_is_one_that_prometheus_reads() -> None:
    lines = filled().text().splitlines()
    assert len(lines) > 2 * len(BOUNDS_S)
    assert [line for line in lines if not LINE.match(line)] == []


async def test_metrics_are_served_on_a_port_of_their_own() -> None:
    (port,) = free_ports(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_metrics, filled(), "127.0.0.1", port)
        await trio.testing.wait_all_tasks_blocked()
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"http://127.0.0.1:{port}/metrics")
            other = await client.get(f"http://127.0.0.1:{port}/")
        nursery.cancel_scope.cancel()
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert answer.text == filled().text()
    assert other.status_code == 404
