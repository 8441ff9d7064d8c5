"""Nine nodes as nine operating-system processes on loopback: start, watch, kill, burn, start again, stop.

Every function takes the testnet's home and looks at the disk and the processes anew, so that commands of different
shells see the same cluster. Nothing is ended but what a pid file of this home names and started itself.
"""

from __future__ import annotations

import shutil
import signal
import socket
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from consensus.genesis import Genesis
from node.addresses import api_url
from node.errors import ConfigurationError, NodeError, PeerUnreachableError
from node.gateway.home import INDEX_FOLDER, OUTBOX_FOLDER, TENANTS_FOLDER, read_access_keys
from node.gateway.signatures import REGION
from node.gateway_process import GATEWAY_FOLDER, SETTINGS_FILE
from storage.genesis import Seat, storage_genesis
from storage.identifiers import SeatIndex
from testnet.genesis import DEMO_TENANT, read_testnet
from testnet.processes import (
    OwnedProcess,
    end_process,
    kill_process,
    running_process,
    start_process,
    wait_until_ended,
)
from testnet.status_query import NodeStatus, ask_status

READY_SECONDS_MAX: Final = 60.0
"""Nine nodes import libp2p in 3 s on two cores and then dial each other; beyond this something is wrong."""
STOP_SECONDS_MAX: Final = 10.0
"""A node told to stop closes its databases in well under a second; then it is killed."""
POLL_SECONDS: Final = 0.1
LISTEN_SECONDS_MAX: Final = 1.0
SURVIVES_FIRE: Final = frozenset({"keys", "config.toml", "genesis", GATEWAY_FOLDER})
"""What an operator keeps in the safe: burning a seat leaves only these, of a gateway its settings and keys."""
LOG_TAIL_BYTES: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A testnet's home and the seats that its genesis names."""

    home: Path
    genesis: Genesis
    seats: tuple[Seat, ...]

    def seat_home(self, seat: SeatIndex) -> Path:
        """Return the home directory of one seat's node."""
        return self.home / f"seat-{seat}"

    def log_file(self, seat: SeatIndex) -> Path:
        """Return the file that holds what a seat's node printed."""
        return self.seat_home(seat) / "log"

    def all_seats(self) -> tuple[SeatIndex, ...]:
        """Return every seat in order."""
        return tuple(SeatIndex(index) for index in range(len(self.seats)))

    def api_address(self, seat: SeatIndex) -> str:
        """Return the URL of a seat's API."""
        return api_url(self.seats[seat].host, self.seats[seat].api_port)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayAccess:
    """How to use the gateway beside a node, for the demo tenant alone."""

    endpoint: str
    access_key: str
    secret_key: str
    region: str = REGION


@dataclass(frozen=True, slots=True, kw_only=True)
class SeatView:
    """One seat as seen from outside: its process, and what its API says (None: no answer)."""

    seat: SeatIndex
    operator: str
    site: str
    process_id: int | None
    api: str
    status: NodeStatus | None
    gateway: GatewayAccess | None = None
    """None where no gateway stands beside the node."""
    has_gateway_up: bool = False

    @property
    def is_voting(self) -> bool:
        """Tell whether the node answers and takes part in agreement."""
        return self.status is not None and self.status.voting


def open_cluster(home: Path) -> Cluster:
    """Return the cluster of a testnet's home or raise ConfigurationError."""
    genesis = read_testnet(home)
    return Cluster(home=home, genesis=genesis, seats=storage_genesis(genesis).seats)


def chosen_seats(cluster: Cluster, numbers: Sequence[int]) -> tuple[SeatIndex, ...]:
    """Return the named seats, each once, or raise ConfigurationError for one that does not exist."""
    for number in numbers:
        if not 0 <= number < len(cluster.seats):
            raise ConfigurationError(f"there is no seat {number}: seats are 0 to {len(cluster.seats) - 1}")
    return tuple(SeatIndex(number) for number in dict.fromkeys(numbers))


def process_of(cluster: Cluster, seat: SeatIndex) -> OwnedProcess | None:
    """Return the running process of a seat, None when it is down."""
    return running_process(cluster.seat_home(seat) / "pid")


def start_seat(cluster: Cluster, seat: SeatIndex) -> OwnedProcess:
    """Start a seat's node and return at once; `wait_for_seats` waits for it.

    Raises:
        ConfigurationError: It runs already, or its keys are gone.
        OSError: The process cannot be started.
    """
    home = cluster.seat_home(seat)
    running = process_of(cluster, seat)
    if running is not None:
        raise ConfigurationError(f"seat {seat} runs already as process {running.pid}")
    if not (home / "keys" / "signing").is_file():
        raise ConfigurationError(f"seat {seat} has no keys in {home / 'keys'}: put them back from the operator's safe")
    # -P: a folder named `node` or `storage` where the user happens to stand must not be imported.
    command = (sys.executable, "-P", "-m", "testnet.cli", "node", "run", "--home", str(home))
    return start_process(command, home / "pid", cluster.log_file(seat))


def start_all(cluster: Cluster, on_progress: Callable[[int], None] = lambda _voting: None) -> tuple[SeatView, ...]:
    """Start every seat and wait until all vote and their gateways, if any, serve; raises as the two calls do."""
    for seat in cluster.all_seats():
        start_seat(cluster, seat)
    return wait_for_seats(cluster, cluster.all_seats(), serves, on_progress)


