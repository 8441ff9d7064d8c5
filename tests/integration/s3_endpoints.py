"""Where S3 is spoken, and how each client is told."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import boto3
import certifi
from botocore.config import Config

from node.gateway.home import SETTINGS_FILE, TENANTS_FOLDER, new_access_key, write_access_keys
from node.gateway.signatures import REGION
from testnet.cluster import Cluster, gateway_access, is_listening
from testnet.genesis import free_ports
from testnet.processes import OwnedProcess, end_process, kill_process, start_process, wait_until_ended
from tests.loopback_authority import write_loopback_certificate

START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 30.0
POLL_SECONDS = 0.1

S3Client: TypeAlias = Any
"""boto3 makes its clients at run time from a description of the service."""
BotoSettings: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One gateway, by one scheme, for one access key."""

    url: str
    authority: Path
    """PEM file that vouches for the gateway's certificate."""
    access_key: str
    secret_key: str
    region: str = REGION

    @property
    def host(self) -> str:
        """Return host and port."""
        return self.url.partition("://")[2]

    @property
    def is_secure(self) -> bool:
        """Tell whether this is TLS."""
        return self.url.startswith("https:")

    def environment(self, home: Path) -> dict[str, str]:
        """Return the whole environment of a client program, with a home of its own: nothing of the machine's."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "TMPDIR": str(home),
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_REGION": self.region,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_CA_BUNDLE": str(self.authority),
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def trust(self) -> ssl.SSLContext:
        """Return what verifies the gateway's certificate."""
        return ssl.create_default_context(cafile=str(self.authority))

    def client(self) -> S3Client:
        """Return a client of boto3 with its default settings."""
        return boto3.client("s3", **self._settings())

    def impatient_client(self) -> S3Client:
        """Return a client of boto3 that asks once."""
        return boto3.client("s3", config=Config(retries={"total_max_attempts": 1}), **self._settings())

    def resource(self) -> S3Client:
        """Return boto3's resource."""
        return boto3.resource("s3", **self._settings())

    def _settings(self) -> BotoSettings:
        return {
            "endpoint_url": self.url,
            "aws_access_key_id": self.access_key,
            "aws_secret_access_key": self.secret_key,
            "region_name": self.region,
            "verify": str(self.authority) if self.is_secure else None,
        }


def gateways_by_http(cluster: Cluster) -> tuple[Endpoint, ...]:
    """Return the gateways beside the nodes of a testnet."""
    found = [gateway_access(cluster, seat) for seat in cluster.all_seats()]
    return tuple(
        Endpoint(
            url=access.endpoint,
            access_key=access.access_key,
            secret_key=access.secret_key,
            region=access.region,
            authority=Path(certifi.where()),
        )
        for access in found
        if access is not None
    )


@contextmanager
def gateway_by_tls(cluster: Cluster, home: Path) -> Generator[Endpoint]:
    """Run one more gateway with a certificate."""
    authority = write_loopback_certificate(home)
    with customers_gateway(cluster, home, "https") as (endpoint, _):
        yield replace(endpoint, authority=authority)


@contextmanager
def customers_gateway(cluster: Cluster, home: Path, scheme: str = "http") -> Generator[tuple[Endpoint, OwnedProcess]]:
    """Run one more gateway, as a customer does on premises of their own: `grandest gateway run`."""
    (port,) = free_ports(1)
    (home / SETTINGS_FILE).write_text(f'port = {port}\nmode = "end-to-end"\n')
    tenant = home / TENANTS_FOLDER / "demo"
    tenant.parent.mkdir()
    shutil.copytree(cluster.home / "client", tenant)
    access_key = new_access_key()
    write_access_keys(tenant, (access_key,))
    node = cluster.api_address(cluster.all_seats()[4])
    command = (sys.executable, "-m", "testnet.cli", "gateway", "run", "--home", str(home), "--node", node)
    pid_file, log_file = home / "pid", home / "log"
    process = start_process(command, pid_file, log_file)
    try:
        url = f"{scheme}://127.0.0.1:{port}"
        _wait_until_listening(url, log_file)
        names = {"access_key": access_key.access_key, "secret_key": access_key.secret_key}
        yield Endpoint(url=url, authority=Path(certifi.where()), **names), process
    finally:
        end_process(process, signal.SIGTERM)
        if not wait_until_ended(process, STOP_SECONDS_MAX):
            kill_process(process)


def _wait_until_listening(url: str, log_file: Path) -> None:
    deadline, never = time.monotonic() + START_SECONDS_MAX, threading.Event()
    while not is_listening(url):
        assert time.monotonic() < deadline, log_file.read_text()
        never.wait(POLL_SECONDS)
