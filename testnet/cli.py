"""The console script `grandest`: mounts every group of commands, and turns errors into one line and an exit code.

Groups are imported by name; each must import what is heavy (libp2p, trio, LevelDB) inside its commands, so that the
script starts in under half a second. Exit codes: node/cli/__init__.py.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol, cast

from consensus.errors import GrandestError
from node.cli import ExitCode, exit_code_of
from node.cli.output import error_text, print_error
from node.cli.parser import Commands, chosen_command

if TYPE_CHECKING:
    import io

GROUPS: Final = (
    "testnet.commands",
    "testnet.demo",
    "testnet.bench.commands",
    "testnet.simulation.command",
    "node.cli.node",
    "node.cli.operator",
    "node.cli.gateway",
    "node.cli.objects",
    "node.cli.tenants",
    "node.cli.audit",
    "node.cli.durability",
)
"""In the order of the help; a group that is not installed is left out."""
EPILOGUE: Final = """exit codes: 0 done, 1 failed or a lie was found, 2 wrong usage, 3 settings or home directory,
4 nobody answered, 5 refused, 6 not found, 130 interrupted"""


class CommandGroup(Protocol):
    """What a module of commands offers."""

    def add_commands(self, commands: Commands) -> None:
        """Add the module's commands."""
        ...


class OneLineParser(argparse.ArgumentParser):
    """An argparse parser that reports a wrong command line in one line."""

    def error(self, message: str) -> None:  # type: ignore[override]  # argparse's own never returns either
        """Exit with USAGE, saying what was wrong and where help is."""
        print_error(f"{message}; see `{self.prog} --help`")
        sys.exit(ExitCode.USAGE)


def main(words: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    if not __debug__:
        print_error("python -O removes the checks that keep this node honest: run it without -O")
        return ExitCode.CONFIGURATION
    _prepare_streams()
    try:
        arguments = command_parser().parse_args(words)
        code = chosen_command(arguments)(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone: nothing more to say, also not while Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except GrandestError as error:
        from node.cli.remedies import explained

        print_error(explained(error))
        return exit_code_of(error)
    except OSError as error:
        print_error(error_text(error))
        return exit_code_of(error)
    return code


def _prepare_streams() -> None:
    """Write to nowhere what was closed for us, and escape what the terminal's encoding lacks."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 (stays open, as the closed one would)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 (as above)
    if hasattr(sys.stdout, "reconfigure"):
        cast("io.TextIOWrapper", sys.stdout).reconfigure(errors="backslashreplace")


def command_parser() -> argparse.ArgumentParser:
    """Return the parser of every installed group."""
    parser = OneLineParser(
        prog="grandest",
        description="Nine hosting companies keep their customers' data together.",
        epilog=EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in GROUPS:
        if importlib.util.find_spec(name) is not None:
            cast("CommandGroup", importlib.import_module(name)).add_commands(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
