"""What the commands of `grandest tenant` share: arguments, the passphrase, the folder, an operator's signature."""

from __future__ import annotations

import getpass
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from node.cli import UsageError
from node.cli.parser import Commands, add_json_option, hex_digits, new_command, node_address

if TYPE_CHECKING:
    from node.cli.tenant_work import OwnerFolder
    from storage.identifiers import TenantId
    from storage.transactions import Body

ResultT = TypeVar("ResultT")

HANDLE_BYTES: Final = 16
KEY_BYTES: Final = 32
BUCKET_NAME_BYTES_MAX: Final = 63

tenant_handle: Final = hex_digits("tenant", HANDLE_BYTES)
public_key: Final = hex_digits("public key", KEY_BYTES)


def bucket_name(text: str) -> str:
    """Read an argument that names a bucket."""
    try:
        byte_count = len(text.encode())
    except UnicodeEncodeError:
        byte_count = 0
    if not 0 < byte_count <= BUCKET_NAME_BYTES_MAX:
        raise ArgumentTypeError(f"a bucket's name has 1 to {BUCKET_NAME_BYTES_MAX} bytes of Unicode text")
    return text


def add_action(commands: Commands, name: str, summary: str, run: Callable[[Namespace], int]) -> ArgumentParser:
    """Add a command of tenants."""
    parser = new_command(commands, name, summary)
    add_json_option(parser)
    parser.set_defaults(run=run)
    return parser


def add_owner_action(commands: Commands, name: str, summary: str, run: Callable[[Namespace], int]) -> ArgumentParser:
    """Add a command that opens the owner's folder."""
    parser = add_action(commands, name, summary, run)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the owner's folder")
    parser.add_argument("--node", type=node_address, metavar="URL", help="instead of the folder's nodes")
    add_passphrase(parser)
    return parser


def add_node(parser: ArgumentParser) -> None:
    """Add `--node`."""
    parser.add_argument("--node", type=node_address, metavar="URL", required=True, help="any live node's API")


def add_operator(parser: ArgumentParser) -> None:
    """Add `--operator` and `--tenant`: what an operator signs, about whom."""
    parser.add_argument("--operator", type=Path, metavar="HOME", required=True, help="the home of the operator's node")
    parser.add_argument("--tenant", type=tenant_handle, metavar="TENANT", required=True)


def add_passphrase(parser: ArgumentParser) -> None:
    """Add `--passphrase-file`."""
    parser.add_argument(
        "--passphrase-file", type=Path, metavar="FILE", help="one line, mode 0600; else it is asked for"
    )


def opened_folder(arguments: Namespace) -> OwnerFolder:
    """Open the owner's folder with its passphrase."""
    from node.cli.tenant_work import open_folder

    return open_folder(arguments.folder, _passphrase(arguments), arguments.node)


def new_passphrase(arguments: Namespace) -> bytes:
    """Ask for the passphrase of a new keystore, twice on a terminal."""
    first = _passphrase(arguments)
    if arguments.passphrase_file is None and _asked("again: ") != first:
        raise UsageError("the two passphrases differ")
    return first


def sign_for_seat(operator: Path, tenant: TenantId, body: Body) -> None:
    """Sign for the seat of a node's home, and wait until the chain carries it."""
    from node.cli.tenant_work import sign_as_operator

    run_work(sign_as_operator(operator, tenant, body))


def run_work(work: Coroutine[object, object, ResultT]) -> ResultT:
    """Run work in trio; errors arrive as themselves."""
    from node.nurseries import run_plainly

    async def session() -> ResultT:
        return await work

    return run_plainly(session)


def _passphrase(arguments: Namespace) -> bytes:
    from node.keystore import read_passphrase

    if arguments.passphrase_file is not None:
        return read_passphrase(arguments.passphrase_file)
    if not sys.stdin.isatty():
        raise UsageError("no terminal to ask for the passphrase: name a file with --passphrase-file")
    return _asked("passphrase: ")


def _asked(prompt: str) -> bytes:
    try:
        return getpass.getpass(prompt).encode()
    except EOFError:
        raise UsageError("no passphrase was given") from None
    except UnicodeEncodeError:
        raise UsageError("the passphrase is not text of this terminal's encoding") from None
