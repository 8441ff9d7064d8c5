"""What a node says about itself: its log and its counters.

The log names peers, heights and reasons, never contents. Text is for people, JSON (one object a line) for collectors.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from node.config import LogFormat, LogLevel

if TYPE_CHECKING:
    from consensus.errors import RejectionReason

LEVELS: Final = {
    LogLevel.DEBUG: logging.DEBUG,
    LogLevel.INFO: logging.INFO,
    LogLevel.WARNING: logging.WARNING,
    LogLevel.ERROR: logging.ERROR,
}
QUIET: Final = ("libp2p", "multiaddr", "httpx", "async_service", "trio")
"""Libraries whose warnings at most are wanted."""


class JsonLines(logging.Formatter):
    """One JSON object a line: time_ms, level, module, message."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        line = {
            "time_ms": int(record.created * 1000),
            "level": record.levelname.lower(),
            "module": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def set_up_log(level: LogLevel, log_format: LogFormat) -> None:
    """Send the process's log to stderr; a supervisor keeps it."""
    handler = logging.StreamHandler(sys.stderr)
    if log_format is LogFormat.JSON:
        handler.setFormatter(JsonLines())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[level])
    for name in QUIET:
        logging.getLogger(name).setLevel(max(LEVELS[level], logging.ERROR))


@dataclass(slots=True)
class NodeCounters:
    """What passed since the start."""

    blocks_decided: int = 0
    blocks_caught_up: int = 0
    proposals_made: int = 0
    votes_sent: int = 0
    rounds_above_zero: int = 0
    inputs_dropped: int = 0
    signatures_refused: int = 0
    evidence_seen: int = 0
    refused: Counter[RejectionReason] = field(default_factory=Counter["RejectionReason"])
