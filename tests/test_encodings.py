"""Every record kind of the house: one value, one encoding, bounded and frozen.

A new kind is found by itself. It needs nothing here but bounds that its fields declare, and its line in
tests/vectors/encodings.json; a changed line is a changed protocol or disk format.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.encoding import Record, decode, encode
from consensus.errors import RejectionError, RejectionReason
from tests.corpus import corpus_text, example, kind_name, record_kinds
from tests.strategies import records

FROZEN = Path(__file__).parent / "vectors" / "encodings.json"
KINDS = record_kinds()
BYTES_MAX = 1024 * 1024
every_kind = pytest.mark.parametrize("kind", KINDS, ids=kind_name)


def test_every_kind_of_the_rooms_is_found_and_frozen() -> None:
    frozen = json.loads(FROZEN.read_text())
    assert [kind_name(kind) for kind in KINDS] == sorted(frozen)
    assert len(KINDS) >= 105


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_encodings_are_what_they_were(hash_seed: str) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    written = subprocess.run(
        [sys.executable, "-m", "tests.corpus"],
        cwd=FROZEN.parent.parent.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(written.stdout) == json.loads(FROZEN.read_text()), "a changed encoding is a changed protocol"


def test_the_file_of_hashes_is_as_it_is_written() -> None:
    assert FROZEN.read_text() == corpus_text()


@every_kind
def test_least_and_greatest_values_come_back(kind: type[Record]) -> None:
    for number in range(4):
        record = example(kind, number)
        assert decode(encode(record), kind, bytes_max=BYTES_MAX) == record


@every_kind
def test_what_was_encoded_decodes_to_the_same_record(kind: type[Record]) -> None:
    @settings(max_examples=12)
    @given(record=records(kind))
    def check(record: Record) -> None:
        encoded = encode(record)
        decoded = decode(encoded, kind, bytes_max=BYTES_MAX)
        assert decoded == record
        assert hash(decoded) == hash(record)
        assert encode(decoded) == encoded
        assert packed(msgspec.to_builtins(record, builtin_types=(bytes,))) == encoded, "two libraries, one encoding"

    check()


def mutated(encoded: bytes, choice: Random) -> bytes:
    """Return other bytes: one bit flipped, cut short, made longer, or a piece of it twice."""
    start, end = sorted(choice.randrange(len(encoded) + 1) for _ in range(2))
    match choice.randrange(4):
        case 0:
            return encoded[:start]
        case 1:
            return encoded + choice.randbytes(1 + choice.randrange(9))
        case 2:
            return encoded[:end] + encoded[start:]
        case _:
            flipped = bytearray(encoded)
            flipped[choice.randrange(len(encoded))] ^= 1 << choice.randrange(8)
            return bytes(flipped)


@every_kind
def test_changed_bytes_are_refused_or_another_record(kind: type[Record]) -> None:
    @settings(max_examples=16)
    @given(record=records(kind), choice=st.randoms(use_true_random=False))
    def check(record: Record, choice: Random) -> None:
        encoded = encode(record)
        changed = mutated(encoded, choice)
        try:
            decoded = decode(changed, kind, bytes_max=BYTES_MAX)
        except RejectionError:
            return
        assert encode(decoded) == changed
        assert changed == encoded or decoded != record

    check()


@every_kind
def test_any_bytes_are_refused_by_reason_or_are_the_one_encoding(kind: type[Record]) -> None:
    @settings(max_examples=12)
    @given(hostile=st.binary(max_size=64) | nested().map(packed))
    def check(hostile: bytes) -> None:
        try:
            decoded = decode(hostile, kind, bytes_max=64)
        except RejectionError as refusal:
            reason = refusal.reason
        else:
            assert encode(decoded) == hostile
            return
        assert reason in {RejectionReason.OVERSIZED, RejectionReason.MALFORMED, RejectionReason.NOT_CANONICAL}

    check()


def nested() -> st.SearchStrategy[object]:
    """Draw what MessagePack can say and a record may not be: maps, floats, text, deep arrays."""
    leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary() | st.text()
    return st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner))


def packed(value: object) -> bytes:
    return bytes(msgpack.packb(value))
