"""`grandest tenant`: tenants registered by their operators, and what their owners do with keys, gateways and escrow.

Secrets are kept in the owner's folder under a passphrase; no command prints one, or takes one as an argument.
"""

from __future__ import annotations

import secrets
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from consensus.errors import GrandestError
from node.cli import ExitCode, UsageError
from node.cli.output import Json, bytes_text, counted, note, print_result
from node.cli.parser import Commands, byte_number, new_command, seat_number, whole_number
from node.cli.recoveries import add_recovery
from node.cli.tenant_options import (
    HANDLE_BYTES,
    add_action,
    add_node,
    add_operator,
    add_owner_action,
    add_passphrase,
    bucket_name,
    new_passphrase,
    opened_folder,
    public_key,
    run_work,
    sign_for_seat,
    tenant_handle,
)
from node.errors import NotFoundError

if TYPE_CHECKING:
    from consensus.identifiers import Milliseconds, PublicKey
    from node.cli.tenant_work import OwnerFolder
    from node.client.tenant_chain import TenantView
    from storage.identifiers import TenantId

DAY_MS: Final = 86_400_000
ACCESS_KEY_BYTES: Final = 9
ACCESS_SECRET_BYTES: Final = 20
UNLIMITED: Final = 2**53 - 1
DAYS_MAX: Final = 36_500


def add_commands(commands: Commands) -> None:
    """Mount the commands of tenants."""
    parser = new_command(commands, "tenant", "tenants: registered, given keys, moved, put in escrow, recovered")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    _add_registration(actions)
    _add_owner(actions)
    _add_gateways(actions)
    add_recovery(actions)


def _add_registration(actions: Commands) -> None:
    create = add_action(
        actions, "create", "draw a tenant's keys into a new folder, and register it if an operator signs", create_tenant
    )
    create.add_argument("folder", type=Path, metavar="DIR")
    create.add_argument("--genesis", type=Path, metavar="FILE", required=True, help="the chain's, from an operator")
    create.add_argument("--operator", type=Path, metavar="HOME", help="the home of the operator's node, on its machine")
    create.add_argument("--quota", type=byte_number, metavar="BYTES", default=UNLIMITED)
    add_node(create)
    add_passphrase(create)
    register = add_action(actions, "register", "take on a tenant at this operator's seat", register_tenant)
    add_operator(register)
    register.add_argument("--public-key", type=public_key, metavar="KEY", required=True)
    register.add_argument("--quota", type=byte_number, metavar="BYTES", default=UNLIMITED)
    quota = add_action(actions, "quota", "set how many bytes a tenant of this operator may store", set_quota)
    add_operator(quota)
    quota.add_argument("--quota", type=byte_number, metavar="BYTES", required=True)
    shown = add_action(actions, "show", "what the chain knows of a tenant", show_tenant)
    shown.add_argument("tenant", type=tenant_handle, metavar="TENANT")
    add_node(shown)


def _add_owner(actions: Commands) -> None:
    client = add_owner_action(
        actions, "client", "write the home of the owner's own client, for put, get and the others", write_client
    )
    client.add_argument("home", type=Path, metavar="HOME")
    keys = add_owner_action(actions, "keys", "list, add or remove S3 access keys", change_keys)
    keys.add_argument("--add", type=Path, metavar="FILE", help="draw one, and write it there as S3 tools read it")
    keys.add_argument(
        "--bucket",
        type=bucket_name,
        action="append",
        metavar="BUCKET",
        help="what the new key may use; all if none is named",
    )
    keys.add_argument(
        "--verb", action="append", metavar="VERB", help="read, write, list, delete, administer; all if none"
    )
    keys.add_argument("--days", type=whole_number("number of days", 1, DAYS_MAX), metavar="N", help="until it expires")
    keys.add_argument("--remove", metavar="ACCESS_KEY")
    move = add_owner_action(actions, "move", "choose another home operator; no byte moves", move_tenant)
    move.add_argument("seat", type=seat_number, metavar="SEAT")
    escrow = add_owner_action(actions, "escrow", "split the master keys among the operators", set_escrow)
    escrow.add_argument("--leave", action="store_true", help="erase the shares")


