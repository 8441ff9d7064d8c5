"""`testnet make` gives nine homes that run on nine addresses with the usual ports, as on nine machines."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from node.client import bytes_source, open_client, read_client_home
from testnet.cli import main
from testnet.cluster import open_cluster, start_seat, stop_all, votes, wait_for_seats

pytestmark = pytest.mark.integration

HOSTS = tuple(f"127.77.0.{seat}" for seat in range(1, 10))


def test_nine_homes_on_nine_addresses_keep_an_object(tmp_path: Path) -> None:
    home = tmp_path / "nine"
    assert main(["testnet", "make", "--home", str(home), *HOSTS]) == 0
    cluster = open_cluster(home)
    assert {(seat.host, seat.libp2p_port, seat.shard_port, seat.api_port) for seat in cluster.seats} == {
        (host, 4001, 4002, 8080) for host in HOSTS
    }

    async def stored_and_read() -> bytes:
        async with open_client(read_client_home(home / "client")) as client:
            await client.put("bucket", "object", bytes_source(b"far away"))
            return await client.get("bucket", "object")

    try:
        for seat in cluster.all_seats():
            start_seat(cluster, seat)
        wait_for_seats(cluster, cluster.all_seats(), votes)
        assert trio.run(stored_and_read) == b"far away"
    finally:
        stop_all(cluster)


def test_eight_hosts_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["testnet", "make", "--home", str(tmp_path / "nine"), *HOSTS[:8]]) == 3
    assert capsys.readouterr().err == "grandest: 9 different hosts are needed, one a seat; 8 were given\n"
    assert not (tmp_path / "nine").exists()
