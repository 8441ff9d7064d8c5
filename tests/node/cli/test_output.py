"""Results on stdout, everything else on stderr; each error one line, whatever it contains."""

from __future__ import annotations

import errno
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.cli import output
from node.cli.output import (
    Json,
    Measure,
    Progress,
    bytes_text,
    counted,
    error_text,
    note,
    one_line,
    print_error,
    print_json,
    print_line,
    print_table,
    rate_text,
)


def test_results_and_notes_go_their_own_ways(capsys: pytest.CaptureFixture[str]) -> None:
    print_line("result")
    note("progress")
    assert capsys.readouterr() == ("result\n", "progress\n")


def test_json_comes_back_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    value: Json = {"name": "Straße 🔥", "sizes": [1, 2.5, None, True], "none": {}}
    print_json(value)
    shown, nothing = capsys.readouterr()
    assert (json.loads(shown), nothing) == (value, "")
    assert "Straße" in shown
    assert shown.endswith("}\n")


@pytest.mark.parametrize("text", ["plain", "two\nlines", "  a\t\tb \r\n c ", ""])
def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str], text: str) -> None:
    print_error(text)
    shown, error = capsys.readouterr()
    assert (shown, error.count("\n")) == ("", 1)
    assert error.rstrip("\n") == ("grandest: " + " ".join(text.split()))


def test_columns_are_as_wide_as_their_widest_cell(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("NAME", "BYTES"), [("a", "1"), ("longer", "22")])
    print_table(("NAME", "BYTES"), [])
    assert capsys.readouterr().out == "NAME    BYTES\na       1\nlonger  22\nNAME  BYTES\n"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1_023, "1023 B"),
        (1_024, "1.0 KiB"),
        (1_536, "1.5 KiB"),
        (5 * 1024**2, "5.0 MiB"),
        (1024**4, "1.0 TiB"),
        (5000 * 1024**4, "5000.0 TiB"),
    ],
)
def test_bytes_are_said_for_people(count: int, text: str) -> None:
    assert bytes_text(count) == text


@given(st.integers(0, 2**60))
def test_a_byte_count_is_short(count: int) -> None:
    assert len(bytes_text(count)) <= len("1048576.0 TiB")


@pytest.mark.parametrize(
    ("byte_count", "seconds", "text"),
    [(0, 0.5, "0 B/s"), (8, 2.0, "4 B/s"), (3 * 1024**2, 2.0, "1.5 MiB/s"), (1, 0.0, "976.6 KiB/s")],
)
def test_a_rate_is_said_in_the_unit_that_shows_it(byte_count: int, seconds: float, text: str) -> None:
    assert rate_text(byte_count, seconds) == text


def test_a_full_error_output_costs_words_alone() -> None:
    command = "from node.cli.output import Progress, note\nnote('said')\nwith Progress('work', 1): print('done')"
    with Path("/dev/full").open("wb") as full:
        silent = subprocess.run((sys.executable, "-c", command), stdout=subprocess.PIPE, stderr=full, check=False)
    assert (silent.returncode, silent.stdout) == (0, b"done\n")


def test_one_thing_is_not_many() -> None:
    assert [counted(count, "object") for count in (0, 1, 2)] == ["0 objects", "1 object", "2 objects"]


class Screen(io.StringIO):
    """A stderr that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_bar_in_a_log_is_a_line_at_each_end(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("rebuild", 4) as progress:
        for _ in range(4):
            progress.advance(1)
    shown, log = capsys.readouterr()
    assert shown == ""
    assert log.splitlines() == [
        f"rebuild [{'.' * 24}] 0 of 4, 0 s",
        f"rebuild [{'#' * 24}] 4 of 4, 0 s",
    ]


def test_a_bar_on_a_terminal_is_drawn_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr(output, "REDRAW_SECONDS", 0.0)
    with Progress("put", 2048, Measure.BYTES) as progress:
        progress.advance(1024)
        progress.advance(5000)
    drawn = screen.getvalue().split("\r\x1b[K")
    assert drawn[0] == ""
    assert drawn[2] == f"put [{'#' * 12}{'.' * 12}] 1.0 KiB of 2.0 KiB, 0 s"
    assert "[" + "#" * 24 + "]" in drawn[3]
    assert screen.getvalue().count("\n") == 1


def test_nothing_to_do_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("none", 0):
        pass
    assert "[" + "#" * 24 + "] 0 of 0" in capsys.readouterr().err


def test_a_name_neither_steers_the_terminal_nor_ends_the_line() -> None:
    assert one_line("papers/\x1b[31mred\nline\t\udcff é 名") == r"papers/\x1b[31mred\nline\t\udcff é 名"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError(errno.EISDIR, "Is a directory", "all/e"), "all/e: Is a directory"),
        (OSError("no number"), "no number"),
        (ValueError("other"), "other"),
    ],
)
def test_a_system_error_is_its_file_and_reason(error: Exception, said: str) -> None:
    assert error_text(error) == said


def test_json_is_json_in_every_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding in ("ascii", "latin-1", "utf-8"):
        written = io.BytesIO()
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding=encoding, errors="backslashreplace"))
        print_json("é名\udcff")
        sys.stdout.flush()
        assert json.loads(written.getvalue().decode(encoding)) == "é名\udcff"
