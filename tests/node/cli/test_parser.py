"""Commands and their arguments are declared one way."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from node.cli.parser import (
    add_json_option,
    chosen_command,
    existing_directory,
    hex_digits,
    new_command,
    node_address,
    short_name,
    whole_number,
)


def show(arguments: argparse.Namespace) -> int:
    return 3 if arguments.json else 4


def parser_of() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="grandest")
    command = new_command(parser.add_subparsers(required=True), "show", "show a thing")
    add_json_option(command)
    command.add_argument("home", type=existing_directory)
    command.set_defaults(run=show)
    return parser


def test_a_command_line_names_what_runs(tmp_path: Path) -> None:
    for options, code in (([], 4), (["--json"], 3)):
        arguments = parser_of().parse_args(["show", *options, str(tmp_path)])
        assert chosen_command(arguments)(arguments) == code
        assert arguments.home == tmp_path.resolve()


def test_a_summary_is_also_the_description(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser_of().parse_args(["show", "--help"])
    assert "Show a thing." in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "-1", "11", "1.0", "0x1", "\N{ARABIC-INDIC DIGIT ONE}", "9" * 5_000, " 1", "1e1"])
def test_a_number_stays_within_its_bounds(text: str) -> None:
    read = whole_number("step", 0, 10)
    assert (read("0"), read("10")) == (0, 10)
    with pytest.raises(argparse.ArgumentTypeError, match="is no step: a whole number from 0 to 10 is needed"):
        read(text)


@pytest.mark.parametrize("text", ["", "00", "0" * 5, "zz" * 2, "00 00 00", "\udcff"])
def test_hex_has_its_length(text: str) -> None:
    read = hex_digits("mark", 2)
    assert read("00fF") == b"\x00\xff"
    with pytest.raises(argparse.ArgumentTypeError, match="is no mark: 4 hex digits are needed"):
        read(text)


@pytest.mark.parametrize("text", ["", "x" * 129, "a\nb", "\udcff"])
def test_a_name_is_short_and_printable(text: str) -> None:
    assert short_name("Épinal") == "Épinal"
    with pytest.raises(argparse.ArgumentTypeError):
        short_name(text)


def test_a_directory_must_be_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(SystemExit):
            parser_of().parse_args(["show", str(wrong)])
        assert f"{wrong} is not a directory" in capsys.readouterr().err


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/"])
def test_an_address_with_the_path_of_the_api_is_the_same_address(end: str) -> None:
    assert node_address(f"https://node.example:8080/seat-3{end}") == "https://node.example:8080/seat-3"


@pytest.mark.parametrize("text", ["127.0.0.1:80", "ftp://node", "http://", "http://a:0", "http://a/?q", "http://a/#f"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no address of a node"):
        node_address(text)
