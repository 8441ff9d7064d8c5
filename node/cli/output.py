"""What a command shows: results on stdout, progress and errors on stderr, JSON on request."""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final, Self, TypeAlias

Json: TypeAlias = str | int | float | bool | Sequence["Json"] | Mapping[str, "Json"] | None

BAR_CELLS: Final = 24
REDRAW_SECONDS: Final = 0.1
"""A terminal is redrawn ten times a second at most."""
LINE_SECONDS: Final = 5.0
"""Where stderr is no terminal (a log), one line in five seconds is enough."""
BYTE_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")
UNIT_STEP: Final = 1024
SECONDS_MIN: Final = 1e-6
"""What a clock may show as no time at all."""


def print_json(value: Json) -> None:
    """Print one JSON value and a line end on stdout."""
    is_unicode = sys.stdout.encoding.lower().startswith("utf")
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=not is_unicode) + "\n")


def print_result(arguments: Namespace, value: Json, *lines: str) -> None:
    """Print what a command found: JSON where it is asked for, else lines for people, each escaped."""
    if arguments.json:
        print_json(value)
        return
    for line in lines:
        print_line(one_line(line))


def print_line(text: str) -> None:
    """Print one line of result on stdout."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """Print one line for the person who waits, on stderr."""
    _write_note(text + "\n")


def _write_note(text: str) -> None:
    """Write to stderr; when nobody can read it any more, what the command does goes on without words."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        # Also not while Python exits: it would end with a code of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def print_error(text: str) -> None:
    """Print an error as one line on stderr, whatever it contains."""
    note(one_line("grandest: " + " ".join(text.split())))


def one_line(text: str) -> str:
    """Escape what would steer a terminal or end the line: names come from whoever wrote a bucket."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def error_text(error: Exception) -> str:
    """Return what an error says to people: of the system's errors the file and the reason, no number."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"


def print_table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows in aligned columns under a heading, on stdout."""
    widths = [max(len(row[column]) for row in (heading, *rows)) for column in range(len(heading))]
    for row in (heading, *rows):
        print_line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def bytes_text(count: int) -> str:
    """Return a byte count for people: 1536 is `1.5 KiB`."""
    amount = float(count)
    for unit in BYTE_UNITS[:-1]:
        if amount < UNIT_STEP:
            return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= UNIT_STEP
    return f"{amount:.1f} {BYTE_UNITS[-1]}"


def rate_text(byte_count: int, seconds: float) -> str:
    """Return how fast bytes moved, for people: `1.5 MiB/s`."""
    return f"{bytes_text(round(byte_count / max(seconds, SECONDS_MIN)))}/s"


def counted(count: int, noun: str) -> str:
    """Return a count and its noun: `1 object`, `2 objects`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def clock_text(moment_ms: int) -> str:
    """Return a moment of 1970's milliseconds as the clock on the wall says it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment_ms / 1_000))


class Measure(Enum):
    """What a progress bar counts."""

    STEPS = "steps"
    BYTES = "bytes"


class Progress:
    """A bar on stderr: redrawn in place on a terminal, a line now and then elsewhere.

    Used as a context manager; on leaving, the last state stays on the screen.
    """

    def __init__(self, label: str, total: int, measure: Measure = Measure.STEPS) -> None:
        """Begin a bar over `total` steps or bytes."""
        self._label = label
        self._total = total
        self._measure = measure
        self._done = 0
        self._began = self._drawn = time.monotonic()
        self._is_terminal = sys.stderr.isatty()

    def __enter__(self) -> Self:
        """Draw the empty bar."""
        self._draw()
        return self

    def __exit__(self, *_: object) -> None:
        """Draw the last state and end the line."""
        self._draw()
        if self._is_terminal:
            _write_note("\n")

    def advance(self, steps: int) -> None:
        """Add what has been done; draws when enough time has passed."""
        self._done += steps
        now = time.monotonic()
        if now - self._drawn >= (REDRAW_SECONDS if self._is_terminal else LINE_SECONDS):
            self._drawn = now
            self._draw()

    def _draw(self) -> None:
        seconds = time.monotonic() - self._began
        if self._measure is Measure.BYTES:
            amount = f"{bytes_text(self._done)} of {bytes_text(self._total)}"
        else:
            amount = f"{self._done} of {self._total}"
        filled = BAR_CELLS if self._total <= 0 else min(BAR_CELLS, BAR_CELLS * self._done // self._total)
        bar = "#" * filled + "." * (BAR_CELLS - filled)
        text = f"{self._label} [{bar}] {amount}, {seconds:.0f} s"
        _write_note(f"\r\x1b[K{text}" if self._is_terminal else f"{text}\n")
