"""`grandest node`: one operator's node in the foreground, and what its operator asks of it while it runs."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from node.cli import ExitCode, UsageError
from node.cli.output import Json, Measure, Progress, bytes_text, clock_text, print_json, print_line, print_result
from node.cli.parser import Commands, add_json_option, existing_directory, new_command

if TYPE_CHECKING:
    from collections.abc import Callable

    from node.api.answers import TransactionAnswer
    from node.config import NodeConfig
    from storage.scrubbing import ScrubState
    from storage.transactions import Body

HOUR_MS: Final = 3_600_000
MAINTENANCE_HOURS_MAX: Final = 24
BEGIN_HOURS_MAX: Final = 720
BEGIN_MARGIN_MS: Final = 15_000
"""The block that carries it must not be later than its beginning."""
VALID_HEIGHTS: Final = 500
CARRIED: Final = 200
"""The API's status when a block holds the transaction; 202 while it waits."""
POLL_S: Final = 0.2
REBUILT_S: Final = 60.0
"""How long `scrub --now` waits for damaged shards to be rebuilt; repair goes on without it."""


def add_commands(commands: Commands) -> None:
    """Mount `node run`, `node scrub` and `node maintenance`."""
    parser = new_command(commands, "node", "one operator's node")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    run = new_command(actions, "run", "run the node of a home directory until it is stopped (Ctrl-C, SIGTERM)")
    _add_home(run)
    run.set_defaults(run=run_node)
    scrub = new_command(
        actions, "scrub", "say what rereading all shards has found; exit 1 while damage waits for repair"
    )
    _add_home(scrub)
    scrub.add_argument("--now", action="store_true", help="have the running node reread everything now, and wait")
    add_json_option(scrub)
    scrub.set_defaults(run=run_scrub)
    maintenance = new_command(actions, "maintenance", "announce that the node will not answer, so that no score falls")
    _add_home(maintenance)
    maintenance.add_argument("--hours", required=True, type=float, metavar="H", help="how long: at most 24")
    maintenance.add_argument(
        "--in", dest="begin_hours", default=0.0, type=float, metavar="H", help="begin so much later"
    )
    add_json_option(maintenance)
    maintenance.set_defaults(run=run_maintenance)


def run_node(arguments: Namespace) -> int:
    """Run a node until it is told to stop."""
    from node.runner import run

    start: Callable[[Path], None] = run
    start(arguments.home)
    return ExitCode.DONE


def run_scrub(arguments: Namespace) -> int:
    """Print where the scrub stands, after a whole pass if one is asked for."""
    home: Path = arguments.home
    state = _scrub_now(home) if arguments.now else _read_scrub(home)
    if arguments.json:
        print_json(_scrub_json(state))
    else:
        _print_scrub(state)
    return ExitCode.FAILED if state.suspects else ExitCode.DONE


def run_maintenance(arguments: Namespace) -> int:
    """Have the running node's chain carry an announcement."""
    from consensus.identifiers import Milliseconds
    from node.config import load_config
    from storage.audits import AnnounceMaintenance

    hours, begin_hours = float(arguments.hours), float(arguments.begin_hours)
    if not 0 < hours <= MAINTENANCE_HOURS_MAX or not 0 <= begin_hours <= BEGIN_HOURS_MAX:
        raise UsageError("--hours is above 0 and at most 24, --in at most 720")
    config = load_config(arguments.home)
    begin_ms = time.time_ns() // 1_000_000 + int(begin_hours * HOUR_MS) + BEGIN_MARGIN_MS
    until_ms = begin_ms + int(hours * HOUR_MS)
    outcome = submit_body(config, AnnounceMaintenance(from_ms=Milliseconds(begin_ms), until_ms=Milliseconds(until_ms)))
    print_result(
        arguments,
        {"height": outcome.height, "from_ms": begin_ms, "until_ms": until_ms},
        f"announced at height {outcome.height}: {clock_text(begin_ms)} to {clock_text(until_ms)}",
    )
    return ExitCode.DONE


