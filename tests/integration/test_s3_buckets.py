"""Buckets of S3 through boto3: made, listed, configured, and what their settings do."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from botocore.exceptions import ClientError

from tests.integration.s3_endpoints import Endpoint, S3Client
from tests.integration.test_s3_objects import got, refused

RULES = [
    {
        "ID": "old",
        "Status": "Enabled",
        "Filter": {"Prefix": "logs/"},
        "Expiration": {"Days": 30},
        "NoncurrentVersionExpiration": {"NoncurrentDays": 7},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 2},
    }
]


def test_a_bucket_is_made_found_and_removed(s3: S3Client, bucket: str) -> None:
    assert bucket in [found["Name"] for found in s3.list_buckets()["Buckets"]]
    assert s3.head_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPStatusCode"] == 200
    s3.get_bucket_location(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="a", Body=b"x")
    with pytest.raises(ClientError) as error:
        s3.delete_bucket(Bucket=bucket)
    assert refused(error) == (409, "BucketNotEmpty")
    s3.delete_object(Bucket=bucket, Key="a")
    s3.delete_bucket(Bucket=bucket)
    with pytest.raises(ClientError) as error:
        s3.list_objects_v2(Bucket=bucket)
    assert refused(error) == (404, "NoSuchBucket")


def test_a_malformed_bucket_name_is_refused(endpoint: Endpoint) -> None:
    with httpx.Client(verify=endpoint.trust()) as http:
        address = endpoint.client().generate_presigned_url("create_bucket", Params={"Bucket": "Upper_Case"})
        assert "InvalidBucketName" in http.put(address).text


def test_listings_fold_by_delimiter_and_go_on_page_by_page(s3: S3Client, bucket: str) -> None:
    names = ["a", "b/1", "b/2", "c/1", "d e+é", "f"]
    for name in names:
        s3.put_object(Bucket=bucket, Key=name, Body=b"x")
    folded = s3.list_objects_v2(Bucket=bucket, Delimiter="/")
    assert [found["Key"] for found in folded["Contents"]] == ["a", "d e+é", "f"]
    assert [found["Prefix"] for found in folded["CommonPrefixes"]] == ["b/", "c/"]
    for operation in ("list_objects", "list_objects_v2"):
        pages = s3.get_paginator(operation).paginate(Bucket=bucket, PaginationConfig={"PageSize": 2})
        assert [found["Key"] for page in pages for found in page["Contents"]] == names
    assert [found["Key"] for found in s3.list_objects_v2(Bucket=bucket, StartAfter="c/1")["Contents"]] == names[4:]
    assert [found["Key"] for found in s3.list_objects_v2(Bucket=bucket, Prefix="b/")["Contents"]] == names[1:3]


def test_versions_are_kept_listed_got_and_removed(s3: S3Client, bucket: str) -> None:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    versions = [s3.put_object(Bucket=bucket, Key="kept", Body=contents)["VersionId"] for contents in (b"1", b"2")]
    marker = s3.delete_object(Bucket=bucket, Key="kept")
    assert marker["DeleteMarker"]
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket=bucket, Key="kept")
    assert refused(error) == (404, "NoSuchKey")
    assert [got(s3, bucket, "kept", VersionId=version) for version in versions] == [b"1", b"2"]
    listed = s3.list_object_versions(Bucket=bucket)
    assert [found["VersionId"] for found in listed["Versions"]] == versions[::-1]
    assert [found["VersionId"] for found in listed["DeleteMarkers"]] == [marker["VersionId"]]
    s3.delete_object(Bucket=bucket, Key="kept", VersionId=marker["VersionId"])
    assert got(s3, bucket, "kept") == b"2"
    s3.delete_object(Bucket=bucket, Key="kept", VersionId=versions[1])
    assert got(s3, bucket, "kept") == b"1"
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
    s3.put_object(Bucket=bucket, Key="kept", Body=b"null")
    assert s3.head_object(Bucket=bucket, Key="kept")["VersionId"] == "null"
    assert got(s3, bucket, "kept", VersionId=versions[0]) == b"1"


def test_a_locked_version_is_not_removed(s3: S3Client, bucket: str) -> None:
    locked = f"{bucket}-locked"
    s3.create_bucket(Bucket=locked, ObjectLockEnabledForBucket=True)
    rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}
    s3.put_object_lock_configuration(
        Bucket=locked, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
    )
    assert s3.get_object_lock_configuration(Bucket=locked)["ObjectLockConfiguration"]["Rule"] == rule
    version = s3.put_object(Bucket=locked, Key="kept", Body=b"1")["VersionId"]
    with pytest.raises(ClientError) as error:
        s3.delete_object(Bucket=locked, Key="kept", VersionId=version)
    assert refused(error) == (403, "AccessDenied")
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=2)
    s3.put_object_retention(
        Bucket=locked, Key="kept", VersionId=version, Retention={"Mode": "GOVERNANCE", "RetainUntilDate": until}
    )
    told = s3.get_object_retention(Bucket=locked, Key="kept")["Retention"]
    assert told == {"Mode": "GOVERNANCE", "RetainUntilDate": until}
    s3.put_object_legal_hold(Bucket=locked, Key="kept", LegalHold={"Status": "ON"})
    with pytest.raises(ClientError) as error:
        s3.delete_object(Bucket=locked, Key="kept", VersionId=version, BypassGovernanceRetention=True)
    assert refused(error) == (403, "AccessDenied")
    s3.put_object_legal_hold(Bucket=locked, Key="kept", LegalHold={"Status": "OFF"})
    assert s3.get_object_legal_hold(Bucket=locked, Key="kept")["LegalHold"]["Status"] == "OFF"
    s3.delete_object(Bucket=locked, Key="kept", VersionId=version, BypassGovernanceRetention=True)


def test_tags_of_a_bucket_are_set_told_and_removed(s3: S3Client, bucket: str) -> None:
    tags = [{"Key": "cost", "Value": "centre 7"}]
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": tags})
    assert s3.get_bucket_tagging(Bucket=bucket)["TagSet"] == tags
    s3.delete_bucket_tagging(Bucket=bucket)
    with pytest.raises(ClientError) as error:
        s3.get_bucket_tagging(Bucket=bucket)
    assert refused(error) == (404, "NoSuchTagSet")


def test_a_browser_of_an_allowed_origin_is_let_in(endpoint: Endpoint, bucket: str) -> None:
    s3 = endpoint.client()
    rule = {"AllowedOrigins": ["https://*.example"], "AllowedMethods": ["GET"], "ExposeHeaders": ["ETag"]}
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [rule]})
    assert s3.get_bucket_cors(Bucket=bucket)["CORSRules"] == [rule]
    s3.put_object(Bucket=bucket, Key="seen", Body=b"x")
    address = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "seen"})
    with httpx.Client(verify=endpoint.trust()) as http:
        seen = http.get(address, headers={"Origin": "https://www.example"})
        assert seen.headers["access-control-expose-headers"] == "ETag"
        unseen = http.get(address, headers={"Origin": "https://www.elsewhere"})
        assert "access-control-allow-origin" not in unseen.headers
    s3.delete_bucket_cors(Bucket=bucket)


def test_a_lifecycle_is_set_told_and_removed(s3: S3Client, bucket: str) -> None:
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": RULES})
    assert s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"] == RULES
    s3.delete_bucket_lifecycle(Bucket=bucket)
    with pytest.raises(ClientError) as error:
        s3.get_bucket_lifecycle_configuration(Bucket=bucket)
    assert refused(error) == (404, "NoSuchLifecycleConfiguration")


def test_a_policy_denies(s3: S3Client, bucket: str) -> None:
    denial = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:DeleteObject",
        "Resource": f"arn:aws:s3:::{bucket}/kept/*",
    }
    policy = {"Version": "2012-10-17", "Statement": [denial]}
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    assert json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"]) == policy
    for name in ("kept/a", "b"):
        s3.put_object(Bucket=bucket, Key=name, Body=b"x")
    s3.delete_object(Bucket=bucket, Key="b")
    with pytest.raises(ClientError) as error:
        s3.delete_object(Bucket=bucket, Key="kept/a")
    assert refused(error) == (403, "AccessDenied")
    s3.delete_bucket_policy(Bucket=bucket)
    s3.delete_object(Bucket=bucket, Key="kept/a")


def test_a_canned_acl_is_private_or_nothing(s3: S3Client, bucket: str) -> None:
    s3.put_bucket_acl(Bucket=bucket, ACL="private")
    (grant,) = s3.get_bucket_acl(Bucket=bucket)["Grants"]
    assert grant["Permission"] == "FULL_CONTROL"
    with pytest.raises(ClientError) as error:
        s3.put_bucket_acl(Bucket=bucket, ACL="public-read")
    assert refused(error)[0] in {400, 403, 501}


def test_settings_that_change_nothing_here_are_told_again(s3: S3Client, bucket: str) -> None:
    blocks = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=blocks)
    assert s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"] == blocks
    owner = {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    s3.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls=owner)
    assert s3.get_bucket_ownership_controls(Bucket=bucket)["OwnershipControls"] == owner
