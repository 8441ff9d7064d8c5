"""Access keys reach what they name and nothing else: generated attempts across tenants, buckets, verbs and time.

GRANDEST_ATTEMPTS=10000 makes it long (make campaign).
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import random
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import quote

import pytest

from node.gateway.access_keys import Verb
from tests.node.gateway.memory_gateway import ACCESS_KEYS, ONE_BUCKET, OURS, SECRET, MemoryGateway
from tests.node.gateway.raw_requests import Answer, RawRequest, exchanged
from tests.node.gateway.request_corpus import corpus, mutated, named

ATTEMPTS = int(os.environ.get("GRANDEST_ATTEMPTS", "600"))
KEPT = b"what nobody else may read"
DELETED = b"<Delete><Object><Key>kept</Key></Object></Delete>"


def sent(gateway: MemoryGateway, request: RawRequest) -> Answer:
    return exchanged(gateway.address, request.signed(gateway.address))


@pytest.fixture
def private(gateway: MemoryGateway) -> Iterator[str]:
    """A bucket of our tenant that the key of one bucket does not name."""
    contents = gateway.stores[OURS].contents
    for bucket in ("private", ONE_BUCKET):
        assert sent(gateway, RawRequest(method="PUT", target=f"/{bucket}")).status == 200
        assert sent(gateway, RawRequest(method="PUT", target=f"/{bucket}/kept", body=KEPT)).status == 200
    yield "private"
    for bucket in ("private", ONE_BUCKET):
        del contents[bucket]


def told(gateway: MemoryGateway, bucket: str) -> object:
    """Return all that a bucket holds, in a form that can be compared."""
    contents = gateway.stores[OURS].contents[bucket]
    return (
        contents.bucket,
        {name: list(versions) for name, versions in contents.versions.items()},
        dict(contents.uploads),
    )


@pytest.mark.parametrize("access_key", ["THEIRS", "EXPIRED", "BUCKET", "NOBODY"])
def test_no_attempt_at_a_bucket_out_of_reach_succeeds(gateway: MemoryGateway, private: str, access_key: str) -> None:
    before = told(gateway, private)
    requests = corpus(private, "0" * 32)
    for seed in range(ATTEMPTS // 4):
        chance = random.Random(seed)
        attempt = chance.choice(requests)
        if chance.random() < 0.7:
            attempt = named(mutated(attempt, chance), private, "")
        answer = sent(gateway, replace(attempt, access_key=access_key))
        assert KEPT not in answer.body, (seed, attempt)
        assert told(gateway, private) == before, (seed, attempt, answer)


@pytest.mark.parametrize("verb", list(Verb))
def test_a_key_of_one_verb_does_nothing_else(gateway: MemoryGateway, private: str, verb: Verb) -> None:
    before = told(gateway, private)
    changes = {Verb.WRITE, Verb.DELETE, Verb.ADMINISTER}
    for attempt in corpus(private, "0" * 32):
        answer = sent(gateway, replace(attempt, access_key=verb.name))
        assert verb is Verb.READ or KEPT not in answer.body, attempt
        assert verb in changes or told(gateway, private) == before, (attempt, answer)
    kept = gateway.stores[OURS].contents.get(private)
    if verb is Verb.WRITE:
        assert kept is not None, "a writer deleted the bucket"
        assert "kept" in kept.versions, "a writer deleted an object"


def test_a_copy_needs_the_right_to_read_its_source(gateway: MemoryGateway, private: str) -> None:
    for access_key, source in (
        ("BUCKET", f"/{private}/kept"),
        ("WRITE", f"{ONE_BUCKET}/kept"),
        ("THEIRS", f"{private}/kept"),
    ):
        copied = RawRequest(
            method="PUT",
            target=f"/{ONE_BUCKET}/stolen",
            headers=(("x-amz-copy-source", source),),
            access_key=access_key,
        )
        answer = sent(gateway, copied)
        assert answer.status in {403, 404}, (access_key, answer)
    assert list(gateway.stores[OURS].contents[ONE_BUCKET].versions) == ["kept"]
    allowed = RawRequest(
        method="PUT",
        target=f"/{ONE_BUCKET}/copied",
        headers=(("x-amz-copy-source", f"{ONE_BUCKET}/kept"),),
        access_key="BUCKET",
    )
    assert sent(gateway, allowed).status == 200


def test_a_key_of_one_bucket_sees_one_bucket(gateway: MemoryGateway, private: str) -> None:
    listed = sent(gateway, RawRequest(method="GET", target="/", access_key="BUCKET"))
    assert ONE_BUCKET.encode() in listed.body
    assert private.encode() not in listed.body


def test_a_retention_is_bypassed_by_who_administers_alone(gateway: MemoryGateway) -> None:
    lock = (("x-amz-bucket-object-lock-enabled", "true"),)
    sent(gateway, RawRequest(method="PUT", target="/locked", headers=lock))
    retained = (
        ("x-amz-object-lock-mode", "GOVERNANCE"),
        ("x-amz-object-lock-retain-until-date", "2100-01-01T00:00:00Z"),
    )
    put = sent(gateway, RawRequest(method="PUT", target="/locked/kept", headers=retained, body=KEPT))
    assert put.status == 200, put
    (version,) = gateway.stores[OURS].contents["locked"].versions["kept"]
    bypass = (("x-amz-bypass-governance-retention", "true"),)
    target = f"/locked/kept?versionId={version.shown_id}"
    for access_key in ("DELETE", "THEIRS", "BUCKET"):
        sent(gateway, RawRequest(method="DELETE", target=target, headers=bypass, access_key=access_key))
        assert "kept" in gateway.stores[OURS].contents["locked"].versions
    assert sent(gateway, RawRequest(method="DELETE", target=target, headers=bypass)).status == 204
    del gateway.stores[OURS].contents["locked"]


@pytest.mark.parametrize(
    ("action", "attempt"),
    [
        ("s3:GetObject", RawRequest(method="GET", target="/private/kept")),
        ("s3:GetObject", RawRequest(method="HEAD", target="/private/kept")),
        ("s3:GetObject", RawRequest(method="GET", target="/private/kept?attributes")),
        ("s3:PutObject", RawRequest(method="PUT", target="/private/kept", body=b"other")),
        ("s3:PutObject", RawRequest(method="POST", target="/private/kept?uploads")),
        ("s3:DeleteObject", RawRequest(method="DELETE", target="/private/kept")),
        ("s3:Delete*", RawRequest(method="DELETE", target="/private/kept")),
        ("s3:PutObjectTagging", RawRequest(method="DELETE", target="/private/kept?tagging")),
    ],
)
def test_what_a_policy_denies_is_denied_by_every_road(
    gateway: MemoryGateway, private: str, action: str, attempt: RawRequest
) -> None:
    before = deny(gateway, private, action)
    assert sent(gateway, attempt).status == (403 if action != "s3:PutObjectTagging" else 204)
    assert action == "s3:PutObjectTagging" or told(gateway, private) == before


def deny(gateway: MemoryGateway, bucket: str, action: str) -> object:
    """Give a bucket a policy that denies one action on its objects; return what the bucket holds then."""
    denial = {"Effect": "Deny", "Principal": "*", "Action": action, "Resource": f"arn:aws:s3:::{bucket}/*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [denial]}).encode()
    assert sent(gateway, RawRequest(method="PUT", target=f"/{bucket}?policy", body=policy)).status == 204
    return told(gateway, bucket)


def test_many_deletions_at_once_are_denied_one_by_one(gateway: MemoryGateway, private: str) -> None:
    before = deny(gateway, private, "s3:DeleteObject")
    md5 = base64.b64encode(hmac.digest(b"", b"", "sha1")).decode()
    assert md5
    answer = sent(gateway, RawRequest(method="POST", target=f"/{private}?delete", body=DELETED))
    assert b"<Code>AccessDenied</Code>" in answer.body
    assert told(gateway, private) == before


def test_a_copy_obeys_the_policy_of_its_source(gateway: MemoryGateway, private: str) -> None:
    deny(gateway, private, "s3:GetObject")
    copied = RawRequest(
        method="PUT", target=f"/{ONE_BUCKET}/stolen", headers=(("x-amz-copy-source", quote(f"{private}/kept")),)
    )
    assert sent(gateway, copied).status == 403


def test_no_secret_is_in_any_answer(gateway: MemoryGateway, private: str) -> None:
    for access_key in ACCESS_KEYS:
        for attempt in corpus(private, "0" * 32)[:20]:
            answer = sent(gateway, replace(attempt, access_key=access_key))
            assert SECRET.encode() not in answer.body + answer.head.encode()
