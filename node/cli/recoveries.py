"""`grandest tenant recover`: a tenant that has lost its keys gets them back from the operators' shares, in the open."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from node.cli import ExitCode
from node.cli.output import counted, print_result
from node.cli.parser import Commands, new_command
from node.cli.tenant_options import (
    add_action,
    add_node,
    add_operator,
    add_owner_action,
    add_passphrase,
    new_passphrase,
    opened_folder,
    public_key,
    run_work,
    sign_for_seat,
    tenant_handle,
)


def add_recovery(actions: Commands) -> None:
    """Mount `tenant recover` and its steps."""
    parser = new_command(actions, "recover", "a tenant that has lost its keys")
    steps = parser.add_subparsers(metavar="STEP", required=True)
    begin = add_action(steps, "begin", "draw the key that is to be the tenant's", begin_recovery)
    begin.add_argument("folder", type=Path, metavar="DIR")
    begin.add_argument("--tenant", type=tenant_handle, metavar="TENANT", required=True)
    begin.add_argument("--genesis", type=Path, metavar="FILE", required=True)
    add_node(begin)
    add_passphrase(begin)
    for name, summary, run in (
        ("announce", "announce that key on chain, for an operator", announce_recovery),
        ("approve", "after the delay: hand this operator's share over to it", approve_recovery),
    ):
        step = add_action(steps, name, summary, run)
        add_operator(step)
        step.add_argument("--public-key", type=public_key, metavar="KEY", required=True)
    add_owner_action(steps, "finish", "put the keys together from the shares that were handed over", finish_recovery)
    add_owner_action(steps, "cancel", "stop every recovery: the keys are not lost", cancel_recovery)


def begin_recovery(arguments: Namespace) -> int:
    """Draw the key that is to be a tenant's."""
    from node.cli.tenant_work import create_folder, new_owner

    owner_secrets = new_owner(arguments.tenant)
    create_folder(arguments.folder, owner_secrets, new_passphrase(arguments), arguments.genesis, arguments.node)
    announced = owner_secrets.signing_key.public.hex()
    print_result(arguments, {"public_key": announced}, f"announce and approve it: --public-key {announced}")
    return ExitCode.DONE


def announce_recovery(arguments: Namespace) -> int:
    """Announce a recovery."""
    from storage.tenant_changes import AnnounceRecovery

    body = AnnounceRecovery(tenant=arguments.tenant, public_key=arguments.public_key)
    sign_for_seat(arguments.operator, arguments.tenant, body)
    answer = {"public_key": arguments.public_key.hex(), "announced": True}
    print_result(arguments, answer, "announced: the tenant may cancel it, operators approve it after the delay")
    return ExitCode.DONE


def approve_recovery(arguments: Namespace) -> int:
    """Approve a recovery."""
    from node.cli import tenant_work

    run_work(tenant_work.approve_recovery(arguments.operator, arguments.tenant, arguments.public_key))
    answer = {"public_key": arguments.public_key.hex(), "approved": True}
    print_result(arguments, answer, "approved; this seat's share is sealed to the announced key")
    return ExitCode.DONE


def finish_recovery(arguments: Namespace) -> int:
    """Finish a recovery."""
    from node.cli import tenant_work

    count = run_work(tenant_work.finish_recovery(opened_folder(arguments)))
    line = f"{counted(count, 'master key')} recovered; put them in escrow again, and replace access keys"
    print_result(arguments, {"master_keys": count}, line)
    return ExitCode.DONE


def cancel_recovery(arguments: Namespace) -> int:
    """Cancel recoveries."""
    from node.cli.tenant_work import open_owner

    opened = opened_folder(arguments)

    async def cancel() -> int:
        async with open_owner(opened) as owner:
            return (await owner.cancel_recovery()).height

    height = run_work(cancel())
    print_result(arguments, {"height": height}, f"cancelled at height {height}")
    return ExitCode.DONE