def _add_gateways(actions: Commands) -> None:
    identity = add_action(actions, "identity", "draw a gateway's key, by which tenants grant it", make_identity)
    identity.add_argument("folder", type=Path, metavar="FOLDER")
    identity.add_argument("--genesis", type=Path, metavar="FILE", required=True)
    add_node(identity)
    grant = add_owner_action(
        actions, "grant", "let a gateway act for the tenant, with its keys sealed to it", grant_gateway
    )
    grant.add_argument("identity", type=Path, metavar="IDENTITY", help="the file that `identity` made in FOLDER")
    receive = add_action(
        actions, "receive", "fill a gateway's folder with what its tenant has sealed to it", receive_keys
    )
    receive.add_argument("folder", type=Path, metavar="FOLDER")
    add_node(receive)
    revoke = add_owner_action(actions, "revoke", "take a grant back and start a new master key", revoke_gateway)
    revoke.add_argument("public_key", type=public_key, metavar="KEY")


def create_tenant(arguments: Namespace) -> int:
    """Draw a tenant's keys, and register it if its operator's home is here."""
    from node.cli.tenant_work import create_folder, new_owner
    from storage.identifiers import TenantId

    tenant = TenantId(secrets.token_bytes(HANDLE_BYTES))
    owner_secrets = new_owner(tenant)
    create_folder(arguments.folder, owner_secrets, new_passphrase(arguments), arguments.genesis, arguments.node)
    own_key = owner_secrets.signing_key.public
    command = f"grandest tenant register --operator HOME --tenant {tenant.hex()} --public-key {own_key.hex()}"
    answer: dict[str, Json] = {"tenant": tenant.hex(), "public_key": own_key.hex()}
    if arguments.operator is None:
        print_result(
            arguments,
            {**answer, "registered": False},
            f"tenant {tenant.hex()}; your operator registers it by",
            command,
        )
        return ExitCode.DONE
    try:
        _register(arguments.operator, tenant, own_key, arguments.quota)
    except (GrandestError, OSError):
        note(f"its keys are in {arguments.folder}, but it is not registered; an operator does so by\n{command}")
        raise
    print_result(arguments, {**answer, "registered": True}, f"tenant {tenant.hex()} is registered")
    return ExitCode.DONE


def register_tenant(arguments: Namespace) -> int:
    """Register a tenant at this operator's seat."""
    _register(arguments.operator, arguments.tenant, arguments.public_key, arguments.quota)
    handle = arguments.tenant.hex()
    print_result(arguments, {"tenant": handle, "registered": True}, f"tenant {handle} is registered")
    return ExitCode.DONE


def set_quota(arguments: Namespace) -> int:
    """Set a tenant's quota."""
    from storage.tenant_changes import SetQuota

    sign_for_seat(arguments.operator, arguments.tenant, SetQuota(tenant=arguments.tenant, quota_bytes=arguments.quota))
    handle = arguments.tenant.hex()
    answer = {"tenant": handle, "quota_bytes": arguments.quota}
    print_result(arguments, answer, f"{bytes_text(arguments.quota)} for tenant {handle}")
    return ExitCode.DONE


def show_tenant(arguments: Namespace) -> int:
    """Print what the chain knows of a tenant."""
    from node.cli.tenant_work import show

    view = run_work(show(arguments.tenant, arguments.node))
    if view is None:
        raise NotFoundError(f"no tenant {arguments.tenant.hex()}")
    quota = "no quota" if view.quota_bytes == UNLIMITED else f"of {bytes_text(view.quota_bytes)}"
    print_result(
        arguments,
        _view_json(view),
        f"home      seat {view.home}",
        f"stored    {bytes_text(view.segment_bytes)} {quota}, {counted(view.entry_count, 'version')}",
        *(f"grant     {grant.public_key.hex()}{'' if grant.keys is None else ' with keys'}" for grant in view.grants),
        f"escrow    {'none' if view.escrow is None else f'{len(view.escrow.commitments)} shares'}",
    )
    return ExitCode.DONE


def write_client(arguments: Namespace) -> int:
    """Write the home of the owner's own client."""
    from node.cli import tenant_work

    run_work(tenant_work.write_client(opened_folder(arguments), arguments.home))
    use = f"grandest put FILE BUCKET/KEY --node URL --keys {arguments.home}"
    print_result(arguments, {"home": str(arguments.home)}, use)
    return ExitCode.DONE


def change_keys(arguments: Namespace) -> int:
    """List, add or remove access keys."""
    from node.cli.tenant_work import open_owner, write_credentials
    from storage.tenant_records import AccessKeyRecord, AccessVerb

    opened = opened_folder(arguments)
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

        run_work(add())
        answer = {"access_key": access_key.access_key, "file": str(arguments.add)}
        print_result(arguments, answer, f"access key {access_key.access_key}: its secret is in {arguments.add}")
        return ExitCode.DONE
    if arguments.remove is not None:
        _remove_key(opened, arguments.remove)
        print_result(arguments, {"removed": arguments.remove})
        return ExitCode.DONE
    names = [known.access_key for known in opened.owner_secrets.access_keys]
    print_result(arguments, [{"access_key": name} for name in names], *names)
    return ExitCode.DONE