def submit_body(config: NodeConfig, body: Body) -> TransactionAnswer:
    """Sign for the seat and have the node's chain carry it.

    Raises:
        RejectionError: The node refuses it at the door.
        NotCommittedError: The chain refuses it.
        PeerUnreachableError: The node does not answer, or no block has carried it yet.
    """
    import httpx

    from consensus.identifiers import Height
    from node.api.answers import TransactionAnswer
    from node.cli.asked_node import open_node, read_answer
    from node.client.errors import NotCommittedError
    from node.client.http_chain import raise_refusal
    from node.errors import PeerUnreachableError
    from node.submission import Submission, encode_submission
    from storage.transactions import TRANSACTION_VERSION, Envelope, sign_transaction

    signing_key = config.keys.signing
    with open_node((config.own_api,)) as (http, height):
        envelope = Envelope(
            transaction_version=TRANSACTION_VERSION,
            sender=signing_key.public,
            sequence=time.time_ns() // 1_000,
            valid_until_height=Height(height + VALID_HEIGHTS),
            body=body,
        )
        transaction = sign_transaction(envelope, signing_key, config.genesis_hash)
        submission = encode_submission(Submission(transaction=transaction, records=()))
        try:
            answer = http.post("/v1/transactions?wait_s=25", content=submission)
            raise_refusal(answer)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            raise PeerUnreachableError(f"{http.base_url}: {error}") from error
    if answer.status_code != CARRIED:
        raise PeerUnreachableError("no block has carried it yet: look later, it may come")
    outcome = read_answer(http, "/v1/transactions", answer.content, TransactionAnswer)
    if outcome.refusal is not None:
        raise NotCommittedError(outcome.refusal)
    return outcome


def _add_home(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--home", required=True, type=existing_directory, metavar="DIR", help="holds config.toml, genesis and keys/"
    )


def _scrub_now(home: Path) -> ScrubState:
    """Ask for a pass and return the state after it, when what it found is rebuilt or REBUILT_S later."""
    from node.clock import now_ms
    from node.config import is_locked
    from node.errors import ConfigurationError
    from node.scrub_task import REQUEST_FILE

    if not is_locked(home):
        raise ConfigurationError(f"no node runs in {home}: start it, then ask again")
    asked_ms = now_ms()
    (home / REQUEST_FILE).touch(mode=0o600)
    with Progress("reread", _read_scrub(home).held_bytes, Measure.BYTES) as progress:
        shown, deadline = 0, 0.0
        while is_locked(home):
            state = _read_scrub(home)
            if state.last is not None and state.last.begun_ms >= asked_ms:
                deadline = deadline or time.monotonic() + REBUILT_S
                if not state.suspects or time.monotonic() > deadline:
                    return state
            elif state.begun_ms >= asked_ms:
                progress.advance(state.counts.shard_bytes - shown)
                shown = state.counts.shard_bytes
            time.sleep(POLL_S)
    (home / REQUEST_FILE).unlink(missing_ok=True)
    raise ConfigurationError(f"no node runs in {home}: start it, then ask again")


def _read_scrub(home: Path) -> ScrubState:
    from consensus.errors import RejectionError
    from node.errors import ConfigurationError
    from node.scrub_task import STATE_FILE
    from storage.scrubbing import NEVER_SCRUBBED, decode_scrub

    if not (home / "genesis").is_file():
        raise ConfigurationError(f"{home} is no node's home: it has no genesis")
    try:
        return decode_scrub((home / STATE_FILE).read_bytes())
    except FileNotFoundError:
        return NEVER_SCRUBBED
    except RejectionError as error:
        detail = f"{home / STATE_FILE} is damaged ({error}): remove it, and the next pass begins anew"
        raise ConfigurationError(detail) from error


def _scrub_json(state: ScrubState) -> Json:
    last = state.last
    return {
        "passes": state.passes,
        "running": state.is_running,
        "begun_ms": state.begun_ms,
        "shard_bytes": state.counts.shard_bytes,
        "waiting_for_repair": [f"{suspect.segment_id.hex()}/{suspect.column}" for suspect in state.suspects],
        "last": None
        if last is None
        else {
            "begun_ms": last.begun_ms,
            "ended_ms": last.ended_ms,
            "shards": last.counts.shards,
            "shard_bytes": last.counts.shard_bytes,
            "damaged": last.counts.damaged,
            "missing": last.counts.missing,
            "dead": last.counts.dead,
            "orphans": last.counts.orphans,
        },
    }


def _print_scrub(state: ScrubState) -> None:
    last = state.last
    if last is None:
        print_line("no pass has ended yet")
    else:
        counts = last.counts
        seconds = (last.ended_ms - last.begun_ms) / 1000
        print_line(f"passes     {state.passes}; the last took {seconds:.1f} s")
        print_line(f"reread     {counts.shards} shards, {bytes_text(counts.shard_bytes)}: every leaf and its index")
        print_line(f"damaged    {counts.damaged}, of which {len(state.suspects)} wait for repair")
        print_line(f"missing    {counts.missing}: repair has been told")
        print_line(f"deleted    {counts.dead} shards that the chain does not know, {counts.orphans} orphaned rows")
    if state.is_running:
        print_line(f"running    {bytes_text(state.counts.shard_bytes)} reread so far")
