"""The time of day as this machine has it; whether it may take part is asked in clock_check.py."""

from __future__ import annotations

import time

from consensus.identifiers import Milliseconds


def now_ms() -> Milliseconds:
    """Return milliseconds since 1970."""
    return Milliseconds(time.time_ns() // 1_000_000)
