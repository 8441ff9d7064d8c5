"""S3 by boto3, against nine operators' gateways at once."""

from __future__ import annotations

import http.client
import os
import random
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from io import BytesIO
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import boto3
import httpx
import pytest
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from consensus.genesis import genesis_hash
from storage.identifiers import FRAME_PLAIN_BYTES
from testnet.cluster import Cluster, gateway_access
from tests.frame_verifier import PROGRAM

if TYPE_CHECKING:
    from boto3 import Client  # made by the stubs of typings/: boto3 makes its clients when it runs

TRIALS = 12
CREATORS = 32
BAD_REQUESTS = 150


def client_of(cluster: Cluster, seat: int) -> Client:
    access = gateway_access(cluster, cluster.all_seats()[seat])
    assert access is not None
    return boto3.client(
        "s3",
        endpoint_url=access.endpoint,
        aws_access_key_id=access.access_key,
        aws_secret_access_key=access.secret_key,
        region_name=access.region,
        config=Config(max_pool_connections=CREATORS, retries={"max_attempts": 1}),
    )


@pytest.fixture(scope="module")
def gateways(healthy_nodes: Cluster) -> list[Client]:
    return [client_of(healthy_nodes, seat) for seat in range(9)]


@pytest.fixture
def bucket(gateways: list[Client]) -> str:
    name = f"b-{uuid.uuid4().hex[:12]}"
    gateways[0].create_bucket(Bucket=name)
    return name


def code_of(error: ClientError) -> str:
    return str(error.response["Error"]["Code"])


def bytes_of(client: Client, bucket: str, name: str) -> bytes:
    answer = client.get_object(Bucket=bucket, Key=name)
    assert "x-grandest-consistency" not in answer["ResponseMetadata"]["HTTPHeaders"]
    read: bytes = answer["Body"].read()
    return read


def etags_of(client: Client, bucket: str) -> tuple[tuple[str, str], ...]:
    return tuple((entry["Key"], entry["ETag"]) for entry in client.list_objects_v2(Bucket=bucket)["Contents"])


def test_what_one_gateway_acknowledged_all_nine_show_at_once(gateways: list[Client], bucket: str) -> None:
    choice = random.Random(20261125)
    with ThreadPoolExecutor(len(gateways)) as pool:
        for trial in range(TRIALS):
            name, written = f"k-{trial % 3}", f"{trial}".encode()
            gateways[choice.randrange(9)].put_object(Bucket=bucket, Key=name, Body=written)
            assert set(pool.map(bytes_of, gateways, repeat(bucket), repeat(name))) == {written}
            assert len(set(pool.map(etags_of, gateways, repeat(bucket)))) == 1
        gateways[3].delete_object(Bucket=bucket, Key="k-0")
        for names in pool.map(list_names, gateways, repeat(bucket)):
            assert names == ["k-1", "k-2"]


def list_names(client: Client, bucket: str) -> list[str]:
    return [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket).get("Contents", [])]


def test_of_many_creators_at_nine_gateways_one_wins(gateways: list[Client], bucket: str) -> None:
    def create(number: int) -> str:
        try:
            gateways[number % 9].put_object(Bucket=bucket, Key="lock", Body=str(number).encode(), IfNoneMatch="*")
        except ClientError as error:
            return code_of(error)
        return "won"

    with ThreadPoolExecutor(CREATORS) as pool:
        outcomes = list(pool.map(create, range(CREATORS)))
    assert outcomes.count("won") == 1
    assert set(outcomes) <= {"won", "PreconditionFailed", "ConditionalRequestConflict"}


