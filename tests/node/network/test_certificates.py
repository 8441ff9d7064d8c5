"""A certificate follows from its key alone and is believed only when it is exactly that."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.errors import RejectionError, RejectionReason
from consensus.signing import SigningKey
from node.network.certificates import key_of_certificate, make_certificate

ONE: Final = SigningKey(b"1" * 32)
OTHER: Final = SigningKey(b"2" * 32)


def test_a_certificate_is_made_again_from_its_key() -> None:
    assert make_certificate(ONE) == make_certificate(SigningKey(b"1" * 32))
    assert make_certificate(ONE) != make_certificate(OTHER)
    assert len(make_certificate(ONE)) < 512


def test_a_certificate_names_its_key() -> None:
    assert key_of_certificate(make_certificate(ONE)) == ONE.public


def test_a_certificate_with_another_key_inside_is_refused() -> None:
    forged = make_certificate(ONE).replace(ONE.public, OTHER.public)
    with pytest.raises(RejectionError, match="named otherwise"):
        key_of_certificate(forged)
    renamed = forged.replace(ONE.public.hex().encode(), OTHER.public.hex().encode())
    with pytest.raises(RejectionError) as refused:
        key_of_certificate(renamed)
    assert refused.value.reason is RejectionReason.BAD_SIGNATURE


def test_oversized_and_malformed_bytes_are_refused() -> None:
    with pytest.raises(RejectionError) as refused:
        key_of_certificate(bytes(2_000))
    assert refused.value.reason is RejectionReason.OVERSIZED
    with pytest.raises(RejectionError) as refused:
        key_of_certificate(b"\x30\x03\x02\x01\x01")
    assert refused.value.reason is RejectionReason.MALFORMED


@pytest.mark.filterwarnings("ignore:Parsed a serial number")  # of a byte that we have just broken
@settings(max_examples=200)
@given(st.data())
def test_a_changed_byte_never_passes_as_another_key(draw: st.DataObject) -> None:
    certificate = bytearray(make_certificate(ONE))
    certificate[draw.draw(st.integers(0, len(certificate) - 1))] ^= draw.draw(st.integers(1, 255))
    with pytest.raises(RejectionError):
        key_of_certificate(bytes(certificate))