def kill_seat(cluster: Cluster, seat: SeatIndex) -> bool:
    """End a seat's node with SIGKILL; False when it was not running."""
    running = process_of(cluster, seat)
    if running is None:
        return False
    kill_process(running)
    return True


def burn_seat(cluster: Cluster, seat: SeatIndex) -> None:
    """End a seat's node with SIGKILL and destroy its disk: chain, shards, log and signer record. The safe survives."""
    kill_seat(cluster, seat)
    for path in cluster.seat_home(seat).iterdir():
        if path.name in SURVIVES_FIRE:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    for folder in (INDEX_FOLDER, OUTBOX_FOLDER):
        shutil.rmtree(cluster.seat_home(seat) / GATEWAY_FOLDER / folder, ignore_errors=True)


def stop_all(cluster: Cluster) -> tuple[SeatIndex, ...]:
    """Tell every running node to stop, kill those that do not within STOP_SECONDS_MAX, and return who ran."""
    running = {seat: owned for seat in cluster.all_seats() if (owned := process_of(cluster, seat)) is not None}
    for owned in running.values():
        end_process(owned, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS_MAX
    for owned in running.values():
        if not wait_until_ended(owned, max(0.0, deadline - time.monotonic())):
            kill_process(owned)
    return tuple(running)


def cluster_states(cluster: Cluster, seats: Sequence[SeatIndex] | None = None) -> tuple[SeatView, ...]:
    """Ask seats (all by default) at once what they are doing; one that does not answer has no status."""
    chosen = cluster.all_seats() if seats is None else tuple(seats)
    with ThreadPoolExecutor(max_workers=max(1, len(chosen))) as pool:
        return tuple(pool.map(partial(seat_state, cluster), chosen))


def seat_state(cluster: Cluster, seat: SeatIndex) -> SeatView:
    """Look at one seat's process and ask its API."""
    running = process_of(cluster, seat)
    gateway = gateway_access(cluster, seat)
    return SeatView(
        seat=seat,
        operator=cluster.seats[seat].operator,
        site=cluster.seats[seat].site,
        process_id=None if running is None else running.pid,
        api=cluster.api_address(seat),
        status=None if running is None else ask_status(cluster.seats[seat].host, cluster.seats[seat].api_port),
        gateway=gateway,
        has_gateway_up=gateway is not None and running is not None and is_listening(gateway.endpoint),
    )


def wait_for_seats(
    cluster: Cluster,
    seats: Sequence[SeatIndex],
    is_ready: Callable[[SeatView], bool],
    on_progress: Callable[[int], None] = lambda _ready: None,
    seconds_max: float = READY_SECONDS_MAX,
) -> tuple[SeatView, ...]:
    """Wait until every seat is ready and return their states.

    Args:
        is_ready: For example `SeatView.is_voting`, or that it answers.
        on_progress: Called with the number of ready seats whenever all were asked.

    Raises:
        NodeError: A process ended; the message carries the last line of its log.
        PeerUnreachableError: Not all ready within seconds_max; names the seats and their logs.
    """
    deadline = time.monotonic() + seconds_max
    while True:
        states = cluster_states(cluster, seats)
        on_progress(sum(is_ready(state) for state in states))
        if all(is_ready(state) for state in states):
            return states
        for state in states:
            if state.process_id is None:
                raise NodeError(f"seat {state.seat} ended: {last_line(cluster, state.seat)}")
        if time.monotonic() >= deadline:
            late = ", ".join(str(state.seat) for state in states if not is_ready(state))
            raise PeerUnreachableError(
                f"not ready after {seconds_max:.0f} s: seats {late}; see {cluster.home}/seat-*/log"
            )
        time.sleep(POLL_SECONDS)


def last_line(cluster: Cluster, seat: SeatIndex) -> str:
    """Return the last line that a node printed, for an error message, with the name of the file."""
    path = cluster.log_file(seat)
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
            lines = file.read().decode(errors="replace").split("\n")
    except FileNotFoundError:
        return f"no log in {path}"
    said = [line.strip() for line in lines if line.strip()]
    return f"{said[-1] if said else 'it said nothing'} (log: {path})"


def answers(state: SeatView) -> bool:
    """Tell whether a seat's API answers, and its gateway if it has one."""
    return state.status is not None and (state.gateway is None or state.has_gateway_up)


def gateway_access(cluster: Cluster, seat: SeatIndex) -> GatewayAccess | None:
    """Return how to use the gateway beside a seat's node; None where there is none."""
    folder = cluster.seat_home(seat) / GATEWAY_FOLDER
    if not (folder / SETTINGS_FILE).is_file():
        return None
    settings = tomllib.loads((folder / SETTINGS_FILE).read_text())
    access_key = read_access_keys(folder / TENANTS_FOLDER / DEMO_TENANT)[0]
    return GatewayAccess(
        endpoint=api_url(settings["host"], settings["port"]),
        access_key=access_key.access_key,
        secret_key=access_key.secret_key,
    )


def is_listening(endpoint: str) -> bool:
    """Tell whether somebody takes connections at an endpoint."""
    parts = urlsplit(endpoint)
    try:
        with socket.create_connection((parts.hostname, parts.port), timeout=LISTEN_SECONDS_MAX):
            return True
    except OSError:
        return False


def serves(state: SeatView) -> bool:
    """Tell whether a seat takes part in agreement and its gateway, if it has one, takes requests."""
    return state.is_voting and (state.gateway is None or state.has_gateway_up)


def votes(state: SeatView) -> bool:
    """Tell whether a seat answers and takes part in agreement."""
    return state.is_voting