def test_an_upload_in_parts_begun_at_one_gateway_is_completed_at_another(gateways: list[Client], bucket: str) -> None:
    parts = [os.urandom(5 * 1024 * 1024), os.urandom(300_000)]
    upload = gateways[1].create_multipart_upload(Bucket=bucket, Key="large", Metadata={"who": "tested"})["UploadId"]
    etags = [
        gateways[2 + number].upload_part(Bucket=bucket, Key="large", UploadId=upload, PartNumber=number + 1, Body=part)[
            "ETag"
        ]
        for number, part in enumerate(parts)
    ]
    named = [{"PartNumber": number + 1, "ETag": etag} for number, etag in enumerate(etags)]
    done = gateways[5].complete_multipart_upload(
        Bucket=bucket, Key="large", UploadId=upload, MultipartUpload={"Parts": named}
    )
    assert done["ETag"].endswith('-2"')
    whole = gateways[6].get_object(Bucket=bucket, Key="large")
    assert whole["Body"].read() == b"".join(parts)
    assert whole["Metadata"] == {"who": "tested"}
    across = gateways[7].get_object(Bucket=bucket, Key="large", Range="bytes=5242870-5242889")
    assert across["Body"].read() == b"".join(parts)[5_242_870:5_242_890]
    assert gateways[8].list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []


def test_the_transfer_manager_stores_and_reads_back(gateways: list[Client], bucket: str) -> None:
    contents = os.urandom(9 * 1024 * 1024)
    gateways[0].upload_fileobj(BytesIO(contents), bucket, "a/b c+é.bin")
    read = BytesIO()
    gateways[4].download_fileobj(bucket, "a/b c+é.bin", read)
    assert read.getvalue() == contents
    gateways[5].copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "a/b c+é.bin"})
    assert gateways[6].get_object(Bucket=bucket, Key="copy")["Body"].read() == contents


def proof_of(cluster: Cluster, seat: int, path: str) -> httpx.Response:
    """Ask a gateway for a proof, by a request signed in its query."""
    access = gateway_access(cluster, cluster.all_seats()[seat])
    assert access is not None
    request = AWSRequest(method="GET", url=f"{access.endpoint}{path}")
    S3SigV4QueryAuth(Credentials(access.access_key, access.secret_key), "s3", access.region).add_auth(request)
    return httpx.get(str(request.url))


