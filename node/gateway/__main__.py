"""`python -m node.gateway HOME NODE`: a gateway that ends with its standard input, as a node starts it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from consensus.errors import GrandestError
from node.cli import ExitCode, exit_code_of
from node.cli.output import print_error
from node.gateway.gateway import run


def main() -> int:
    """Run until the input ends, and return an exit code."""
    try:
        run(Path(sys.argv[1]), tuple(sys.argv[2:]), wait_for_end=_wait_for_end)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except GrandestError as error:
        print_error(str(error))
        return exit_code_of(error)
    return ExitCode.DONE


def _wait_for_end() -> None:
    os.read(sys.stdin.fileno(), 1)  # no lock of Python's is held meanwhile


if __name__ == "__main__":
    sys.exit(main())
