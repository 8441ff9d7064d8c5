"""Typed argparse: how commands and their arguments are declared, one way everywhere."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, TypeAlias, cast
from urllib.parse import urlsplit

from consensus.identifiers import MEMBERS_MAX

NAME_CHARACTERS_MAX: Final = 128
NUMBER_DIGITS_MAX: Final = 16
"""Digits of 2^53: more are read as no number."""

Command: TypeAlias = Callable[[argparse.Namespace], int]
"""A command takes its parsed arguments and returns an ExitCode."""


class Commands(Protocol):
    """What ArgumentParser.add_subparsers returns; argparse gives it no public name."""

    def add_parser(self, name: str, *, help: str, description: str) -> argparse.ArgumentParser:  # noqa: A002 (argparse's)
        """Add a command."""
        ...


def new_command(commands: Commands, name: str, summary: str) -> argparse.ArgumentParser:
    """Add a command whose one-line summary is also its description."""
    return commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")


def existing_directory(text: str) -> Path:
    """Read an argument that names a directory which must exist."""
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a directory")
    return path.resolve()


def node_address(text: str) -> str:
    """Read an argument that names a node's API; `/` or `/v1/` at its end means nothing."""
    try:
        parts = urlsplit(text)
        is_address = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        is_address = is_address and not parts.query and not parts.fragment
    except ValueError:
        is_address = False
    if not is_address:
        raise argparse.ArgumentTypeError(f"{text!r} is no address of a node, such as http://127.0.0.1:8080")
    return text.rstrip("/").removesuffix("/v1").rstrip("/")


def whole_number(what: str, least: int, most: int) -> Callable[[str], int]:
    """Return what reads an argument that is a whole number between two bounds, both allowed."""

    def read(text: str) -> int:
        digits = text.removeprefix("-")
        is_number = digits.isascii() and digits.isdigit() and len(digits) <= NUMBER_DIGITS_MAX
        if not is_number or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is no {what}: a whole number from {least} to {most} is needed")
        return int(text)

    return read


def hex_digits(what: str, byte_count: int) -> Callable[[str], bytes]:
    """Return what reads an argument that is so many bytes in hex."""

    def read(text: str) -> bytes:
        try:
            found = bytes.fromhex(text)
        except ValueError:
            found = b""
        if len(found) != byte_count:
            raise argparse.ArgumentTypeError(f"{text!r} is no {what}: {2 * byte_count} hex digits are needed")
        return found

    return read


def short_name(text: str) -> str:
    """Read an argument that is a name or an address of a seat, as genesis and offers carry it."""
    if not 0 < len(text) <= NAME_CHARACTERS_MAX or not text.isprintable():
        raise argparse.ArgumentTypeError(f"1 to {NAME_CHARACTERS_MAX} printable characters are needed")
    return text


seat_number: Final = whole_number("seat", 0, MEMBERS_MAX - 1)
port_number: Final = whole_number("port", 1, 65_535)
byte_number: Final = whole_number("number of bytes", 0, 2**53 - 1)
genesis_hash: Final = hex_digits("genesis hash", 32)


def chosen_command(arguments: argparse.Namespace) -> Command:
    """Return what the parsed command line wants to run."""
    return cast("Command", arguments.run)
