"""What a fire leaves, and what is refused before anything is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.errors import ConfigurationError
from storage.identifiers import SeatIndex
from testnet.cluster import (
    Cluster,
    burn_seat,
    chosen_seats,
    cluster_states,
    kill_seat,
    last_line,
    open_cluster,
    start_seat,
    stop_all,
)
from testnet.genesis import OPERATORS, make_testnet
from testnet.processes import start_process


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    make_testnet(tmp_path / "home", OPERATORS[:4])
    return open_cluster(tmp_path / "home")


def test_burning_leaves_only_what_is_in_the_safe(cluster: Cluster) -> None:
    home = cluster.seat_home(SeatIndex(1))
    for name in ("chain", "units"):
        (home / name).mkdir()
        (home / name / "000001.ldb").write_bytes(b"x")
    (home / "log").write_text("said")
    burn_seat(cluster, SeatIndex(1))
    assert sorted(path.name for path in home.iterdir()) == ["config.toml", "genesis", "keys"]
    assert sorted(path.name for path in (home / "keys").iterdir()) == ["network", "signing"]


def test_burning_follows_no_link_out_of_the_home(cluster: Cluster, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("kept")
    (cluster.seat_home(SeatIndex(1)) / "link").symlink_to(precious)
    burn_seat(cluster, SeatIndex(1))
    assert (precious / "file").read_text() == "kept"


def test_a_seat_that_runs_is_not_started_twice(cluster: Cluster) -> None:
    home = cluster.seat_home(SeatIndex(0))
    start_process(("/bin/sh", "-c", "exec tail -f /dev/null"), home / "pid", home / "log")
    try:
        with pytest.raises(ConfigurationError, match="seat 0 runs already as process"):
            start_seat(cluster, SeatIndex(0))
    finally:
        assert kill_seat(cluster, SeatIndex(0))
    assert not kill_seat(cluster, SeatIndex(0))


def test_stopping_ends_what_runs_and_says_who(cluster: Cluster) -> None:
    for seat in (0, 2):
        home = cluster.seat_home(SeatIndex(seat))
        start_process(("/bin/sh", "-c", "exec tail -f /dev/null"), home / "pid", home / "log")
    assert stop_all(cluster) == (0, 2)
    assert stop_all(cluster) == ()


def test_a_seat_without_keys_is_refused_and_told_where_they_belong(cluster: Cluster) -> None:
    (cluster.seat_home(SeatIndex(3)) / "keys" / "signing").unlink()
    with pytest.raises(
        ConfigurationError, match=r"seat 3 has no keys in .*/keys: put them back from the operator's safe"
    ):
        start_seat(cluster, SeatIndex(3))


def test_a_seat_that_does_not_exist_is_refused(cluster: Cluster) -> None:
    with pytest.raises(ConfigurationError, match="there is no seat 4: seats are 0 to 3"):
        chosen_seats(cluster, [1, 4])
    assert chosen_seats(cluster, [2, 0, 2]) == (2, 0)


def test_seats_that_are_down_have_neither_process_nor_status(cluster: Cluster) -> None:
    states = cluster_states(cluster)
    assert [state.operator for state in states] == ["Adista", "Alekso", "Advanced", "Mediamatrix"]
    assert all(state.process_id is None and state.status is None and not state.is_voting for state in states)


def test_the_last_line_of_a_log_is_quoted(cluster: Cluster) -> None:
    assert last_line(cluster, SeatIndex(0)).startswith("no log in")
    cluster.log_file(SeatIndex(0)).write_text("first\nport 4001 is in use\n\n")
    assert last_line(cluster, SeatIndex(0)).startswith("port 4001 is in use (log: ")
