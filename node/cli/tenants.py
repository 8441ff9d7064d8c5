"""`grandest tenant`: tenants registered by their operators, and what their owners do with keys, gateways and escrow.

Secrets are kept in the owner's folder under a passphrase; no command prints one, or takes one as an argument.
"""

from __future__ import annotations

import getpass
import secrets
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from node.cli import ExitCode, UsageError
from node.cli.output import Json, bytes_text, counted, print_error, print_json, print_line
from node.cli.parser import Commands, add_json_option, new_command, node_address

if TYPE_CHECKING:
    from consensus.identifiers import Milliseconds, PublicKey
    from node.cli.tenant_work import OwnerFolder
    from node.client.tenant_chain import TenantView
    from storage.identifiers import TenantId
    from storage.transactions import Body

ResultT = TypeVar("ResultT")

HANDLE_BYTES: Final = 16
KEY_BYTES: Final = 32
DAY_MS: Final = 86_400_000
ACCESS_KEY_BYTES: Final = 9
ACCESS_SECRET_BYTES: Final = 20
UNLIMITED: Final = 2**53 - 1


def add_commands(commands: Commands) -> None:
    """Mount the commands of tenants."""
    parser = new_command(commands, "tenant", "tenants: registered, given keys, moved, put in escrow, recovered")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    _add_registration(actions)
    _add_owner(actions)
    _add_gateways(actions)
    _add_recovery(actions)


def _add_registration(actions: Commands) -> None:
    create = _action(
        actions, "create", "draw a tenant's keys into a new folder, and register it if an operator signs", create_tenant
    )
    create.add_argument("folder", type=Path, metavar="DIR")
    create.add_argument("--genesis", type=Path, metavar="FILE", required=True, help="the chain's, from an operator")
    create.add_argument("--operator", type=Path, metavar="HOME", help="the home of the operator's node, on its machine")
    create.add_argument("--quota", type=int, metavar="BYTES", default=UNLIMITED)
    _add_node(create)
    _add_passphrase(create)
    register = _action(actions, "register", "take on a tenant at this operator's seat", register_tenant)
    _add_operator(register)
    register.add_argument("--public-key", type=_public_key, metavar="KEY", required=True)
    register.add_argument("--quota", type=int, metavar="BYTES", default=UNLIMITED)
    quota = _action(actions, "quota", "set how many bytes a tenant of this operator may store", set_quota)
    _add_operator(quota)
    quota.add_argument("--quota", type=int, metavar="BYTES", required=True)
    shown = _action(actions, "show", "what the chain knows of a tenant", show_tenant)
    shown.add_argument("tenant", type=_tenant, metavar="TENANT")
    _add_node(shown)
    add_json_option(shown)


def _add_owner(actions: Commands) -> None:
    client = _owner_action(
        actions, "client", "write the home of the owner's own client, for put, get and the others", write_client
    )
    client.add_argument("home", type=Path, metavar="HOME")
    keys = _owner_action(actions, "keys", "list, add or remove S3 access keys", change_keys)
    keys.add_argument("--add", type=Path, metavar="FILE", help="draw one, and write it there as S3 tools read it")
    keys.add_argument(
        "--bucket", action="append", metavar="BUCKET", help="what the new key may use; all if none is named"
    )
    keys.add_argument(
        "--verb", action="append", metavar="VERB", help="read, write, list, delete, administer; all if none"
    )
    keys.add_argument("--days", type=int, metavar="N", help="until it expires")
    keys.add_argument("--remove", metavar="ACCESS_KEY")
    add_json_option(keys)
    move = _owner_action(actions, "move", "choose another home operator; no byte moves", move_tenant)
    move.add_argument("seat", type=int, metavar="SEAT")
    escrow = _owner_action(actions, "escrow", "split the master keys among the operators", set_escrow)
    escrow.add_argument("--leave", action="store_true", help="erase the shares")


def _add_gateways(actions: Commands) -> None:
    identity = _action(actions, "identity", "draw a gateway's key for one tenant; the tenant grants it", make_identity)
    identity.add_argument("folder", type=Path, metavar="FOLDER")
    identity.add_argument("--genesis", type=Path, metavar="FILE", required=True)
    _add_node(identity)
    grant = _owner_action(
        actions, "grant", "let a gateway act for the tenant, with its keys sealed to it", grant_gateway
    )
    grant.add_argument("identity", type=Path, metavar="IDENTITY", help="the file that `identity` made in FOLDER")
    receive = _action(actions, "receive", "fill a gateway's folder with what its tenant has sealed to it", receive_keys)
    receive.add_argument("folder", type=Path, metavar="FOLDER")
    _add_node(receive)
    revoke = _owner_action(actions, "revoke", "take a grant back and start a new master key", revoke_gateway)
    revoke.add_argument("public_key", type=_public_key, metavar="KEY")


