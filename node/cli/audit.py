"""`grandest audit`: take a chain home in one file, and re-run it trusting nothing but its genesis hash."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from node.cli import ExitCode
from node.cli.asked_node import add_node_options, blocks, fetch, node_addresses, open_node
from node.cli.audited_duties import add_erasure, add_operators
from node.cli.audited_reads import add_reads
from node.cli.output import (
    Json,
    Measure,
    Progress,
    bytes_text,
    counted,
    note,
    print_json,
    print_line,
    print_result,
    print_table,
)
from node.cli.parser import Commands, add_json_option, genesis_hash, new_command
from node.cli.whole_file import whole_file

if TYPE_CHECKING:
    from consensus.identifiers import GenesisHash, MemberIndex
    from node.replay import ReplayError, ReplayReport


def add_commands(commands: Commands) -> None:
    """Mount `audit export`, `replay`, `forensics`, `operators`, `erasure` and `reads`."""
    audit = new_command(commands, "audit", "take the chain home and re-run it from genesis")
    actions = audit.add_subparsers(metavar="ACTION", required=True)
    export = new_command(actions, "export", "write genesis and every decided block to one file")
    export.add_argument("--out", required=True, type=Path, metavar="FILE")
    add_node_options(export)
    add_json_option(export)
    export.set_defaults(run=run_export)
    replay = new_command(actions, "replay", "re-run an export; exit 1 at the first lie")
    replay.add_argument("file", type=Path, metavar="FILE")
    replay.add_argument("--genesis-hash", type=genesis_hash, metavar="HEX", help="what you know of it from elsewhere")
    add_json_option(replay)
    replay.set_defaults(run=run_replay)
    forensics = new_command(actions, "forensics", "name who made two exports contradict each other; exit 1 if they do")
    forensics.add_argument("one", type=Path, metavar="A")
    forensics.add_argument("other", type=Path, metavar="B")
    add_json_option(forensics)
    forensics.set_defaults(run=run_forensics)
    add_operators(actions)
    add_erasure(actions)
    add_reads(actions)


def run_export(arguments: Namespace) -> int:
    """Fetch the chain from a live node and write it."""
    from node.replay import write_export

    out: Path = arguments.out
    with open_node(node_addresses(arguments)) as (http, tip_height):
        genesis = fetch(http, "/v1/raw/genesis")
        with whole_file(out) as file, Progress("exported blocks", tip_height) as progress:
            count = write_export(file, genesis, blocks(http, range(1, tip_height + 1), progress))
    byte_count = out.stat().st_size
    answer: dict[str, Json] = {"file": str(out), "blocks": count, "bytes": byte_count}
    print_result(arguments, answer, f"{out}: {counted(count, 'block')}, {bytes_text(byte_count)}")
    return ExitCode.DONE


def run_replay(arguments: Namespace) -> int:
    """Replay an export and print the report, or the first lie."""
    from node.replay import ReplayError, replay

    path: Path = arguments.file
    pinned: GenesisHash | None = arguments.genesis_hash
    try:
        with path.open("rb") as file, Progress("replayed", path.stat().st_size, Measure.BYTES) as progress:
            report = replay(file, pinned, progress.advance)
    except ReplayError as failure:
        _print_lie(failure, arguments)
        return ExitCode.FAILED
    if arguments.json:
        print_json(_report_json(report, pinned))
    else:
        _print_report(report, pinned)
    return ExitCode.DONE


def run_forensics(arguments: Namespace) -> int:
    """Compare two exports and print the culprits of their fork with the two signed votes of each."""
    from consensus.encoding import encode
    from consensus.forensics import name_culprits
    from node.replay import find_fork

    with arguments.one.open("rb") as one, arguments.other.open("rb") as other:
        fork = find_fork(one, other)
    if fork is None:
        note("grandest: the exports agree as far as both go")
        if arguments.json:
            print_json({"height": None, "culprits": []})
        return ExitCode.DONE
    members, first, second = fork
    culprits = name_culprits(first, second, members)
    if arguments.json:
        print_json(
            {
                "height": first.commit.height,
                "culprits": [
                    {
                        "seat": culprit.member,
                        "guilt": culprit.guilt.value,
                        "first": encode(culprit.first).hex(),
                        "second": encode(culprit.second).hex(),
                    }
                    for culprit in culprits
                ],
            }
        )
        return ExitCode.FAILED
    print_line(f"height {first.commit.height} was decided twice")
    rows = [[str(c.member), c.guilt.value, encode(c.first).hex(), encode(c.second).hex()] for c in culprits]
    print_table(["seat", "guilt", "first signed vote", "second signed vote"], rows)
    return ExitCode.FAILED


def _print_lie(failure: ReplayError, arguments: Namespace) -> None:
    if arguments.json:
        print_json({"valid": False, "height": failure.height, "rule": failure.rule.value, "reason": failure.detail})
    note(f"grandest: {arguments.file}: a lie at {failure}")


def _report_json(report: ReplayReport, pinned: GenesisHash | None) -> Json:
    return {
        "valid": True,
        "pinned": pinned is not None,
        "genesis_hash": report.genesis_hash.hex(),
        "chain_id": report.chain_id,
        "blocks": report.height,
        "state_root": report.state_root.hex(),
        "transactions": report.transactions,
        "refused_transactions": report.refused_transactions,
        "objects": report.objects,
        "bytes": report.object_bytes,
        "rounds_above_zero": report.rounds_above_zero,
        "operators": [
            {
                "seat": seat,
                "operator": operator,
                "signatures": report.signatures[seat],
                "proposals": report.proposals[seat],
                "faults": report.faults[seat],
                "suspended": report.suspended.get(seat),
            }
            for seat, operator in _seats(report)
        ],
    }


def _print_report(report: ReplayReport, pinned: GenesisHash | None) -> None:
    rows = [
        [
            str(seat),
            operator,
            *(str(counts[seat]) for counts in (report.signatures, report.proposals, report.faults)),
            report.suspended.get(seat, ""),
        ]
        for seat, operator in _seats(report)
    ]
    print_table(["seat", "operator", "signatures", "proposals", "faults", "suspended"], rows)
    print_line("")
    print_line(f"chain         {report.chain_id}")
    pin = "as pinned" if pinned is not None else "not pinned: compare it with one you know from elsewhere"
    print_line(f"genesis hash  {report.genesis_hash.hex()} ({pin})")
    print_line(f"blocks        {report.height}, {report.rounds_above_zero} of them decided above round 0")
    print_line(f"transactions  {report.transactions}, {report.refused_transactions} of them refused for a named reason")
    print_line(f"objects       {report.objects}, {bytes_text(report.object_bytes)} sealed")
    print_line(f"state root    {report.state_root.hex()} (recomputed; the next block certifies it)")
    print_line("no lie found")


def _seats(report: ReplayReport) -> list[tuple[MemberIndex, str]]:
    from consensus.identifiers import MemberIndex

    return [(MemberIndex(seat), operator) for seat, operator in enumerate(report.operators)]
