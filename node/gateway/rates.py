"""How many requests a tenant may make of one gateway: so that one tenant's flood is not every tenant's outage.

A tenant has a share of `requests_per_second` times BURST_SECONDS requests, filled again at that rate. Who finds it
empty is answered 503 SlowDown with Retry-After before anything is asked of the nodes; S3's clients wait and try again
by themselves. Counted once a request's signature is known to be true: nobody uses up another's share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from node.gateway.errors import RETRY_AFTER, S3Code, S3Error

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage.identifiers import TenantId

REQUESTS_PER_SECOND: Final = 2_000
"""Of one tenant at one gateway, unless its settings say otherwise: about what a core of it can answer."""
BURST_SECONDS: Final = 2.0
"""Listings and transfers in parts come in bursts."""


@dataclass(slots=True)
class _Share:
    """What a tenant may still ask, as of a moment."""

    requests: float
    at_s: float


class TenantRates:
    """Counts the requests of each tenant; it keeps a share for each tenant that is served."""

    def __init__(self, requests_per_second: int, now_s: Callable[[], float]) -> None:
        """Limit each tenant.

        Args:
            requests_per_second: On average, at least 1.
            now_s: A clock that never goes back.
        """
        assert requests_per_second >= 1, "a tenant that may ask nothing is not served"
        self._rate = requests_per_second
        self._now_s = now_s
        self._shares: dict[TenantId, _Share] = {}

    def take(self, tenant: TenantId) -> None:
        """Count one request.

        Raises:
            S3Error: SlowDown.
        """
        now_s, full = self._now_s(), self._rate * BURST_SECONDS
        share = self._shares.setdefault(tenant, _Share(full, now_s))
        share.requests = min(full, share.requests + (now_s - share.at_s) * self._rate)
        share.at_s = now_s
        if share.requests < 1:
            detail = f"More than {self._rate} requests a second: this gateway serves others, too."
            raise S3Error(S3Code.SLOW_DOWN, detail, headers=RETRY_AFTER)
        share.requests -= 1