def _add_recovery(actions: Commands) -> None:
    parser = new_command(actions, "recover", "a tenant that has lost its keys")
    steps = parser.add_subparsers(metavar="STEP", required=True)
    begin = _action(steps, "begin", "draw the key that is to be the tenant's", begin_recovery)
    begin.add_argument("folder", type=Path, metavar="DIR")
    begin.add_argument("--tenant", type=_tenant, metavar="TENANT", required=True)
    begin.add_argument("--genesis", type=Path, metavar="FILE", required=True)
    _add_node(begin)
    _add_passphrase(begin)
    for name, summary, run in (
        ("announce", "announce that key on chain, for an operator", announce_recovery),
        ("approve", "after the delay: hand this operator's share over to it", approve_recovery),
    ):
        step = _action(steps, name, summary, run)
        _add_operator(step)
        step.add_argument("--public-key", type=_public_key, metavar="KEY", required=True)
    _owner_action(steps, "finish", "put the keys together from the shares that were handed over", finish_recovery)
    _owner_action(steps, "cancel", "stop every recovery: the keys are not lost", cancel_recovery)


def create_tenant(arguments: Namespace) -> int:
    """Draw a tenant's keys, and register it if its operator's home is here."""
    from node.cli.tenant_work import create_folder, new_owner
    from storage.identifiers import TenantId

    tenant = TenantId(secrets.token_bytes(HANDLE_BYTES))
    owner_secrets = new_owner(tenant)
    create_folder(arguments.folder, owner_secrets, _new_passphrase(arguments), arguments.genesis, arguments.node)
    public_key = owner_secrets.signing_key.public
    if arguments.operator is None:
        print_line(f"tenant {tenant.hex()}; your operator registers it by")
        print_line(f"grandest tenant register --operator HOME --tenant {tenant.hex()} --public-key {public_key.hex()}")
        return ExitCode.DONE
    _register(arguments.operator, tenant, public_key, arguments.quota)
    print_line(f"tenant {tenant.hex()} is registered")
    return ExitCode.DONE


def register_tenant(arguments: Namespace) -> int:
    """Register a tenant at this operator's seat."""
    _register(arguments.operator, arguments.tenant, arguments.public_key, arguments.quota)
    print_line(f"tenant {arguments.tenant.hex()} is registered")
    return ExitCode.DONE


def set_quota(arguments: Namespace) -> int:
    """Set a tenant's quota."""
    from storage.tenant_changes import SetQuota

    _sign(arguments.operator, arguments.tenant, SetQuota(tenant=arguments.tenant, quota_bytes=arguments.quota))
    print_line(f"{bytes_text(arguments.quota)} for tenant {arguments.tenant.hex()}")
    return ExitCode.DONE


def show_tenant(arguments: Namespace) -> int:
    """Print what the chain knows of a tenant."""
    from node.cli.tenant_work import show

    view = _run(show(arguments.tenant, arguments.node))
    if view is None:
        print_error(f"no tenant {arguments.tenant.hex()}")
        return ExitCode.MISSING
    if arguments.json:
        print_json(_view_json(view))
        return ExitCode.DONE
    quota = "no quota" if view.quota_bytes == UNLIMITED else f"of {bytes_text(view.quota_bytes)}"
    print_line(f"home      seat {view.home}")
    print_line(f"stored    {bytes_text(view.segment_bytes)} {quota}, {counted(view.entry_count, 'version')}")
    for grant in view.grants:
        print_line(f"grant     {grant.public_key.hex()}{'' if grant.keys is None else ' with keys'}")
    print_line(f"escrow    {'none' if view.escrow is None else f'{len(view.escrow.commitments)} shares'}")
    return ExitCode.DONE


def write_client(arguments: Namespace) -> int:
    """Write the home of the owner's own client."""
    from node.cli import tenant_work

    _run(tenant_work.write_client(_opened(arguments), arguments.home))
    print_line(f"grandest put FILE BUCKET/KEY --node URL --keys {arguments.home}")
    return ExitCode.DONE


