"""Objects of S3 through boto3: what is put is got, under every condition, header and checksum that S3 knows."""

from __future__ import annotations

import base64
import hashlib
import random
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from tests.integration.s3_endpoints import Endpoint, S3Client

CONTENTS = random.Random(1).randbytes(100_000)
PART_BYTES = 5 * 1024 * 1024


def refused(error: pytest.ExceptionInfo[ClientError]) -> tuple[int, str]:
    """Return the status and S3's code."""
    response = error.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


def got(s3: S3Client, bucket: str, name: str, **more: object) -> bytes:
    contents: bytes = s3.get_object(Bucket=bucket, Key=name, **more)["Body"].read()
    return contents


@pytest.mark.parametrize("name", ["plain", "with spaces & ünïcode/ça.txt", "a//b", "../up", "semi;+=?#%25", "n" * 900])
def test_an_object_comes_back_under_any_name(s3: S3Client, bucket: str, name: str) -> None:
    s3.put_object(Bucket=bucket, Key=name, Body=CONTENTS)
    assert got(s3, bucket, name) == CONTENTS
    assert [found["Key"] for found in s3.list_objects_v2(Bucket=bucket)["Contents"]] == [name]


def test_default_settings_serve_by_http_and_tls(endpoint: Endpoint, bucket: str) -> None:
    s3 = endpoint.client()
    for contents in (b"", b"x", CONTENTS):
        put = s3.put_object(Bucket=bucket, Key="some", Body=contents)
        assert put["ETag"] == f'"{hashlib.md5(contents, usedforsecurity=False).hexdigest()}"'
        assert got(s3, bucket, "some") == contents


def test_the_resource_serves(endpoint: Endpoint, bucket: str) -> None:
    kept = endpoint.resource().Bucket(bucket)
    for number in range(3):
        kept.Object(f"some/{number}").put(Body=CONTENTS[number:])
    assert [found.key for found in kept.objects.filter(Prefix="some/")] == ["some/0", "some/1", "some/2"]
    assert kept.Object("some/2").get()["Body"].read() == CONTENTS[2:]
    kept.objects.all().delete()
    assert list(kept.objects.all()) == []


def test_the_transfer_manager_sends_and_fetches_in_parts(endpoint: Endpoint, bucket: str, tmp_path: Path) -> None:
    contents = random.Random(2).randbytes(2 * PART_BYTES + 12_345)
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(contents)
    s3 = endpoint.client()
    in_parts = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=4)
    s3.upload_file(str(source), bucket, "large", Config=in_parts)
    s3.download_file(bucket, "large", str(back), Config=in_parts)
    assert back.read_bytes() == contents
    assert s3.head_object(Bucket=bucket, Key="large")["ETag"].endswith('-3"')


def test_what_headers_said_is_told_again(s3: S3Client, bucket: str) -> None:
    told = {
        "ContentType": "text/x-test",
        "ContentEncoding": "identity",
        "ContentLanguage": "fr",
        "ContentDisposition": 'attachment; filename="a"',
        "CacheControl": "max-age=7",
        "Metadata": {"colour": "bleu", "two-words": "a b"},
    }
    s3.put_object(Bucket=bucket, Key="told", Body=CONTENTS, **told)
    head = s3.head_object(Bucket=bucket, Key="told")
    assert {name: head[name] for name in told} == told
    assert head["ContentLength"] == len(CONTENTS)
    assert abs(head["LastModified"] - datetime.now(UTC)) < timedelta(minutes=5)


def test_an_answer_may_be_given_other_headers(s3: S3Client, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="told", Body=b"x", ContentType="text/plain")
    found = s3.get_object(Bucket=bucket, Key="told", ResponseContentType="a/b", ResponseCacheControl="no-store")
    assert (found["ContentType"], found["CacheControl"]) == ("a/b", "no-store")


