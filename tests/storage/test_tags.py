"""Tags and bucket keys: the written derivation, their independence, and what survives a revocation."""

from __future__ import annotations

import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.errors import RejectionError
from storage.identifiers import BucketTag
from storage.sealing import SecretKey
from storage.tags import (
    BucketTagKey,
    MasterKey,
    bucket_key,
    bucket_keys,
    bucket_tag,
    bucket_tag_key,
    name_tag,
    tenant_tag_key,
)

MASTER = MasterKey(SecretKey(bytes(range(32))))
TAG_KEY = tenant_tag_key(MASTER)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


def expand(secret: bytes, purpose: bytes) -> bytes:
    """HKDF of RFC 5869 by hand, one block, no salt."""
    return hmac.digest(hmac.digest(bytes(32), secret, "sha256"), purpose + b"\x01", "sha256")


def test_the_written_derivation() -> None:
    tenant_key = expand(bytes(range(32)), b"grandest/1/tenant-tag")
    assert TAG_KEY.reveal() == tenant_key
    tag = hmac.digest(tenant_key, b"photos", "sha256")[:16]
    assert bucket_tag(TAG_KEY, "photos") == tag
    tag_key = expand(tenant_key, b"grandest/1/bucket-tag\0" + tag)
    keys = bucket_keys(MASTER, TAG_KEY, "photos")
    assert keys.tag == tag
    assert keys.tag_key.reveal() == tag_key
    assert keys.bucket_key.reveal() == expand(bytes(range(32)), b"grandest/1/bucket\0" + tag)
    assert name_tag(keys.tag_key, "été.jpg") == hmac.digest(tag_key, "été.jpg".encode(), "sha256")[:16]


def test_a_new_master_key_changes_bucket_keys_and_keeps_tags() -> None:
    renewed = MasterKey(SecretKey(bytes(32)))
    before, after = bucket_keys(MASTER, TAG_KEY, "photos"), bucket_keys(renewed, TAG_KEY, "photos")
    assert after.bucket_key != before.bucket_key
    assert (after.tag, after.tag_key) == (before.tag, before.tag_key)


def test_one_name_in_two_buckets_has_two_tags() -> None:
    first, second = bucket_keys(MASTER, TAG_KEY, "a"), bucket_keys(MASTER, TAG_KEY, "b")
    assert name_tag(first.tag_key, "x") != name_tag(second.tag_key, "x")


def test_keys_of_one_bucket_differ_by_purpose() -> None:
    tag = BucketTag(bytes(16))
    assert bucket_key(MASTER, tag) != bucket_tag_key(TAG_KEY, tag)


def test_secrets_never_show() -> None:
    keys = bucket_keys(MASTER, TAG_KEY, "photos")
    assert repr(MASTER) == repr(TAG_KEY) == "SecretKey(redacted)"
    assert keys.bucket_key.reveal().hex() not in repr(keys)
    assert repr(keys) == f"BucketKeys(tag={keys.tag!r}, bucket_key=SecretKey(redacted), tag_key=SecretKey(redacted))"


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("", "the object's name has 0 bytes, 1 to 1024 allowed"),
        ("é" * 513, "the object's name has 1026 bytes, 1 to 1024 allowed"),
        ("\ud800", "the object's name is not Unicode text"),
    ],
)
def test_impossible_names_are_refused(name: str, detail: str) -> None:
    with pytest.raises(RejectionError) as caught:
        name_tag(BucketTagKey(MASTER), name)
    assert str(caught.value) == f"bad_record: {detail}"


def test_bucket_names_are_shorter() -> None:
    assert len(bucket_tag(TAG_KEY, "b" * 63)) == 16
    with pytest.raises(RejectionError, match=r"^bad_record: the bucket's name has 64 bytes, 1 to 63 allowed$"):
        bucket_tag(TAG_KEY, "b" * 64)


@given(left=NAMES, right=NAMES)
def test_tags_tell_names_apart(left: str, right: str) -> None:
    tag_key = bucket_tag_key(TAG_KEY, BucketTag(bytes(16)))
    assert (name_tag(tag_key, left) == name_tag(tag_key, right)) == (left == right)
