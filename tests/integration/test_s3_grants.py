"""Tenants of their own on the testnet that nobody hurts: gateways that they grant follow the chain by themselves."""

from __future__ import annotations

import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ClientError

from node.gateway.own_key import IDENTITY_FILE, OWN_FOLDER, read_identity
from node.gateway_process import GATEWAY_FOLDER
from storage.identifiers import SeatIndex
from tests.integration.test_s3_objects import got, refused
from tests.integration.test_tenant_commands import Tenant

if TYPE_CHECKING:
    from collections.abc import Callable

    from testnet.cluster import Cluster
    from tests.integration.s3_endpoints import Endpoint, S3Client

FOLLOWED_SECONDS_MAX = 30.0
"""A block, a look of holders and one of the gateway, beside other work."""
POLL_SECONDS = 0.2
OBJECT_BYTES = 100_000
QUOTA_OBJECTS = 20
BATCH_OBJECTS = 9
"""What nine writers may have in one batch of their gateways."""


def identity_of(cluster: Cluster, seat: int) -> Path:
    return cluster.seat_home(SeatIndex(seat)) / GATEWAY_FOLDER / OWN_FOLDER / IDENTITY_FILE


def access_of(endpoint: Endpoint, credentials: Path) -> Endpoint:
    """Return how one asks a gateway by an access key that `tenant keys --add` wrote."""
    found = dict(line.split(" = ") for line in credentials.read_text().splitlines() if " = " in line)
    return replace(endpoint, access_key=found["aws_access_key_id"], secret_key=found["aws_secret_access_key"])


def until(asked: Callable[[], bool]) -> None:
    deadline, never = time.monotonic() + FOLLOWED_SECONDS_MAX, Event()
    while not asked():
        assert time.monotonic() < deadline, "the gateway does not follow the chain"
        never.wait(POLL_SECONDS)


def code_of(s3: S3Client, bucket: str = "kept") -> str:
    """Return the code of S3 that a listing is answered with; empty when it is served."""
    try:
        s3.list_objects_v2(Bucket=bucket)
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return ""


@pytest.fixture
def owned(healthy_nodes: Cluster, tmp_path: Path) -> Tenant:
    """A tenant's owner, registered at the first operator."""
    here = Tenant(healthy_nodes, tmp_path / "tenant")
    operator = str(healthy_nodes.seat_home(SeatIndex(0)))
    here.owner("create", "--genesis", here.genesis, "--node", here.node, "--operator", operator)
    return here


def test_gateways_follow_grants_keys_and_revocations_by_themselves(
    healthy_nodes: Cluster, endpoints: tuple[Endpoint, ...], owned: Tenant
) -> None:
    first, second = owned.folder / "first", owned.folder / "second"
    owned.owner("keys", "--add", str(first))
    for seat in (1, 2):
        owned.owner("grant", str(identity_of(healthy_nodes, seat)))
    one, two = (access_of(endpoints[seat], first).client() for seat in (1, 2))
    until(lambda: code_of(one) == code_of(two) == "NoSuchBucket")
    one.create_bucket(Bucket="kept")
    one.put_object(Bucket="kept", Key="before", Body=b"before")
    assert got(two, "kept", "before") == b"before"
    assert code_of(access_of(endpoints[3], first).client()) == "InvalidAccessKeyId"

    owned.owner("keys", "--add", str(second), "--verb", "list")
    lister = access_of(endpoints[2], second).client()
    until(lambda: code_of(lister) == "")
    with pytest.raises(ClientError) as error:
        lister.get_object(Bucket="kept", Key="before")
    assert refused(error) == (403, "AccessDenied")

    owned.owner("revoke", read_identity(identity_of(healthy_nodes, 1))[0].hex())
    until(lambda: code_of(one) == "InvalidAccessKeyId")
    two.put_object(Bucket="kept", Key="after", Body=b"after")
    assert [got(two, "kept", name) for name in ("before", "after")] == [b"before", b"after"]
    owned.owner("client", str(owned.folder / "client"))
    client = ("--node", owned.node, "--keys", str(owned.folder / "client"))
    assert owned.run("get", "kept/after", "-", *client) == "after"
    assert owned.secrets()
    logs = [healthy_nodes.seat_home(SeatIndex(seat)) / "log" for seat in (1, 2)]
    printed = owned.printed + b"".join(log.read_bytes() for log in logs)
    assert not [secret for secret in owned.secrets() if secret in printed]