def test_a_range_gives_its_bytes_alone(s3: S3Client, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="ranged", Body=CONTENTS)
    for wanted, expected in (
        ("bytes=0-0", CONTENTS[:1]),
        ("bytes=99000-", CONTENTS[99_000:]),
        ("bytes=-5", CONTENTS[-5:]),
        ("bytes=10-1000000", CONTENTS[10:]),
    ):
        assert got(s3, bucket, "ranged", Range=wanted) == expected
    found = s3.get_object(Bucket=bucket, Key="ranged", Range="bytes=7-9")
    assert found["ContentRange"] == "bytes 7-9/100000"
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket=bucket, Key="ranged", Range="bytes=100000-")
    assert refused(error) == (416, "InvalidRange")


def test_reads_obey_their_conditions(s3: S3Client, bucket: str) -> None:
    etag = s3.put_object(Bucket=bucket, Key="tried", Body=CONTENTS)["ETag"]
    later = datetime.now(UTC) + timedelta(days=1)
    assert got(s3, bucket, "tried", IfMatch=etag) == CONTENTS
    for conditions, status in (
        ({"IfMatch": '"other"'}, 412),
        ({"IfNoneMatch": etag}, 304),
        ({"IfModifiedSince": later}, 304),
        ({"IfUnmodifiedSince": later - timedelta(days=2)}, 412),
    ):
        with pytest.raises(ClientError) as error:
            s3.get_object(Bucket=bucket, Key="tried", **conditions)
        assert refused(error)[0] == status, conditions


def test_writes_obey_their_conditions(s3: S3Client, bucket: str) -> None:
    etag = s3.put_object(Bucket=bucket, Key="tried", Body=b"1", IfNoneMatch="*")["ETag"]
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket=bucket, Key="tried", Body=b"2", IfNoneMatch="*")
    assert refused(error) == (412, "PreconditionFailed")
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket=bucket, Key="tried", Body=b"2", IfMatch='"other"')
    assert refused(error) == (412, "PreconditionFailed")
    s3.put_object(Bucket=bucket, Key="tried", Body=b"3", IfMatch=etag)
    assert got(s3, bucket, "tried") == b"3"


def test_a_copy_has_the_bytes_and_the_headers(s3: S3Client, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="from", Body=CONTENTS, Metadata={"a": "b"})
    s3.copy_object(Bucket=bucket, Key="to", CopySource={"Bucket": bucket, "Key": "from"})
    assert got(s3, bucket, "to") == CONTENTS
    assert s3.head_object(Bucket=bucket, Key="to")["Metadata"] == {"a": "b"}
    replaced = {"MetadataDirective": "REPLACE", "Metadata": {"c": "d"}}
    s3.copy_object(Bucket=bucket, Key="to", CopySource={"Bucket": bucket, "Key": "to"}, **replaced)
    assert s3.head_object(Bucket=bucket, Key="to")["Metadata"] == {"c": "d"}


def test_what_was_deleted_is_not_found(s3: S3Client, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="gone", Body=CONTENTS)
    s3.delete_object(Bucket=bucket, Key="gone")
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket=bucket, Key="gone")
    assert refused(error) == (404, "NoSuchKey")
    s3.delete_object(Bucket=bucket, Key="gone")


def test_many_objects_are_deleted_at_once(s3: S3Client, bucket: str) -> None:
    names = [f"many/{number}" for number in range(20)]
    for name in names:
        s3.put_object(Bucket=bucket, Key=name, Body=b"x")
    wanted = {"Objects": [{"Key": name} for name in (*names[1:], "never there")]}
    deleted = s3.delete_objects(Bucket=bucket, Delete=wanted)["Deleted"]
    assert sorted(found["Key"] for found in deleted) == sorted((*names[1:], "never there"))
    assert [found["Key"] for found in s3.list_objects_v2(Bucket=bucket)["Contents"]] == names[:1]


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_a_checksum_is_kept_and_told(endpoint: Endpoint, bucket: str, algorithm: str) -> None:
    s3 = endpoint.client()
    put = s3.put_object(Bucket=bucket, Key="summed", Body=CONTENTS, ChecksumAlgorithm=algorithm)
    head = s3.head_object(Bucket=bucket, Key="summed", ChecksumMode="ENABLED")
    assert put[f"Checksum{algorithm}"] == head[f"Checksum{algorithm}"]
    assert got(s3, bucket, "summed") == CONTENTS