def change_keys(arguments: Namespace) -> int:
    """List, add or remove access keys."""
    from node.cli.tenant_work import open_owner, write_credentials
    from storage.tenant_records import AccessKeyRecord, AccessVerb

    opened = _opened(arguments)
    if arguments.add is not None:
        try:
            verbs = None if arguments.verb is None else tuple(AccessVerb(verb) for verb in arguments.verb)
        except ValueError as error:
            raise UsageError(f"{error}: the verbs are {', '.join(AccessVerb)}") from error
        access_key = AccessKeyRecord(
            access_key=f"GR{secrets.token_hex(ACCESS_KEY_BYTES).upper()}",
            secret_key=secrets.token_hex(ACCESS_SECRET_BYTES),
            buckets=None if arguments.bucket is None else tuple(arguments.bucket),
            verbs=verbs,
            expires_ms=None if arguments.days is None else _days_from_now(arguments.days),
        )
        write_credentials(arguments.add, access_key)

        async def add() -> None:
            async with open_owner(opened) as owner:
                await owner.add_access_key(access_key)

        _run(add())
        print_line(f"access key {access_key.access_key}: its secret is in {arguments.add}")
        return ExitCode.DONE
    if arguments.remove is not None:
        return _remove_key(opened, arguments.remove)
    names = [known.access_key for known in opened.owner_secrets.access_keys]
    if arguments.json:
        print_json([{"access_key": name} for name in names])
    else:
        for name in names:
            print_line(name)
    return ExitCode.DONE


def _remove_key(opened: OwnerFolder, name: str) -> int:
    from node.cli.tenant_work import open_owner

    async def remove() -> bool:
        async with open_owner(opened) as owner:
            return await owner.remove_access_key(name)

    if _run(remove()):
        return ExitCode.DONE
    print_error(f"no access key {name}")
    return ExitCode.MISSING


def move_tenant(arguments: Namespace) -> int:
    """Move a tenant to another home."""
    from node.cli.tenant_work import open_owner
    from storage.identifiers import SeatIndex

    opened = _opened(arguments)

    async def move() -> int:
        async with open_owner(opened) as owner:
            return (await owner.move(SeatIndex(arguments.seat))).height

    print_line(f"seat {arguments.seat} is the tenant's home since height {_run(move())}; no byte moved")
    return ExitCode.DONE


def set_escrow(arguments: Namespace) -> int:
    """Put keys in escrow, or take them out."""
    from node.cli.tenant_work import open_owner

    opened = _opened(arguments)

    async def change() -> int:
        async with open_owner(opened) as owner:
            commit = await (owner.leave_escrow() if arguments.leave else owner.escrow(opened.seats))
            return commit.height

    height = _run(change())
    state = (
        "erased" if arguments.leave else f"any {opened.seats.threshold} of {len(opened.seats.network_keys)} open them"
    )
    print_line(f"keys in escrow since height {height}: {state}")
    return ExitCode.DONE


def make_identity(arguments: Namespace) -> int:
    """Draw a gateway's key."""
    from node.cli import tenant_work

    identity = tenant_work.make_identity(arguments.folder, arguments.genesis, arguments.node)
    print_line(f"key {identity.public_key}: give {arguments.folder / tenant_work.IDENTITY_FILE} to the tenant")
    return ExitCode.DONE


def grant_gateway(arguments: Namespace) -> int:
    """Grant a gateway."""
    from node.cli.tenant_work import open_owner, read_identity

    opened = _opened(arguments)
    public_key, certificate = read_identity(arguments.identity)

    async def grant() -> int:
        async with open_owner(opened) as owner:
            return (await owner.grant(public_key, certificate)).height

    print_line(f"{public_key.hex()} acts for the tenant since height {_run(grant())}")
    return ExitCode.DONE


def receive_keys(arguments: Namespace) -> int:
    """Fill a gateway's folder."""
    from node.cli import tenant_work

    count = _run(tenant_work.receive(arguments.folder, arguments.node))
    print_line(f"{arguments.folder} has the tenant's keys and {counted(count, 'access key')}")
    return ExitCode.DONE


def revoke_gateway(arguments: Namespace) -> int:
    """Revoke a gateway, and seal everything again."""
    from node.cli import tenant_work

    report = _run(tenant_work.revoke(_opened(arguments), arguments.public_key))
    print_line(f"revoked; {counted(report.records, 'record')} sealed again, {report.retained} retained as they are")
    print_line("whoever was revoked knows the secrets of access keys: replace those with `grandest tenant keys`")
    return ExitCode.DONE if report.unread == 0 else ExitCode.FAILED


def begin_recovery(arguments: Namespace) -> int:
    """Draw the key that is to be a tenant's."""
    from node.cli.tenant_work import create_folder, new_owner

    owner_secrets = new_owner(arguments.tenant)
    create_folder(arguments.folder, owner_secrets, _new_passphrase(arguments), arguments.genesis, arguments.node)
    print_line(f"announce and approve it: --public-key {owner_secrets.signing_key.public.hex()}")
    return ExitCode.DONE


def announce_recovery(arguments: Namespace) -> int:
    """Announce a recovery."""
    from storage.tenant_changes import AnnounceRecovery

    body = AnnounceRecovery(tenant=arguments.tenant, public_key=arguments.public_key)
    _sign(arguments.operator, arguments.tenant, body)
    print_line("announced: the tenant may cancel it, operators approve it after the delay")
    return ExitCode.DONE