def test_the_proof_of_a_frame_needs_no_code_of_ours(
    healthy_nodes: Cluster, gateways: list[Client], bucket: str, tmp_path: Path
) -> None:
    contents = os.urandom(2_000_000)
    written = gateways[0].put_object(Bucket=bucket, Key="proven", Body=contents)["ResponseMetadata"]["HTTPHeaders"]
    read = gateways[1].head_object(Bucket=bucket, Key="proven")["ResponseMetadata"]["HTTPHeaders"]
    for name in ("height", "receipts", "segment"):
        assert read[f"x-grandest-{name}"] == written[f"x-grandest-{name}"]
    (tmp_path / "genesis").write_bytes(
        httpx.get(healthy_nodes.api_address(healthy_nodes.all_seats()[4]) + "/v1/raw/genesis").content
    )
    frames = -(-len(contents) // FRAME_PLAIN_BYTES)
    for seat, frame in ((2, 0), (3, frames - 1)):
        answer = proof_of(healthy_nodes, seat, f"/{bucket}/proven?proof&frame={frame}")
        assert (answer.status_code, answer.headers["x-grandest-frames"]) == (200, str(frames))
        (tmp_path / "proof").write_bytes(answer.content)
        words = ["proof", genesis_hash(healthy_nodes.genesis).hex(), "--genesis", "genesis", "--out", "plaintext"]
        command = (sys.executable, "-I", str(PROGRAM), *words)
        told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        assert written["x-grandest-segment"] in told
        assert (tmp_path / "plaintext").read_bytes() == contents[frame * FRAME_PLAIN_BYTES :][:FRAME_PLAIN_BYTES]
    assert proof_of(healthy_nodes, 4, f"/{bucket}/proven?proof&frame={frames}").status_code == 416
    assert proof_of(healthy_nodes, 5, f"/{bucket}/never?proof").status_code == 404


def test_versions_and_markers_are_kept_and_listed(gateways: list[Client], bucket: str) -> None:
    gateways[0].put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    first = gateways[1].put_object(Bucket=bucket, Key="v", Body=b"1")["VersionId"]
    second = gateways[2].put_object(Bucket=bucket, Key="v", Body=b"2")["VersionId"]
    marker = gateways[3].delete_object(Bucket=bucket, Key="v")["VersionId"]
    listed = gateways[4].list_object_versions(Bucket=bucket)
    assert [one["VersionId"] for one in listed["Versions"]] == [second, first]
    assert [one["VersionId"] for one in listed["DeleteMarkers"]] == [marker]
    with pytest.raises(ClientError, match="NoSuchKey"):
        gateways[5].get_object(Bucket=bucket, Key="v")
    assert gateways[6].get_object(Bucket=bucket, Key="v", VersionId=first)["Body"].read() == b"1"
    gateways[7].delete_object(Bucket=bucket, Key="v", VersionId=marker)
    assert gateways[8].get_object(Bucket=bucket, Key="v")["Body"].read() == b"2"


def test_a_retained_version_cannot_be_deleted_at_any_gateway(gateways: list[Client]) -> None:
    name = f"l-{uuid.uuid4().hex[:12]}"
    gateways[0].create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    until = datetime.now(UTC) + timedelta(days=1)
    version_id = gateways[1].put_object(
        Bucket=name, Key="kept", Body=b"kept", ObjectLockMode="COMPLIANCE", ObjectLockRetainUntilDate=until
    )["VersionId"]
    for gateway in gateways[2:4]:
        with pytest.raises(ClientError, match="AccessDenied"):
            gateway.delete_object(Bucket=name, Key="kept", VersionId=version_id, BypassGovernanceRetention=True)
    assert gateways[4].head_object(Bucket=name, Key="kept")["ObjectLockMode"] == "COMPLIANCE"


def test_a_wrong_checksum_stores_nothing(gateways: list[Client], bucket: str) -> None:
    with pytest.raises(ClientError, match="BadDigest"):
        gateways[0].put_object(Bucket=bucket, Key="bad", Body=b"1", ContentMD5="1B2M2Y8AsgTpgAmY7PhCfg==")
    assert list_names(gateways[1], bucket) == []


def test_settings_of_a_bucket_are_told_by_every_gateway(gateways: list[Client], bucket: str) -> None:
    tags = [{"Key": "team", "Value": "archive"}]
    gateways[0].put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": tags})
    assert gateways[1].get_bucket_tagging(Bucket=bucket)["TagSet"] == tags
    gateways[2].put_object(Bucket=bucket, Key="tagged", Body=b"", Tagging="a=1")
    gateways[3].put_object_tagging(Bucket=bucket, Key="tagged", Tagging={"TagSet": tags})
    assert gateways[4].get_object_tagging(Bucket=bucket, Key="tagged")["TagSet"] == tags


def test_malformed_requests_are_refused_and_never_a_500(healthy_nodes: Cluster) -> None:
    access = gateway_access(healthy_nodes, healthy_nodes.all_seats()[0])
    assert access is not None
    parts = urlsplit(access.endpoint)
    choice = random.Random(7)
    for _ in range(BAD_REQUESTS):
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 0, timeout=10)
        path = "/" + "".join(choice.choice("ab/.%0?&=+~ ") for _ in range(choice.randrange(30))).replace(" ", "%20")
        name = choice.choice(["Authorization", "x-amz-date", "Content-MD5", "Range", "x-amz-copy-source", "Expect"])
        text = "".join(choice.choice("AWS4-HMACsha256 =,/;:") for _ in range(choice.randrange(60))).strip()
        method = choice.choice(["GET", "PUT", "POST", "DELETE", "HEAD", "OPTIONS", "PATCH"])
        connection.request(method, path, body=os.urandom(choice.randrange(50)), headers={name: text})
        assert connection.getresponse().status in {400, 403, 404, 405, 411, 417, 501}
        connection.close()
