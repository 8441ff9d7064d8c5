"""`grandest node run`: one operator's node in the foreground."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from node.cli import ExitCode
from node.cli.parser import Commands, existing_directory, new_command

if TYPE_CHECKING:
    from collections.abc import Callable


def add_commands(commands: Commands) -> None:
    """Mount `node run`."""
    parser = new_command(commands, "node", "one operator's node")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    run = new_command(actions, "run", "run the node of a home directory until it is stopped (Ctrl-C, SIGTERM)")
    run.add_argument(
        "--home", required=True, type=existing_directory, metavar="DIR", help="holds config.toml, genesis and keys/"
    )
    run.set_defaults(run=run_node)


def run_node(arguments: Namespace) -> int:
    """Run a node until it is told to stop."""
    from node.runner import run

    start: Callable[[Path], None] = run
    start(arguments.home)
    return ExitCode.DONE