def test_a_wrong_checksum_stores_nothing(s3: S3Client, bucket: str) -> None:
    wrong = base64.b64encode(zlib.crc32(b"something else").to_bytes(4, "big")).decode()
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket=bucket, Key="wrong", Body=CONTENTS, ChecksumCRC32=wrong)
    assert refused(error) == (400, "BadDigest")
    wrong = base64.b64encode(hashlib.md5(b"something else", usedforsecurity=False).digest()).decode()
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket=bucket, Key="wrong", Body=CONTENTS, ContentMD5=wrong)
    assert refused(error) == (400, "BadDigest")
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)


def test_attributes_tell_of_the_object_without_its_bytes(s3: S3Client, bucket: str) -> None:
    put = s3.put_object(Bucket=bucket, Key="told", Body=CONTENTS)
    wanted = ["ETag", "ObjectSize", "Checksum", "StorageClass"]
    found = s3.get_object_attributes(Bucket=bucket, Key="told", ObjectAttributes=wanted)
    assert (found["ETag"], found["ObjectSize"]) == (put["ETag"].strip('"'), len(CONTENTS))
    assert found["Checksum"]["ChecksumCRC32"] == put["ChecksumCRC32"]


def test_tags_of_an_object_are_set_told_and_removed(s3: S3Client, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="tagged", Body=CONTENTS, Tagging="a=1&b=2")
    found = s3.get_object(Bucket=bucket, Key="tagged")
    assert (found["TagCount"], len(found["Body"].read())) == (2, found["ContentLength"])
    tags = [{"Key": "c", "Value": "3 é"}]
    s3.put_object_tagging(Bucket=bucket, Key="tagged", Tagging={"TagSet": tags})
    assert s3.get_object_tagging(Bucket=bucket, Key="tagged")["TagSet"] == tags
    s3.delete_object_tagging(Bucket=bucket, Key="tagged")
    assert s3.get_object_tagging(Bucket=bucket, Key="tagged")["TagSet"] == []
    assert got(s3, bucket, "tagged") == CONTENTS


def test_a_presigned_address_puts_and_gets(endpoint: Endpoint, bucket: str) -> None:
    s3 = endpoint.client()
    named = {"Bucket": bucket, "Key": "by address é"}
    verify = endpoint.trust()
    put = httpx.put(s3.generate_presigned_url("put_object", Params=named), content=CONTENTS, verify=verify)
    assert put.status_code == 200, put.text
    address = s3.generate_presigned_url("get_object", Params=named)
    assert httpx.get(address, verify=verify).content == CONTENTS
    assert httpx.get(address.replace("by", "of"), verify=verify).status_code == 403


def test_a_form_posts_within_its_policy(endpoint: Endpoint, bucket: str) -> None:
    post = endpoint.client().generate_presigned_post(
        bucket, "posted/${filename}", Conditions=[["content-length-range", 1, 1000], ["starts-with", "$key", "posted/"]]
    )
    verify = endpoint.trust()
    posted = httpx.post(post["url"], data=post["fields"], files={"file": ("a.txt", b"contents")}, verify=verify)
    assert posted.status_code == 204, posted.text
    assert got(endpoint.client(), bucket, "posted/a.txt") == b"contents"
    too_long = httpx.post(post["url"], data=post["fields"], files={"file": ("b.txt", CONTENTS)}, verify=verify)
    assert (too_long.status_code, "EntityTooLarge" in too_long.text) == (400, True)


def test_what_is_not_supported_is_never_a_false_success(s3: S3Client, bucket: str) -> None:
    customer_key = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "k" * 32}
    for wanted in (customer_key, {"ServerSideEncryption": "aws:kms"}, {"StorageClass": "GLACIER"}):
        with pytest.raises(ClientError) as error:
            s3.put_object(Bucket=bucket, Key="never", Body=b"x", **wanted)
        assert refused(error)[0] in {400, 501}, wanted
    with pytest.raises(ClientError) as error:
        s3.restore_object(Bucket=bucket, Key="never", RestoreRequest={"Days": 1})
    assert refused(error) == (501, "NotImplemented")
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)
