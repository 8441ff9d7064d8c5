"""`grandest testnet`: nine nodes on this machine, and the fires they go through."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from node.cli import ExitCode
from node.cli.output import Progress, counted, note, print_json, print_result, print_table
from node.cli.parser import Commands, add_json_option, new_command, seat_number, short_name
from testnet.processes import end_on_signals, ignore_signals

if TYPE_CHECKING:
    from storage.identifiers import SeatIndex
    from testnet.cluster import Cluster, SeatView

HASH_CHARACTERS_SHOWN: Final = 12
HOLD_SECONDS: Final = 1.0


class Stay(Enum):
    """Whether `up` holds its nodes or leaves them running."""

    FOREGROUND = "foreground"
    DETACHED = "detached"


def add_commands(commands: Commands) -> None:
    """Mount `testnet make`, `up`, `status`, `kill`, `burn`, `start` and `down`."""
    testnet = new_command(commands, "testnet", "nine operators' nodes on this machine, and their disasters")
    actions = testnet.add_subparsers(metavar="ACTION", required=True)
    make = new_command(actions, "make", "make nine homes for nine machines, and start nothing")
    _add_home(make)
    make.add_argument(
        "hosts",
        type=short_name,
        nargs="+",
        metavar="HOST",
        help="of the nine machines, seat 0 first; ports 4001, 4002, 8080",
    )
    add_json_option(make)
    make.set_defaults(run=run_make)
    up = new_command(
        actions, "up", "make nine nodes in an empty or absent directory, or start those of a stopped testnet"
    )
    _add_home(up)
    up.add_argument("--detach", action="store_true", help="return when all nine vote and answer; end them with `down`")
    add_json_option(up)
    up.set_defaults(run=run_up)
    status = new_command(actions, "status", "show what every seat is doing")
    _add_home(status)
    add_json_option(status)
    status.set_defaults(run=run_status)
    for name, summary, command in (
        ("kill", "end seats with SIGKILL", run_kill),
        ("burn", "end seats with SIGKILL and destroy their disks; keys/, config.toml and genesis survive", run_burn),
        ("start", "start seats that are down; a burnt one catches up and repairs", run_start),
    ):
        action = new_command(actions, name, summary)
        _add_home(action)
        action.add_argument("seats", nargs="+", type=seat_number, metavar="SEAT", help="0 to 8")
        add_json_option(action)
        action.set_defaults(run=command)
    down = new_command(actions, "down", "stop every node; the home stays")
    _add_home(down)
    add_json_option(down)
    down.set_defaults(run=run_down)


def _add_home(parser: ArgumentParser) -> None:
    parser.add_argument("--home", required=True, type=Path, metavar="DIR", help="the testnet's home directory")


def run_make(arguments: Namespace) -> int:
    """Make the homes of nine nodes that will run elsewhere."""
    from testnet.genesis import Gateways, machine_addresses, make_testnet

    home: Path = arguments.home.resolve()
    hosts: list[str] = arguments.hosts
    make_testnet(home, addresses=machine_addresses(hosts), gateways=Gateways.BESIDE_NODES)
    print_result(
        arguments,
        {"home": str(home), "seats": [str(home / f"seat-{seat}") for seat in range(len(hosts))]},
        f"nine homes in {home}: bring each seat-N to its machine, and start it there with",
        "  grandest node run --home seat-N",
    )
    return ExitCode.DONE


def run_up(arguments: Namespace) -> int:
    """Bring nine nodes up; stay until Ctrl-C unless detached."""
    from testnet.cluster import open_cluster, process_of

    home: Path = arguments.home.resolve()
    if not (home / "genesis").is_file():
        from testnet.genesis import Gateways, make_testnet

        make_testnet(home, gateways=Gateways.BESIDE_NODES)
        note(f"made nine homes with keys, free ports and one genesis in {home}")
    cluster = open_cluster(home)
    if any(process_of(cluster, seat) is not None for seat in cluster.all_seats()):
        from node.errors import ConfigurationError

        raise ConfigurationError(
            f"{home} is in use: nodes of it are running; see `grandest testnet status --home {home}`"
        )
    return _run_cluster(cluster, Stay.DETACHED if arguments.detach else Stay.FOREGROUND, arguments)


def _run_cluster(cluster: Cluster, stay: Stay, arguments: Namespace) -> int:
    """Bring the nodes up and, unless detached, hold them; whatever ends this command ends them."""
    from testnet.cluster import stop_all

    end_on_signals()
    is_up = False
    try:
        states = _bring_up(cluster)
        is_up = True
        print_result(arguments, [state_json(state) for state in states])
        if stay is Stay.DETACHED:
            return ExitCode.DONE
        _print_what_to_try(cluster.home)
        while True:
            time.sleep(HOLD_SECONDS)
    except KeyboardInterrupt:
        return ExitCode.DONE if is_up else ExitCode.INTERRUPTED
    finally:
        if stay is Stay.FOREGROUND or not is_up:
            ignore_signals()
            note("stopping")
            stop_all(cluster)


def _bring_up(cluster: Cluster) -> tuple[SeatView, ...]:
    from testnet.cluster import start_all

    with Progress("nodes voting", len(cluster.all_seats())) as progress:
        ready_before = 0

        def show(ready: int) -> None:
            nonlocal ready_before
            progress.advance(ready - ready_before)
            ready_before = ready

        return start_all(cluster, show)


def _print_what_to_try(home: Path) -> None:
    note(f"""
