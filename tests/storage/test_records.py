"""Records: what is sealed comes back under its own key and name alone, within its limits."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.encoding import encode
from consensus.errors import RejectionError
from consensus.identifiers import Milliseconds
from storage.errors import UnsealError
from storage.identifiers import NameTag, TenantId, VersionId
from storage.records import (
    RECORD_BYTES_MAX,
    SEALINGS_MAX,
    ObjectRecord,
    RecordContents,
    record_address,
    seal_record,
    unseal_record,
)
from storage.sealing import (
    ObjectKey,
    RangeEnd,
    Sealing,
    SealingDomain,
    SealingKey,
    SealingSalt,
    SecretKey,
    seal_range,
    sealed_bytes,
)
from storage.tags import BucketKeys, MasterKey, bucket_keys, name_tag, tenant_tag_key

MASTER = MasterKey(SecretKey(bytes(range(32))))
KEYS = bucket_keys(MASTER, tenant_tag_key(MASTER), "photos")
OTHER_KEYS = bucket_keys(MASTER, tenant_tag_key(MASTER), "films")
OBJECT_KEY = ObjectKey(SecretKey(bytes(range(200, 232))))
SALT = SealingSalt(bytes(range(50, 82)))
RECORD = ObjectRecord(
    name="été/plage.jpg",
    plain_bytes=70_000,
    etag="9e107d9d372bb6826bd81d3542a419d6",
    content_type="image/jpeg",
    user_metadata=(("camera", "sténopé"),),
    modified_ms=Milliseconds(1_700_000_000_000),
    sealings=(Sealing(salt=SealingSalt(bytes(32)), plain_bytes=70_000),),
)
TAG = name_tag(KEYS.tag_key, RECORD.name)
KNOWN_RECORD = "8d31016f526651e211a948a93e61fb704bd078811fa9ab683007d63c06fa2cc4"
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
RECORDS = st.builds(
    ObjectRecord,
    name=TEXT.filter(bool),
    plain_bytes=st.integers(0, 2**40),
    etag=TEXT,
    content_type=TEXT,
    user_metadata=st.lists(st.tuples(TEXT.filter(bool), TEXT), max_size=5).map(tuple),
    modified_ms=st.integers(0, 2**53 - 1).map(Milliseconds),
    sealings=st.just(()),
).map(lambda record: sealed_in(record, 2))


def sealed_in(record: ObjectRecord, parts: int) -> ObjectRecord:
    """The record with its bytes in so many sealings."""
    share = record.plain_bytes // parts
    lengths = [share] * (parts - 1) + [record.plain_bytes - share * (parts - 1)]
    sealings = tuple(
        Sealing(salt=SealingSalt(i.to_bytes(32, "big")), plain_bytes=length) for i, length in enumerate(lengths)
    )
    return msgspec.structs.replace(record, sealings=sealings)


def forge(contents: bytes, keys: BucketKeys = KEYS) -> bytes:
    """A record that a holder of the bucket key seals around anything."""
    record_key = SealingKey(keys.bucket_key, SealingDomain.RECORD, SALT)
    sealed = bytearray(sealed_bytes(len(contents)))
    seal_range(record_key, contents, 0, RangeEnd.LAST, sealed)
    return SALT + record_key.commitment + bytes(sealed)


def test_a_record_comes_back() -> None:
    opened = unseal_record(seal_record(RECORD, OBJECT_KEY, KEYS, SALT), KEYS, TAG)
    assert opened.object_record == RECORD
    assert opened.object_key == OBJECT_KEY


def test_a_usual_record_is_about_300_bytes() -> None:
    assert len(seal_record(RECORD, OBJECT_KEY, KEYS, SALT)) == 272


def test_known_record() -> None:
    assert hashlib.sha256(seal_record(RECORD, OBJECT_KEY, KEYS, SALT)).hexdigest() == KNOWN_RECORD


def test_nothing_of_a_record_shows() -> None:
    sealed = seal_record(RECORD, OBJECT_KEY, KEYS, SALT)
    for secret in (RECORD.name.encode(), b"image/jpeg", OBJECT_KEY.reveal(), KEYS.bucket_key.reveal()):
        assert secret not in sealed
    assert OBJECT_KEY.reveal().hex() not in repr(unseal_record(sealed, KEYS, TAG))


def test_another_bucket_key_is_named_before_decryption() -> None:
    with pytest.raises(UnsealError, match=r"^the record is sealed under another key$"):
        unseal_record(seal_record(RECORD, OBJECT_KEY, OTHER_KEYS, SALT), KEYS, TAG)


def test_a_record_of_another_name_is_refused() -> None:
    other = msgspec.structs.replace(RECORD, name="autre.jpg")
    with pytest.raises(UnsealError, match=r"^the record is about another name$"):
        unseal_record(seal_record(other, OBJECT_KEY, KEYS, SALT), KEYS, TAG)
    with pytest.raises(UnsealError, match=r"^the record is about another name$"):
        unseal_record(seal_record(RECORD, OBJECT_KEY, KEYS, SALT), KEYS, NameTag(bytes(16)))


def test_the_same_record_sealed_again_shares_nothing() -> None:
    first = seal_record(RECORD, OBJECT_KEY, KEYS, SALT)
    second = seal_record(RECORD, OBJECT_KEY, KEYS, SealingSalt(bytes(32)))
    assert not {first[i : i + 8] for i in range(len(first) - 8)} & {second[i : i + 8] for i in range(len(second) - 8)}


def test_a_wrapped_key_of_another_record_does_not_open() -> None:
    contents = RecordContents(object_record=RECORD, wrapped_object_key=bytes(48))
    with pytest.raises(UnsealError, match=r"^frame 0 is not what its key sealed$"):
        unseal_record(forge(encode(contents)), KEYS, TAG)


def test_sealed_nonsense_is_refused_by_reason() -> None:
    with pytest.raises(RejectionError, match=r"^malformed: "):
        unseal_record(forge(b"nonsense"), KEYS, TAG)
    lying = msgspec.structs.replace(RECORD, plain_bytes=1)
    with pytest.raises(RejectionError, match=r"^bad_record: sealings of 70000 bytes for an object of 1$"):
        unseal_record(forge(encode(RecordContents(object_record=lying, wrapped_object_key=bytes(48)))), KEYS, TAG)


@pytest.mark.parametrize("length", [0, 79, RECORD_BYTES_MAX + 1])
def test_lengths_that_no_record_has_are_refused(length: int) -> None:
    with pytest.raises(UnsealError, match=rf"^a record of {length} bytes$"):
        unseal_record(bytes(length), KEYS, TAG)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (msgspec.structs.replace(RECORD, name=""), "bad_record: the object's name has 0 bytes, 1 to 1024 allowed"),
        (
            msgspec.structs.replace(RECORD, name="é" * 600),
            "bad_record: the object's name has 1200 bytes, 1 to 1024 allowed",
        ),
        (msgspec.structs.replace(RECORD, name="\ud800"), "bad_record: the object's name is not Unicode text"),
        (msgspec.structs.replace(RECORD, etag="\ud800"), "bad_record: text that is not Unicode"),
        (
            msgspec.structs.replace(RECORD, user_metadata=(("a", "é" * 1024),)),
            "bad_record: user metadata of 2049 bytes",
        ),
        (msgspec.structs.replace(RECORD, user_metadata=(("a", ""),) * 65), "bad_record: user metadata of 65 bytes"),
        (msgspec.structs.replace(RECORD, plain_bytes=1), "bad_record: sealings of 70000 bytes for an object of 1"),
        (
            msgspec.structs.replace(RECORD, plain_bytes=140_000, sealings=RECORD.sealings * 2),
            "bad_record: one salt in two sealings",
        ),
        (msgspec.structs.replace(RECORD, plain_bytes=0, sealings=()), "bad_record: 0 sealings"),
    ],
)
def test_records_beyond_the_limits_are_never_sealed(record: ObjectRecord, reason: str) -> None:
    with pytest.raises(RejectionError) as caught:
        seal_record(record, OBJECT_KEY, KEYS, SALT)
    assert str(caught.value) == reason


def test_the_longest_list_of_parts_fits_beside_little_else() -> None:
    most = sealed_in(RECORD, SEALINGS_MAX)
    opened = unseal_record(seal_record(most, OBJECT_KEY, KEYS, SALT), KEYS, TAG)
    assert opened.object_record == most
    fuller = msgspec.structs.replace(most, user_metadata=(("a", "b" * 2000),))
    with pytest.raises(RejectionError, match=r"^oversized: record of \d+ bytes, 16384 allowed$"):
        seal_record(fuller, OBJECT_KEY, KEYS, SALT)


def test_the_address_binds_tenant_and_version() -> None:
    tenant, version = TenantId(b"t" * 16), VersionId(b"v" * 16)
    expected = hashlib.sha256(b"grandest/1/record\0" + b"t" * 16 + b"v" * 16 + b"sealed").digest()
    assert record_address(tenant, version, b"sealed") == expected
    assert record_address(TenantId(bytes(16)), version, b"sealed") != expected
    assert record_address(tenant, VersionId(bytes(16)), b"sealed") != expected
    with pytest.raises(AssertionError):
        record_address(TenantId(b"t" * 15), version, b"sealed")


@settings(max_examples=60)
@given(record=RECORDS, salt=st.binary(min_size=32, max_size=32).map(SealingSalt))
def test_every_record_comes_back(record: ObjectRecord, salt: SealingSalt) -> None:
    sealed = seal_record(record, OBJECT_KEY, KEYS, salt)
    opened = unseal_record(sealed, KEYS, name_tag(KEYS.tag_key, record.name))
    assert (opened.object_record, opened.object_key) == (record, OBJECT_KEY)


@given(place=st.integers(min_value=0), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed(place: int, bit: int) -> None:
    sealed = bytearray(seal_record(RECORD, OBJECT_KEY, KEYS, SALT))
    sealed[place % len(sealed)] ^= 1 << bit
    with pytest.raises(UnsealError):
        unseal_record(bytes(sealed), KEYS, TAG)
