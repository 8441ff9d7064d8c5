"""Uploads in parts through boto3: completed, copied into, listed, given up."""

from __future__ import annotations

import random

import pytest
from botocore.exceptions import ClientError

from tests.integration.s3_endpoints import S3Client
from tests.integration.test_s3_objects import PART_BYTES, got, refused

PARTS = (random.Random(3).randbytes(PART_BYTES), b"the last one is short")


def begin(s3: S3Client, bucket: str, name: str, **more: object) -> str:
    upload_id: str = s3.create_multipart_upload(Bucket=bucket, Key=name, **more)["UploadId"]
    return upload_id


def sent(s3: S3Client, bucket: str, name: str, upload_id: str) -> list[dict[str, object]]:
    """Send PARTS and return what completes them."""
    etags = [
        s3.upload_part(Bucket=bucket, Key=name, UploadId=upload_id, PartNumber=number, Body=part)["ETag"]
        for number, part in enumerate(PARTS, 1)
    ]
    return [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]


def test_parts_make_one_object(s3: S3Client, bucket: str) -> None:
    upload_id = begin(s3, bucket, "whole", Metadata={"a": "b"}, ContentType="text/plain")
    parts = sent(s3, bucket, "whole", upload_id)
    listed = s3.list_parts(Bucket=bucket, Key="whole", UploadId=upload_id)["Parts"]
    assert [(found["PartNumber"], found["Size"]) for found in listed] == [(1, PART_BYTES), (2, len(PARTS[1]))]
    assert [found["Key"] for found in s3.list_multipart_uploads(Bucket=bucket)["Uploads"]] == ["whole"]
    s3.complete_multipart_upload(Bucket=bucket, Key="whole", UploadId=upload_id, MultipartUpload={"Parts": parts})
    assert got(s3, bucket, "whole") == b"".join(PARTS)
    assert got(s3, bucket, "whole", PartNumber=2) == PARTS[1]
    head = s3.head_object(Bucket=bucket, Key="whole")
    assert (head["Metadata"], head["ContentType"]) == ({"a": "b"}, "text/plain")
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)


def test_a_part_may_be_copied(s3: S3Client, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="source", Body=PARTS[0])
    upload_id = begin(s3, bucket, "copied")
    wanted = {"Bucket": bucket, "Key": "copied", "UploadId": upload_id, "CopySource": f"{bucket}/source"}
    whole = s3.upload_part_copy(**wanted, PartNumber=1)["CopyPartResult"]["ETag"]
    some = s3.upload_part_copy(**wanted, PartNumber=2, CopySourceRange="bytes=10-19")["CopyPartResult"]["ETag"]
    parts = [{"PartNumber": 1, "ETag": whole}, {"PartNumber": 2, "ETag": some}]
    s3.complete_multipart_upload(Bucket=bucket, Key="copied", UploadId=upload_id, MultipartUpload={"Parts": parts})
    assert got(s3, bucket, "copied") == PARTS[0] + PARTS[0][10:20]


def test_an_upload_that_was_given_up_leaves_nothing(s3: S3Client, bucket: str) -> None:
    upload_id = begin(s3, bucket, "never")
    sent(s3, bucket, "never", upload_id)
    s3.abort_multipart_upload(Bucket=bucket, Key="never", UploadId=upload_id)
    with pytest.raises(ClientError) as error:
        s3.list_parts(Bucket=bucket, Key="never", UploadId=upload_id)
    assert refused(error) == (404, "NoSuchUpload")
    s3.delete_bucket(Bucket=bucket)


def test_a_completion_obeys_its_condition_and_its_parts(s3: S3Client, bucket: str) -> None:
    upload_id = begin(s3, bucket, "tried")
    parts = sent(s3, bucket, "tried", upload_id)
    wanted = {"Bucket": bucket, "Key": "tried", "UploadId": upload_id}
    for wrong, code in (
        ([parts[1], parts[0]], "InvalidPartOrder"),
        ([{**parts[0], "ETag": '"other"'}, parts[1]], "InvalidPart"),
    ):
        with pytest.raises(ClientError) as error:
            s3.complete_multipart_upload(**wanted, MultipartUpload={"Parts": wrong})
        assert refused(error) == (400, code)
    s3.put_object(Bucket=bucket, Key="tried", Body=b"first")
    with pytest.raises(ClientError) as error:
        s3.complete_multipart_upload(**wanted, MultipartUpload={"Parts": parts}, IfNoneMatch="*")
    assert refused(error) == (412, "PreconditionFailed")
    assert got(s3, bucket, "tried") == b"first"


@pytest.mark.parametrize(
    ("algorithm", "kind"), [("CRC32", "FULL_OBJECT"), ("CRC64NVME", "FULL_OBJECT"), ("SHA256", "COMPOSITE")]
)
def test_checksums_of_parts_make_one_of_the_object(s3: S3Client, bucket: str, algorithm: str, kind: str) -> None:
    upload_id = begin(s3, bucket, "summed", ChecksumAlgorithm=algorithm, ChecksumType=kind)
    wanted = {"Bucket": bucket, "Key": "summed", "UploadId": upload_id}
    field = f"Checksum{algorithm}"
    parts: list[dict[str, object]] = []
    for number, part in enumerate(PARTS, 1):
        put = s3.upload_part(**wanted, PartNumber=number, Body=part, ChecksumAlgorithm=algorithm)
        parts.append({"PartNumber": number, "ETag": put["ETag"], field: put[field]})
    done = s3.complete_multipart_upload(**wanted, MultipartUpload={"Parts": parts}, ChecksumType=kind)
    head = s3.head_object(Bucket=bucket, Key="summed", ChecksumMode="ENABLED")
    assert (head[field], head["ChecksumType"]) == (done[field], kind)
    second = s3.head_object(Bucket=bucket, Key="summed", PartNumber=2, ChecksumMode="ENABLED")
    assert (second[field], second["ChecksumType"]) == (parts[1][field], kind)
    if kind == "FULL_OBJECT":
        once = s3.put_object(Bucket=bucket, Key="at once", Body=b"".join(PARTS), ChecksumAlgorithm=algorithm)
        assert once[field] == head[field]