def test_nine_writers_at_nine_gateways_pass_a_quota_by_no_more_than_a_batch(
    healthy_nodes: Cluster, endpoints: tuple[Endpoint, ...], owned: Tenant
) -> None:
    credentials = owned.folder / "credentials"
    owned.owner("keys", "--add", str(credentials))
    with ThreadPoolExecutor(3) as pool:
        grants = [pool.submit(owned.owner, "grant", str(identity_of(healthy_nodes, seat))) for seat in range(9)]
        assert [grant.result() for grant in grants]
    clients = [access_of(endpoint, credentials).client() for endpoint in endpoints]
    until(lambda: all(code_of(client) == "NoSuchBucket" for client in clients))
    clients[0].create_bucket(Bucket="kept")
    handle = owned.handle()
    owned.operator("quota", 0, handle, "--quota", str(QUOTA_OBJECTS * OBJECT_BYTES))

    def write(number: int) -> str:
        body = secrets.token_bytes(OBJECT_BYTES)
        for attempt in range(QUOTA_OBJECTS):
            try:
                clients[number].put_object(Bucket="kept", Key=f"{number}-{attempt}", Body=body)
            except ClientError as error:
                return str(error.response["Error"]["Code"])
        return ""

    with ThreadPoolExecutor(len(clients)) as pool:
        assert set(pool.map(write, range(len(clients)))) == {"QuotaExceeded"}
    stored = owned.shown(handle)["segment_bytes"]
    assert isinstance(stored, int)
    room = (QUOTA_OBJECTS + BATCH_OBJECTS) * OBJECT_BYTES
    assert (QUOTA_OBJECTS - BATCH_OBJECTS) * OBJECT_BYTES < stored <= room
    names = [found["Key"] for found in clients[4].list_objects_v2(Bucket="kept")["Contents"]]
    assert stored <= len(names) * (OBJECT_BYTES + 64) <= room + 64 * len(names)


def test_no_key_of_one_tenant_opens_anything_of_another(
    healthy_nodes: Cluster, endpoints: tuple[Endpoint, ...], owned: Tenant, bucket: str
) -> None:
    credentials = owned.folder / "credentials"
    owned.owner("keys", "--add", str(credentials))
    owned.owner("grant", str(identity_of(healthy_nodes, 5)))
    theirs, ours = access_of(endpoints[5], credentials).client(), endpoints[5].client()
    until(lambda: code_of(theirs) == "NoSuchBucket")
    ours.put_object(Bucket=bucket, Key="private", Body=b"private")
    theirs.create_bucket(Bucket="own")
    for operation, told in (
        ("get_object", {"Key": "private"}),
        ("put_object", {"Key": "private", "Body": b""}),
        ("delete_object", {"Key": "private"}),
        ("delete_bucket", {}),
        ("list_objects_v2", {}),
    ):
        with pytest.raises(ClientError) as error:
            getattr(theirs, operation)(Bucket=bucket, **told)
        assert refused(error) == (404, "NoSuchBucket")
    with pytest.raises(ClientError) as error:
        theirs.copy_object(Bucket="own", Key="stolen", CopySource=f"{bucket}/private")
    assert refused(error) == (404, "NoSuchBucket")
    assert [found["Name"] for found in theirs.list_buckets()["Buckets"]] == ["own"]
    mixed = replace(endpoints[5], secret_key=access_of(endpoints[5], credentials).secret_key).client()
    with pytest.raises(ClientError) as error:
        mixed.get_object(Bucket=bucket, Key="private")
    assert refused(error) == (403, "SignatureDoesNotMatch")
    assert got(ours, bucket, "private") == b"private"
