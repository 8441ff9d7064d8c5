"""What a gateway has answered, per operation and tenant, in Prometheus' text format on a port of its own."""

from __future__ import annotations

from collections import Counter, defaultdict
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from node.gateway.http_server import HttpAnswer, HttpServer

if TYPE_CHECKING:
    from consensus.errors import GrandestError
    from node.gateway.http_server import HttpRequest

BOUNDS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
TENANT_CHARACTERS: Final = 16
CONTENT_TYPE: Final = ("Content-Type", "text/plain; version=0.0.4; charset=utf-8")


class Metrics:
    """Implements Meter, and Handler for GET /metrics."""

    def __init__(self) -> None:
        self._answers: Counter[tuple[str, str, int]] = Counter()
        self._seconds: dict[str, float] = defaultdict(float)
        self._buckets: Counter[tuple[str, float]] = Counter()
        self._counts: Counter[str] = Counter()

    def count(self, operation: str, tenant: str, status: int, seconds: float) -> None:
        """Take one answer."""
        self._answers[operation, tenant[:TENANT_CHARACTERS], status] += 1
        self._seconds[operation] += seconds
        self._counts[operation] += 1
        for bound in BOUNDS_S:
            if seconds <= bound:
                self._buckets[operation, bound] += 1

    def text(self) -> str:
        """Return everything as Prometheus reads it."""
        lines = ["# TYPE grandest_s3_answers_total counter"]
        lines += [
            f'grandest_s3_answers_total{{operation="{operation}",tenant="{tenant}",status="{status}"}} {count}'
            for (operation, tenant, status), count in sorted(self._answers.items())
        ]
        lines.append("# TYPE grandest_s3_seconds histogram")
        for operation in sorted(self._counts):
            lines += [
                f'grandest_s3_seconds_bucket{{operation="{operation}",le="{bound}"}} {self._buckets[operation, bound]}'
                for bound in BOUNDS_S
            ]
            lines.append(f'grandest_s3_seconds_bucket{{operation="{operation}",le="+Inf"}} {self._counts[operation]}')
            lines.append(f'grandest_s3_seconds_sum{{operation="{operation}"}} {self._seconds[operation]:.6f}')
            lines.append(f'grandest_s3_seconds_count{{operation="{operation}"}} {self._counts[operation]}')
        return "\n".join(lines) + "\n"

    async def answer(self, request: HttpRequest) -> HttpAnswer:
        """Answer GET /metrics."""
        if request.head.raw_path != "/metrics":
            return HttpAnswer(status=HTTPStatus.NOT_FOUND)
        return HttpAnswer(status=HTTPStatus.OK, headers=(CONTENT_TYPE,), body=self.text().encode())

    def refusal(self, request: HttpRequest, error: GrandestError) -> HttpAnswer:
        """Never asked: nothing here fails."""
        del request, error
        return HttpAnswer(status=HTTPStatus.INTERNAL_SERVER_ERROR)


async def serve_metrics(metrics: Metrics, host: str, port: int) -> None:
    """Serve until cancelled."""
    server = HttpServer(metrics)
    await server.listen(host, port)
    await server.serve()
