"""`grandest put, get, ls, rm, stat, verify`: objects in and out with the native client.

`--home DIR` is a testnet's home; only its client/ folder is read. `--node URL --keys DIR` is for everywhere else: DIR
holds signing, master, tenant and genesis (node/client/home.py).
"""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from node.cli import ExitCode, UsageError
from node.cli.output import bytes_text, counted, note, one_line, print_json, print_result
from node.cli.parser import Commands, add_json_option, new_command, node_address

if TYPE_CHECKING:
    from node.cli.output import Json
    from node.client import Client, ClientHome

    Work = Callable[[Client], Awaitable[int]]


def add_commands(commands: Commands) -> None:
    """Mount the object commands."""
    put = _command(commands, "put", "store a file, `-` (standard input) or a directory", put_objects)
    put.add_argument("path", metavar="PATH")
    put.add_argument("place", metavar="BUCKET/KEY", help="a directory's files get KEY/their path as names")
    get = _command(commands, "get", "read an object, or all objects under a prefix", get_objects)
    get.add_argument("place", metavar="BUCKET/KEY", help="with a / at the end, or a bucket alone: all under it")
    get.add_argument("path", metavar="PATH", help="a file, `-` (standard output) or, for a prefix, a directory")
    listing = _command(commands, "ls", "list buckets, or the objects under a prefix", list_objects)
    listing.add_argument("place", metavar="BUCKET[/PREFIX]", nargs="?", default="")
    remove = _command(commands, "rm", "delete an object, or all under a prefix", remove_objects)
    remove.add_argument("place", metavar="BUCKET/KEY")
    remove.add_argument("-r", "--recursive", action="store_true", help="all objects whose names begin so")
    stat = _command(commands, "stat", "ask the holders what they have of an object now", stat_object)
    stat.add_argument("place", metavar="BUCKET/KEY")
    verify = _command(commands, "verify", "prove an object from the members' signatures alone", verify_object)
    verify.add_argument("place", metavar="BUCKET/KEY")


def put_objects(arguments: Namespace) -> int:
    """Store a file, standard input or a tree."""
    from node.cli.object_work import put_tree

    place = _place(arguments)
    return _run(arguments, lambda client: put_tree(client, _text(arguments, "path"), place, _show(arguments)))


def get_objects(arguments: Namespace) -> int:
    """Read an object or a tree."""
    from node.cli.object_work import get_tree

    place = _place(arguments)
    return _run(arguments, lambda client: get_tree(client, place, _text(arguments, "path"), _show(arguments)))


def list_objects(arguments: Namespace) -> int:
    """List buckets or objects."""
    place = _text(arguments, "place")
    bucket, _, prefix = place.partition("/")

    async def work(client: Client) -> int:
        if not bucket:
            names = [found.settings.name for found in await client.buckets.listing()]
            print_result(arguments, [{"bucket": name} for name in names], *names)
            return ExitCode.DONE
        found = [listed async for listed in client.listing(bucket, prefix)]
        if not found:
            await client.buckets.open(bucket)  # says so when there is none
        found.sort(key=lambda listed: listed.path)
        rows: list[Json] = [
            {
                "path": listed.path,
                "bytes": listed.object_record.plain_bytes,
                "modified_ms": listed.object_record.modified_ms,
                "version": listed.opened.entry.version_id.hex(),
            }
            for listed in found
        ]
        lines = [f"{bytes_text(listed.object_record.plain_bytes):>10}  {listed.path}" for listed in found]
        print_result(arguments, rows, *lines)
        return ExitCode.DONE

    return _run(arguments, work)


def remove_objects(arguments: Namespace) -> int:
    """Delete an object, or all under a prefix."""
    from node.cli.object_work import remove_tree

    bucket, name = _place(arguments)
    is_recursive = cast("bool", arguments.recursive)

    async def work(client: Client) -> int:
        if is_recursive:
            removed = await remove_tree(client, bucket, name)
        else:
            await client.open(bucket, name)  # says so when there is none
            await client.delete(bucket, [name])
            removed = 1
        print_result(arguments, {"removed": removed}, f"{counted(removed, 'object')} removed")
        return ExitCode.DONE

    return _run(arguments, work)


def stat_object(arguments: Namespace) -> int:
    """Show an object's columns as its holders have them now."""
    from node.cli.object_work import status_json, status_lines

    bucket, name = _place(arguments)

    async def work(client: Client) -> int:
        status = await client.stat(await client.open(bucket, name))
        print_result(arguments, status_json(status), *status_lines(status))
        return ExitCode.DONE

    return _run(arguments, work)


def verify_object(arguments: Namespace) -> int:
    """Check an object's proofs, record and columns; exit 1 when a node lied."""
    from consensus.errors import RejectionError
    from node.cli.object_work import proven_json, proven_lines

    bucket, name = _place(arguments)

    async def work(client: Client) -> int:
        try:
            proven = await client.verify(bucket, name)
        except RejectionError as error:
            print_result(
                arguments, {"verified": False, "reason": str(error)}, f"{bucket}/{name}: NOT verified: {error}"
            )
            return ExitCode.FAILED
        print_result(arguments, proven_json(proven), *proven_lines(proven))
        return ExitCode.DONE

    return _run(arguments, work)


def _command(commands: Commands, name: str, summary: str, run: Callable[[Namespace], int]) -> argparse.ArgumentParser:
    parser = new_command(commands, name, summary)
    parser.add_argument("--home", type=Path, metavar="DIR", help="a testnet's home")
    parser.add_argument("--node", type=node_address, metavar="URL", help="any live node's API")
    parser.add_argument("--keys", type=Path, metavar="DIR", help="the client's own folder")
    add_json_option(parser)
    parser.set_defaults(run=run)
    return parser


def _run(arguments: Namespace, work: Work) -> int:
    """Open the client, do the work, close it."""
    from node.client import open_client
    from node.nurseries import run_plainly

    home = _client_home(arguments)

    async def session() -> int:
        async with open_client(home) as client:
            return await work(client)

    return run_plainly(session)


def _client_home(arguments: Namespace) -> ClientHome:
    from node.client import read_client_home

    home = cast("Path | None", arguments.home)
    node = cast("str | None", arguments.node)
    keys = cast("Path | None", arguments.keys)
    if home is not None and node is None and keys is None:
        return read_client_home(home / "client")
    if home is None and node is not None and keys is not None:
        return read_client_home(keys, (node,))
    raise UsageError("give either --home DIR of a testnet, or --node URL and --keys DIR")


def _place(arguments: Namespace) -> tuple[str, str]:
    bucket, _, name = _text(arguments, "place").partition("/")
    if not bucket:
        raise UsageError("an object is named BUCKET/KEY")
    return bucket, name


def _text(arguments: Namespace, name: str) -> str:
    return cast("str", getattr(arguments, name))


def _show(arguments: Namespace) -> Callable[[Json, str], None]:
    """Return what prints a result: JSON on stdout, or a line for people on stderr."""
    is_json = cast("bool", arguments.json)

    def show(value: Json, line: str) -> None:
        if is_json:
            print_json(value)
        else:
            note(one_line(line))

    return show