def approve_recovery(arguments: Namespace) -> int:
    """Approve a recovery."""
    from node.cli import tenant_work

    _run(tenant_work.approve_recovery(arguments.operator, arguments.tenant, arguments.public_key))
    print_line("approved; this seat's share is sealed to the announced key")
    return ExitCode.DONE


def finish_recovery(arguments: Namespace) -> int:
    """Finish a recovery."""
    from node.cli import tenant_work

    count = _run(tenant_work.finish_recovery(_opened(arguments)))
    print_line(f"{counted(count, 'master key')} recovered; put them in escrow again, and replace access keys")
    return ExitCode.DONE


def cancel_recovery(arguments: Namespace) -> int:
    """Cancel recoveries."""
    from node.cli.tenant_work import open_owner

    opened = _opened(arguments)

    async def cancel() -> int:
        async with open_owner(opened) as owner:
            return (await owner.cancel_recovery()).height

    print_line(f"cancelled at height {_run(cancel())}")
    return ExitCode.DONE


def _register(operator: Path, tenant: TenantId, public_key: PublicKey, quota_bytes: int) -> None:
    from node.cli.tenant_work import operator_seat
    from storage.tenant_changes import RegisterTenant

    body = RegisterTenant(tenant=tenant, public_key=public_key, home=operator_seat(operator), quota_bytes=quota_bytes)
    _sign(operator, tenant, body)


def _sign(operator: Path, tenant: TenantId, body: Body) -> None:
    from node.cli.tenant_work import sign_as_operator

    _run(sign_as_operator(operator, tenant, body))


def _run(work: Coroutine[object, object, ResultT]) -> ResultT:
    import trio

    async def session() -> ResultT:
        return await work

    return trio.run(session)


def _opened(arguments: Namespace) -> OwnerFolder:
    from node.cli.tenant_work import open_folder

    return open_folder(arguments.folder, _passphrase(arguments), arguments.node)


def _passphrase(arguments: Namespace) -> bytes:
    from node.keystore import read_passphrase

    if arguments.passphrase_file is not None:
        return read_passphrase(arguments.passphrase_file)
    if not sys.stdin.isatty():
        raise UsageError("no terminal to ask for the passphrase: name a file with --passphrase-file")
    return getpass.getpass("passphrase: ").encode()


def _new_passphrase(arguments: Namespace) -> bytes:
    first = _passphrase(arguments)
    if arguments.passphrase_file is None and getpass.getpass("again: ").encode() != first:
        raise UsageError("the two passphrases differ")
    return first


def _view_json(view: TenantView) -> Json:
    return {
        "public_key": view.public_key.hex(),
        "home": view.home,
        "quota_bytes": view.quota_bytes,
        "segment_bytes": view.segment_bytes,
        "entry_count": view.entry_count,
        "grants": [{"public_key": grant.public_key.hex(), "keys": grant.keys is not None} for grant in view.grants],
        "escrow": view.escrow is not None,
        "recoveries": []
        if view.escrow is None
        else [
            {"public_key": recovery.public_key.hex(), "approvals": len(recovery.shares)}
            for recovery in view.escrow.recoveries
        ],
    }


def _action(commands: Commands, name: str, summary: str, run: Callable[[Namespace], int]) -> ArgumentParser:
    parser = new_command(commands, name, summary)
    parser.set_defaults(run=run)
    return parser


def _owner_action(commands: Commands, name: str, summary: str, run: Callable[[Namespace], int]) -> ArgumentParser:
    parser = _action(commands, name, summary, run)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the owner's folder")
    parser.add_argument("--node", type=node_address, metavar="URL", help="instead of the folder's nodes")
    _add_passphrase(parser)
    return parser


def _add_node(parser: ArgumentParser) -> None:
    parser.add_argument("--node", type=node_address, metavar="URL", required=True, help="any live node's API")


def _add_operator(parser: ArgumentParser) -> None:
    parser.add_argument("--operator", type=Path, metavar="HOME", required=True, help="the home of the operator's node")
    parser.add_argument("--tenant", type=_tenant, metavar="TENANT", required=True)


def _add_passphrase(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--passphrase-file", type=Path, metavar="FILE", help="one line, mode 0600; else it is asked for"
    )


def _tenant(text: str) -> bytes:
    return _hex(text, HANDLE_BYTES)


def _public_key(text: str) -> bytes:
    return _hex(text, KEY_BYTES)


def _hex(text: str, byte_count: int) -> bytes:
    found = bytes.fromhex(text)  # argparse says which argument was wrong
    if len(found) != byte_count:
        raise ValueError(text)
    return found


def _days_from_now(days: int) -> Milliseconds:
    from consensus.identifiers import Milliseconds

    return Milliseconds(time.time_ns() // 1_000_000 + days * DAY_MS)
