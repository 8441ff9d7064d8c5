"""`grandest testnet` as a person uses it: nine real processes, killed, burnt, started and stopped by command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from testnet.cluster import open_cluster, process_of, stop_all

GRANDEST = (sys.executable, "-m", "testnet.cli")
UP_SECONDS_MAX = 90


def grandest(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (*GRANDEST, *words),
        capture_output=True,
        text=True,
        check=False,
        timeout=UP_SECONDS_MAX,
        stdin=subprocess.DEVNULL,
    )


def alive_seats(home: Path) -> list[int]:
    shown = grandest("testnet", "status", "--json", "--home", str(home))
    return [seat["seat"] for seat in json.loads(shown.stdout) if seat["alive"]]


def test_seats_are_brought_up_killed_burnt_started_and_stopped(tmp_path: Path) -> None:
    home = tmp_path / "home"
    try:
        up = grandest("testnet", "up", "--detach", "--home", str(home))
        assert up.returncode == 0, up.stderr
        assert alive_seats(home) == list(range(9))
        again = grandest("testnet", "up", "--detach", "--home", str(home))
        assert again.returncode == 3
        assert "is in use" in again.stderr
        assert grandest("testnet", "kill", "1", "--home", str(home)).stdout == "seat 1 killed\n"
        assert grandest("testnet", "burn", "2", "8", "--home", str(home)).returncode == 0
        safe = home / "seat-8"
        assert sorted(path.name for path in safe.iterdir()) == ["config.toml", "gateway", "genesis", "keys"]
        assert sorted(path.name for path in (safe / "gateway").iterdir()) == ["gateway.toml", "own", "tenants"]
        assert alive_seats(home) == [0, 3, 4, 5, 6, 7]
        started = grandest("testnet", "start", "1", "2", "8", "--home", str(home))
        assert started.returncode == 0, started.stderr
        assert alive_seats(home) == list(range(9))
        assert grandest("testnet", "down", "--home", str(home)).stdout == "9 nodes stopped\n"
        assert alive_seats(home) == []
    finally:
        stop_all(open_cluster(home))


def test_ctrl_c_in_the_foreground_ends_every_node(tmp_path: Path) -> None:
    home = tmp_path / "home"
    up = subprocess.Popen((*GRANDEST, "testnet", "up", "--home", str(home)), stderr=subprocess.PIPE, text=True)
    try:
        assert up.stderr is not None
        said = iter(up.stderr.readline, "")
        assert any("Ctrl-C stops them" in line for line in said)
        cluster = open_cluster(home)
        assert all(process_of(cluster, seat) is not None for seat in cluster.all_seats())
        up.send_signal(signal.SIGINT)
        assert up.wait(timeout=UP_SECONDS_MAX) == 0
        assert all(process_of(cluster, seat) is None for seat in cluster.all_seats())
        assert "stopping\n" in said
    finally:
        up.kill()
        up.communicate()
        stop_all(open_cluster(home))


def test_ctrl_c_while_nodes_start_leaves_none(tmp_path: Path) -> None:
    home = tmp_path / "home"
    up = subprocess.Popen((*GRANDEST, "testnet", "up", "--home", str(home)), stderr=subprocess.PIPE, text=True)
    try:
        while not (home / "seat-0" / "pid").exists():
            assert up.poll() is None
        up.send_signal(signal.SIGINT)
        _, said = up.communicate(timeout=UP_SECONDS_MAX)
        assert (up.returncode, said.splitlines()[-1]) == (130, "stopping")
        assert alive_seats(home) == []
    finally:
        up.kill()
        up.communicate()
        stop_all(open_cluster(home))
