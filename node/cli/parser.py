"""Typed argparse: how commands and their arguments are declared, one way everywhere."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeAlias, cast
from urllib.parse import urlsplit

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


def chosen_command(arguments: argparse.Namespace) -> Command:
    """Return what the parsed command line wants to run."""
    return cast("Command", arguments.run)
