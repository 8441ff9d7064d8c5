"""Gateways in trouble, beside nine nodes of their own: killed while they complete uploads; too few live seats.

GRANDEST_GATEWAY_KILLS makes it long (make campaign).
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
from botocore.exceptions import ClientError

from storage.identifiers import SeatIndex
from testnet.cluster import Cluster, kill_seat
from testnet.processes import kill_process
from tests.integration.conftest import running_testnet
from tests.integration.s3_endpoints import S3Client, customers_gateway
from tests.integration.test_s3_objects import PART_BYTES, got, refused

KILLS = int(os.environ.get("GRANDEST_GATEWAY_KILLS", "4"))
KILL_AFTER_S_MAX = 0.2
"""A completion takes about half of it."""
PARTS = (random.Random(3).randbytes(PART_BYTES), b"the last one is short")
BUCKET = "in-trouble"
LOST = (1, 3, 5, 7)


@pytest.fixture(scope="module")
def nine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Nine nodes for this module; the last test leaves five."""
    with running_testnet(tmp_path_factory.mktemp("gateways") / "testnet") as cluster:
        yield cluster


def begun(s3: S3Client, name: str) -> dict[str, object]:
    """Send all parts of an upload, and return what completes it."""
    upload_id = s3.create_multipart_upload(Bucket=BUCKET, Key=name)["UploadId"]
    named = {"Bucket": BUCKET, "Key": name, "UploadId": upload_id}
    etags = [s3.upload_part(**named, PartNumber=number, Body=part)["ETag"] for number, part in enumerate(PARTS, 1)]
    parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
    return {**named, "MultipartUpload": {"Parts": parts}}


def got_code(s3: S3Client, name: str) -> str:
    """Return the code that a read is refused with."""
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket=BUCKET, Key=name)
    return refused(error)[1]


def test_a_gateway_killed_while_it_completes_leaves_the_object_whole_or_absent(nine: Cluster, tmp_path: Path) -> None:
    chance, never = random.Random(20261125), Event()
    (tmp_path / "kept").mkdir()
    with customers_gateway(nine, tmp_path / "kept") as (endpoint, _):
        kept = endpoint.client()
        kept.create_bucket(Bucket=BUCKET)
        for number in range(KILLS):
            name, home = f"object-{number}", tmp_path / f"doomed-{number}"
            home.mkdir()
            with customers_gateway(nine, home) as (doomed, process), ThreadPoolExecutor(1) as pool:
                s3 = doomed.impatient_client()
                asked = begun(s3, name)
                completing = pool.submit(s3.complete_multipart_upload, **asked)
                never.wait(KILL_AFTER_S_MAX * chance.random())
                kill_process(process)
                was_answered = completing.exception() is None
            listed = [found["Key"] for found in kept.list_objects_v2(Bucket=BUCKET).get("Contents", [])]
            assert name in listed or not was_answered, "an acknowledged object is absent"
            if name in listed:
                assert got(kept, BUCKET, name) == b"".join(PARTS)
            else:
                assert got_code(kept, name) == "NoSuchKey"
            assert kept.complete_multipart_upload(**asked)["ETag"].endswith('-2"')
            assert got(kept, BUCKET, name) == b"".join(PARTS)
        assert "Uploads" not in kept.list_multipart_uploads(Bucket=BUCKET)


def test_fewer_than_six_live_seats_slow_writes_down_and_serve_reads(nine: Cluster, tmp_path: Path) -> None:
    with customers_gateway(nine, tmp_path) as (endpoint, _):
        s3 = endpoint.impatient_client()
        s3.create_bucket(Bucket="few")
        for seat in LOST[:3]:
            kill_seat(nine, SeatIndex(seat))
        s3.put_object(Bucket="few", Key="kept", Body=PARTS[0])
        headers = s3.head_object(Bucket="few", Key="kept")["ResponseMetadata"]["HTTPHeaders"]
        assert headers["x-grandest-receipts"] == "6/9"
        assert "x-grandest-consistency" not in headers
        kill_seat(nine, SeatIndex(LOST[3]))
        with pytest.raises(ClientError) as error:
            s3.put_object(Bucket="few", Key="never", Body=b"x")
        assert refused(error) == (503, "SlowDown")
        assert "5 holders answer and a write needs 6" in error.value.response["Error"]["Message"]
        assert error.value.response["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "2"
        read = s3.get_object(Bucket="few", Key="kept")
        assert read["Body"].read() == PARTS[0]
        assert read["ResponseMetadata"]["HTTPHeaders"]["x-grandest-consistency"] == "local"
        assert [found["Key"] for found in s3.list_objects_v2(Bucket="few")["Contents"]] == ["kept"]
