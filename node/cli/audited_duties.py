"""`grandest audit operators` and `audit erasure`: what the chain says of the operators' duties.

The first shows what one node says. The second trusts none: it finds the deletion in the blocks, and believes an erasure
report when its place in the state is proven by a quorum's signatures.
"""

from __future__ import annotations

import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from node.cli import ExitCode, UsageError
from node.cli.asked_node import add_node_options, ask, blocks, fetch, node_addresses, open_node, parts
from node.cli.output import Json, Progress, clock_text, one_line, print_json, print_line, print_table
from node.cli.parser import Commands, add_json_option, new_command, node_address

if TYPE_CHECKING:
    import httpx

    from consensus.identifiers import Height
    from consensus.schedule import MemberSchedule
    from node.api.audits import AuditsAnswer, OperatorAnswer
    from node.client.home import ClientHome
    from storage.audits import PurgeState
    from storage.identifiers import BucketTag, NameTag, SeatIndex, TenantId
    from storage.transactions import Body

SCAN_BLOCKS: Final = 256
"""Read at once, from the newest back."""
HOUR_MS: Final = 3_600_000


def add_operators(actions: Commands) -> None:
    """Mount `audit operators`."""
    operators = new_command(actions, "operators", "show every operator's proofs, failures and what to do about them")
    add_node_options(operators)
    add_json_option(operators)
    operators.set_defaults(run=run_operators)


def add_erasure(actions: Commands) -> None:
    """Mount `audit erasure`."""
    erasure = new_command(actions, "erasure", "show that each operator has erased an object; exit 1 while one has not")
    erasure.add_argument("place", metavar="BUCKET/KEY", help="of a deleted object")
    erasure.add_argument("--home", type=Path, metavar="DIR", help="a testnet's home")
    erasure.add_argument("--node", type=node_address, metavar="URL", help="any live node's API")
    erasure.add_argument("--keys", type=Path, metavar="DIR", help="the client's own folder")
    add_json_option(erasure)
    erasure.set_defaults(run=run_erasure)


def run_operators(arguments: Namespace) -> int:
    """Print what a node says of all operators."""
    import msgspec

    from node.api.audits import AuditsAnswer

    with open_node(node_addresses(arguments)) as (http, _):
        answer = ask(http, "/v1/audits", AuditsAnswer)
    if arguments.json:
        shown: Json = msgspec.to_builtins(answer)
        print_json(shown)
    else:
        _print_operators(answer)
    return ExitCode.DONE


def run_erasure(arguments: Namespace) -> int:
    """Find an object's deletion and print which operators report to have erased it."""
    home = _client_home(arguments)
    bucket, _, name = arguments.place.partition("/")
    if not bucket or not name:
        raise UsageError("an object is named BUCKET/KEY")
    with open_node(home.nodes) as (http, tip_height):
        deleted = _deletion(http, tip_height, home, bucket, name)
        schedule = _proven_members(http, home)
        reports = [(seat, operator, _proven_report(http, schedule, seat)) for seat, operator in _seats(http)]
    has_all = all(report is not None and report.height >= deleted for _, _, report in reports)
    if arguments.json:
        print_json(_erasure_json(arguments.place, deleted, reports))
    else:
        rows = [
            [
                str(seat),
                operator,
                "erased" if report is not None and report.height >= deleted else "not reported yet",
                "" if report is None else str(report.height),
                "" if report is None else clock_text(report.reported_ms),
            ]
            for seat, operator, report in reports
        ]
        print_line(one_line(f"{arguments.place} was deleted at height {deleted}"))
        print_table(["seat", "operator", "state", "purged up to", "reported"], rows)
    return ExitCode.DONE if has_all else ExitCode.FAILED


def _print_operators(answer: AuditsAnswer) -> None:
    print_line(f"epoch {answer.epoch}, since height {answer.opened_height} ({clock_text(answer.opened_ms)})")
    rows = [
        [
            str(found.seat),
            found.operator,
            f"{found.score / 10:.1f} %",
            *(str(count) for count in (found.proved, found.failed, found.unproven, found.suspended)),
            "" if found.purged is None else str(found.purged.height),
            _standing(found),
        ]
        for found in answer.operators
    ]
    print_table(
        ["seat", "operator", "score", "proved", "failed", "unproven", "suspended", "purged up to", "standing"], rows
    )
    for found in answer.operators:
        if found.last_failure is not None:
            note = found.last_failure
            print_line("")
            print_line(
                f"seat {found.seat}, epoch {note.epoch}: {note.reason}, {note.failures} of {note.leaves} leaves, first"
                f" leaf {note.leaf.leaf} of segment {note.leaf.segment_id[:16]};"
                f" signed by seats {', '.join(map(str, note.signers))}"
            )
            print_line(f"  to do: {note.remedy}")


