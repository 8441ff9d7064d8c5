"""The command line of one node and its clients: exit codes, and how an error becomes one line.

Each module here exposes `add_commands(subparsers)`; a command sets `run=callable(args) -> int`.

| Code | Means |
|---|---|
| 0 | done |
| 1 | the operation failed, or an audit or verification found a lie |
| 2 | the command was typed wrongly |
| 3 | settings, home directory, port or clock forbid it; the message says what to change |
| 4 | nobody answered in time |
| 5 | the chain or a holder refused, with its reason |
| 6 | no such object, block or transaction |
| 130 | interrupted (Ctrl-C) |
"""

from __future__ import annotations

from enum import IntEnum

from consensus.errors import GrandestError, RejectionError
from node.errors import ConfigurationError, NotFoundError, PeerUnreachableError, RefusedError
from storage.errors import NotEnoughShardsError, ShardMissingError, WrongChainError


class ExitCode(IntEnum):
    """What a command returns to the shell."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    CONFIGURATION = 3
    UNREACHABLE = 4
    REFUSED = 5
    MISSING = 6
    INTERRUPTED = 130


class UsageError(GrandestError):
    """The words of the command line do not go together; the message says which are needed."""


def exit_code_of(error: GrandestError | OSError) -> ExitCode:
    """Return the exit code of an expected error: the one place where errors become codes."""
    match error:
        case UsageError():
            return ExitCode.USAGE
        case ConfigurationError() | WrongChainError():
            return ExitCode.CONFIGURATION
        case PeerUnreachableError() | NotEnoughShardsError():
            return ExitCode.UNREACHABLE
        case RejectionError() | RefusedError():
            return ExitCode.REFUSED
        case ShardMissingError() | NotFoundError():
            return ExitCode.MISSING
        case _:
            return ExitCode.FAILED
