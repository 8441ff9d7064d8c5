"""What a repair has before it and has done, and how it steps aside: numbers that people and tests read.

Rebuilding a column reads k others of its length and writes one. A repair says so before it begins, tells how far it is
while it works, and waits two thirds of its time while others ask the node for their objects, so that their answers are
at most three times as slow as without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MIB: Final = 1024 * 1024
BYTES_PER_SECOND_ASSUMED: Final = 20 * MIB
"""Before anything was rebuilt here: a link of 200 Mbit/s."""
FOREGROUND_PAUSE: Final = 2.0
"""Times what a column took, waited after it while others ask."""


@dataclass(frozen=True, slots=True)
class RepairLoad:
    """Columns to rebuild, or rebuilt, and the bytes of others that are read for them."""

    columns: int = 0
    read_bytes: int = 0

    def with_column(self, k: int, shard_bytes: int) -> RepairLoad:
        """Return the load with one more column."""
        return RepairLoad(self.columns + 1, self.read_bytes + k * shard_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairProgress:
    """A repair under way."""

    planned: RepairLoad
    done: RepairLoad
    seconds: float
    """Since it began."""
    set_aside: int
    """Columns that cannot be rebuilt now."""

    @property
    def seconds_left(self) -> float:
        """Return an estimate from what was done so far."""
        left_bytes = max(0, self.planned.read_bytes - self.done.read_bytes)
        has_rate = self.done.read_bytes > 0 and self.seconds > 0
        rate = self.done.read_bytes / self.seconds if has_rate else BYTES_PER_SECOND_ASSUMED
        return left_bytes / rate

    def plan_text(self) -> str:
        """Return the line before the beginning."""
        return (
            f"repair: {self.planned.columns} columns to rebuild,"
            f" {_mib(self.planned.read_bytes)} MiB to read from others, about {self.seconds_left:.0f} s"
        )

    def progress_text(self) -> str:
        """Return the line while it works, and at its end."""
        return (
            f"repair: {self.done.columns} of {self.planned.columns} columns,"
            f" {_mib(self.done.read_bytes)} of {_mib(self.planned.read_bytes)} MiB read,"
            f" about {self.seconds_left:.0f} s left, {self.set_aside} set aside"
        )


def pause_after(seconds: float, asked_meanwhile: int) -> float:
    """Return how long a repair waits after a column that took so long, while so many questions of others came."""
    return FOREGROUND_PAUSE * seconds if asked_meanwhile else 0.0


def _mib(byte_count: int) -> str:
    return f"{byte_count / MIB:.1f}"