def _standing(found: OperatorAnswer) -> str:
    now_ms = time.time_ns() // 1_000_000
    if found.maintenance is not None and now_ms < found.maintenance.until_ms:
        return f"maintenance {clock_text(found.maintenance.from_ms)} to {clock_text(found.maintenance.until_ms)}"
    if found.disputed:
        return "disputed: all others ask"
    if found.failing_since_ms is not None:
        return f"failing since {clock_text(found.failing_since_ms)}"
    return "" if found.mean_repair_ms is None else f"repairs took {found.mean_repair_ms / HOUR_MS:.1f} h on average"


def _client_home(arguments: Namespace) -> ClientHome:
    from node.client.home import read_client_home

    if arguments.home is not None and arguments.node is None and arguments.keys is None:
        return read_client_home(arguments.home / "client")
    if arguments.home is None and arguments.node is not None and arguments.keys is not None:
        return read_client_home(arguments.keys, (arguments.node,))
    raise UsageError("give either --home DIR of a testnet, or --node URL and --keys DIR")


def _deletion(http: httpx.Client, tip_height: int, home: ClientHome, bucket: str, name: str) -> Height:
    """Return the height of the newest block that deletes an object, looking from the tip back."""
    from consensus.blocks import DecidedBlock
    from consensus.encoding import decode
    from node.errors import NotFoundError
    from storage.stores.heads import DECIDED_BYTES_MAX
    from storage.tags import bucket_tag, bucket_tag_key, name_tag, tenant_tag_key
    from storage.transactions import decode_transaction

    tag_key = tenant_tag_key(home.master_keys[0])
    tag = bucket_tag(tag_key, bucket)
    wanted = home.tenant, tag, name_tag(bucket_tag_key(tag_key, tag), name)
    with Progress("blocks looked at, from the newest back", tip_height) as progress:
        for stop in range(tip_height + 1, 1, -SCAN_BLOCKS):
            page = list(blocks(http, range(max(stop - SCAN_BLOCKS, 1), stop), progress))
            for encoded in reversed(page):
                block = decode(encoded, DecidedBlock, bytes_max=DECIDED_BYTES_MAX).block
                for transaction in block.transactions:
                    if _deletes(decode_transaction(transaction).envelope.body, *wanted):
                        return block.header.height
    raise NotFoundError(f"no block deletes {bucket}/{name}")


def _deletes(body: Body, tenant: TenantId, bucket: BucketTag, name: NameTag) -> bool:
    from storage.transactions import DeleteEntries

    if not isinstance(body, DeleteEntries) or body.tenant != tenant:
        return False
    return any((entry.bucket_tag, entry.name_tag) == (bucket, name) for entry in body.entries)


def _seats(http: httpx.Client) -> list[tuple[SeatIndex, str]]:
    """Return the seats there are now, and by what names the node calls their operators."""
    from node.api.audits import AuditsAnswer
    from storage.identifiers import SeatIndex

    answer = ask(http, "/v1/audits", AuditsAnswer)
    return [(SeatIndex(found.seat), found.operator) for found in answer.operators]


def _proven_members(http: httpx.Client, home: ClientHome) -> MemberSchedule:
    """Return who signs at which height, from genesis by way of every certified change (rule M11)."""
    from storage.member_proofs import decode_change_proof, proven_schedule

    return proven_schedule(
        home.genesis, [decode_change_proof(proof) for proof in parts(fetch(http, "/v1/raw/members"))]
    )


def _proven_report(http: httpx.Client, schedule: MemberSchedule, seat: SeatIndex) -> PurgeState | None:
    """Return a seat's erasure report; raises RejectionError when the proof is false."""
    from storage.audits import PurgeState, purge_key
    from storage.proofs import check_state_proof, decode_state_proof
    from storage.state import decode_state

    proof = decode_state_proof(fetch(http, f"/v1/proofs/state/{purge_key(seat).hex()}?raw=1"))
    value = check_state_proof(proof, purge_key(seat), schedule.members_at(proof.certified.header.height))
    return None if value is None else decode_state(value, PurgeState)


def _erasure_json(place: str, deleted: Height, reports: list[tuple[SeatIndex, str, PurgeState | None]]) -> Json:
    return {
        "object": place,
        "deleted_height": deleted,
        "operators": [
            {
                "seat": seat,
                "operator": operator,
                "erased": report is not None and report.height >= deleted,
                "purged_height": None if report is None else report.height,
                "reported_height": None if report is None else report.reported_height,
                "reported_ms": None if report is None else report.reported_ms,
            }
            for seat, operator, report in reports
        ],
    }
