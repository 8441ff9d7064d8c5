"""CRC-64/XZ: the published check value, a plain reference, and what it notices."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from storage.checksums import checksum

POLYNOMIAL = 0xC96C5795D7870F42
"""ECMA-182, bits reversed."""


def reference(contents: bytes) -> bytes:
    """The same, bit by bit."""
    register = 2**64 - 1
    for byte in contents:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (POLYNOMIAL if register & 1 else 0)
    return (register ^ 2**64 - 1).to_bytes(8, "big")


def test_the_check_value_of_the_catalogue() -> None:
    assert checksum(b"123456789").hex() == "995dc9bbdf1939fa"


@given(contents=st.binary(max_size=2_000))
def test_it_is_what_its_definition_says(contents: bytes) -> None:
    assert checksum(contents) == checksum(memoryview(contents)) == reference(contents)


def test_every_flipped_byte_of_a_unit_is_noticed() -> None:
    unit = bytearray(random.Random(1).randbytes(65_536))
    whole = checksum(unit)
    for position in range(0, len(unit), 251):
        unit[position] ^= 1 + position % 255
        assert checksum(unit) != whole
        unit[position] ^= 1 + position % 255
    assert checksum(unit) == whole