Nine nodes agree. From another shell:

  grandest testnet status --home {home}
  grandest put README.md demo/README.md --home {home}
  grandest testnet status --json --home {home}     # with each gateway's S3 endpoint and keys
  grandest testnet burn 2 5 8 --home {home}
  grandest get demo/README.md - --home {home}
  grandest testnet start 2 5 8 --home {home}
  grandest audit export --home {home} --out chain.export && grandest audit replay chain.export

Ctrl-C stops them.""")


def run_status(arguments: Namespace) -> int:
    """Show every seat."""
    from testnet.cluster import cluster_states, open_cluster

    states = cluster_states(open_cluster(arguments.home.resolve()))
    if arguments.json:
        print_json([state_json(state) for state in states])
        return ExitCode.DONE
    rows = [
        (
            str(state.seat),
            state.operator,
            state.site,
            "down" if state.process_id is None else str(state.process_id),
            _doing(state),
            "-" if state.status is None else str(state.status.height),
            "-" if state.status is None else state.status.state_root[:HASH_CHARACTERS_SHOWN],
            state.api,
        )
        for state in states
    ]
    print_table(("seat", "operator", "site", "pid", "state", "height", "state root", "api"), rows)
    return ExitCode.DONE


def _doing(state: SeatView) -> str:
    if state.process_id is None:
        return "down"
    if state.status is None:
        return "silent"
    return "votes" if state.status.voting else "catching up"


def state_json(state: SeatView) -> dict[str, str | int | bool | dict[str, str] | None]:
    """Return a seat as `status --json` shows it."""
    return {
        "seat": state.seat,
        "operator": state.operator,
        "site": state.site,
        "pid": state.process_id,
        "alive": state.process_id is not None,
        "voting": state.is_voting,
        "height": None if state.status is None else state.status.height,
        "block_hash": None if state.status is None else state.status.block_hash,
        "state_root": None if state.status is None else state.status.state_root,
        "api": state.api,
        "s3": None
        if state.gateway is None
        else {
            "endpoint": state.gateway.endpoint,
            "access_key": state.gateway.access_key,
            "secret_key": state.gateway.secret_key,
            "region": state.gateway.region,
        },
    }


def _cluster_and_seats(arguments: Namespace) -> tuple[Cluster, tuple[SeatIndex, ...]]:
    from testnet.cluster import chosen_seats, open_cluster

    cluster = open_cluster(arguments.home.resolve())
    return cluster, chosen_seats(cluster, arguments.seats)


def run_kill(arguments: Namespace) -> int:
    """SIGKILL the named seats."""
    from testnet.cluster import kill_seat

    cluster, seats = _cluster_and_seats(arguments)
    was_running = {seat: kill_seat(cluster, seat) for seat in seats}
    print_result(
        arguments,
        [{"seat": seat, "was_running": ran} for seat, ran in was_running.items()],
        *(f"seat {seat} {'killed' if ran else 'was not running'}" for seat, ran in was_running.items()),
    )
    return ExitCode.DONE


def run_burn(arguments: Namespace) -> int:
    """SIGKILL the named seats, then destroy their disks."""
    from testnet.cluster import burn_seat, kill_seat

    cluster, seats = _cluster_and_seats(arguments)
    for seat in seats:  # all fires break out at once; clearing the ashes takes longer
        kill_seat(cluster, seat)
    for seat in seats:
        burn_seat(cluster, seat)
    print_result(
        arguments,
        [{"seat": seat, "burnt": True} for seat in seats],
        *(f"seat {seat} burnt: only keys, settings and genesis are left" for seat in seats),
    )
    return ExitCode.DONE


def run_start(arguments: Namespace) -> int:
    """Start the named seats and wait until they answer."""
    from testnet.cluster import answers, start_seat, wait_for_seats

    cluster, seats = _cluster_and_seats(arguments)
    for seat in seats:
        start_seat(cluster, seat)
    states = wait_for_seats(cluster, seats, answers)
    print_result(
        arguments,
        [state_json(state) for state in states],
        *(f"seat {state.seat} answers as process {state.process_id}: {_doing(state)}" for state in states),
    )
    return ExitCode.DONE


def run_down(arguments: Namespace) -> int:
    """Stop every node."""
    from testnet.cluster import open_cluster, stop_all

    stopped = stop_all(open_cluster(arguments.home.resolve()))
    line = f"{counted(len(stopped), 'node')} stopped" if stopped else "no node was running"
    print_result(arguments, {"stopped": list(stopped)}, line)
    return ExitCode.DONE