def _remove_key(opened: OwnerFolder, name: str) -> None:
    from node.cli.tenant_work import open_owner

    async def remove() -> bool:
        async with open_owner(opened) as owner:
            return await owner.remove_access_key(name)

    if not run_work(remove()):
        raise NotFoundError(f"no access key {name}")


def move_tenant(arguments: Namespace) -> int:
    """Move a tenant to another home."""
    from node.cli.tenant_work import open_owner
    from storage.identifiers import SeatIndex

    opened = opened_folder(arguments)

    async def move() -> int:
        async with open_owner(opened) as owner:
            return (await owner.move(SeatIndex(arguments.seat))).height

    height = run_work(move())
    line = f"seat {arguments.seat} is the tenant's home since height {height}; no byte moved"
    print_result(arguments, {"home": arguments.seat, "height": height}, line)
    return ExitCode.DONE


def set_escrow(arguments: Namespace) -> int:
    """Put keys in escrow, or take them out."""
    from node.cli.tenant_work import open_owner

    opened = opened_folder(arguments)

    async def change() -> tuple[int, str]:
        async with open_owner(opened) as owner:
            if arguments.leave:
                return (await owner.leave_escrow()).height, "erased"
            seats = await opened.seats()
            height = (await owner.escrow(seats)).height
            return height, f"any {seats.threshold} of {len(seats.network_keys)} open them"

    height, state = run_work(change())
    answer = {"escrow": not arguments.leave, "height": height}
    print_result(arguments, answer, f"keys in escrow since height {height}: {state}")
    return ExitCode.DONE


def make_identity(arguments: Namespace) -> int:
    """Draw a gateway's key."""
    from node.gateway.own_key import IDENTITY_FILE, make_own_key

    identity = make_own_key(arguments.folder, arguments.genesis, arguments.node)
    path = arguments.folder / IDENTITY_FILE
    answer = {"public_key": identity.public_key, "identity": str(path)}
    print_result(arguments, answer, f"key {identity.public_key}: give {path} to tenants")
    return ExitCode.DONE


def grant_gateway(arguments: Namespace) -> int:
    """Grant a gateway."""
    from node.cli.tenant_work import open_owner
    from node.gateway.own_key import read_identity

    opened = opened_folder(arguments)
    gateway_key, certificate = read_identity(arguments.identity)

    async def grant() -> int:
        async with open_owner(opened) as owner:
            return (await owner.grant(gateway_key, certificate)).height

    height = run_work(grant())
    answer: dict[str, Json] = {"public_key": gateway_key.hex(), "height": height}
    print_result(arguments, answer, f"{gateway_key.hex()} acts for the tenant since height {height}")
    return ExitCode.DONE


def receive_keys(arguments: Namespace) -> int:
    """Fill a gateway's folder."""
    from node.cli import tenant_work

    count = run_work(tenant_work.receive(arguments.folder, arguments.node))
    answer: dict[str, Json] = {"folder": str(arguments.folder), "access_keys": count}
    print_result(arguments, answer, f"{arguments.folder} has the tenant's keys and {counted(count, 'access key')}")
    return ExitCode.DONE


def revoke_gateway(arguments: Namespace) -> int:
    """Revoke a gateway, and seal everything again."""
    from node.cli import tenant_work

    report = run_work(tenant_work.revoke(opened_folder(arguments), arguments.public_key))
    print_result(
        arguments,
        {"records": report.records, "retained": report.retained, "unread": report.unread},
        f"revoked; {counted(report.records, 'record')} sealed again, {report.retained} retained as they are",
        "whoever was revoked knows the secrets of access keys: replace those with `grandest tenant keys`",
        "homes that `grandest tenant client` has written seal under the earlier key: have it write them again",
    )
    return ExitCode.DONE if report.unread == 0 else ExitCode.FAILED


def _register(operator: Path, tenant: TenantId, public_key: PublicKey, quota_bytes: int) -> None:
    from node.cli.tenant_work import operator_seat
    from storage.tenant_changes import RegisterTenant

    body = RegisterTenant(tenant=tenant, public_key=public_key, home=operator_seat(operator), quota_bytes=quota_bytes)
    sign_for_seat(operator, tenant, body)


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


def _days_from_now(days: int) -> Milliseconds:
    from consensus.identifiers import Milliseconds

    return Milliseconds(time.time_ns() // 1_000_000 + days * DAY_MS)
