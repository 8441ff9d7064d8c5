"""`grandest gateway run`: S3 over HTTP for the tenants whose homes it is given, beside a node or far from any."""

from __future__ import annotations

from typing import TYPE_CHECKING

from node.cli import ExitCode
from node.cli.parser import Commands, existing_directory, new_command, node_address

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable


def add_commands(commands: Commands) -> None:
    """Mount `gateway run`."""
    parser = new_command(commands, "gateway", "S3 over HTTP in front of the nine")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    run = new_command(actions, "run", "run a gateway until it is stopped (Ctrl-C, SIGTERM)")
    run.add_argument(
        "--home", required=True, type=existing_directory, metavar="DIR", help="holds gateway.toml and tenants/"
    )
    run.add_argument("--node", type=node_address, metavar="URL", help="the node to ask first; any of the nine will do")
    run.add_argument("--until-input-ends", action="store_true", help="stop as well when standard input ends")
    run.set_defaults(run=run_gateway)


def run_gateway(arguments: Namespace) -> int:
    """Run a gateway until it is told to stop."""
    import os
    import sys

    from node.gateway.gateway import run

    def wait_for_end() -> None:
        os.read(sys.stdin.fileno(), 1)  # no lock of Python's is held meanwhile

    nodes = () if arguments.node is None else (arguments.node,)
    wait: Callable[[], None] | None = wait_for_end if arguments.until_input_ends else None
    run(arguments.home, nodes, wait_for_end=wait)
    return ExitCode.DONE
