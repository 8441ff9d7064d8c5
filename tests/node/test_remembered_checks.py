"""A good signature is verified once, a bad one every time."""

from __future__ import annotations

import pytest

from consensus.errors import RejectionError
from consensus.identifiers import PublicKey, Signature
from consensus.signing import SigningKey, check_signature
from node.remembered_checks import REMEMBERED_MAX, remembering

KEY = SigningKey(bytes(32))
OTHER_KEY = SigningKey(bytes([1]) * 32)


class Counted:
    """The real check, counted."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, public_key: PublicKey, message: bytes, signature: Signature) -> None:
        self.count += 1
        check_signature(public_key, message, signature)


def test_a_good_signature_is_verified_once() -> None:
    counted = Counted()
    check = remembering(counted)
    for _ in range(3):
        check(KEY.public, b"vote", KEY.sign(b"vote"))
    assert counted.count == 1


def test_a_bad_signature_is_refused_every_time() -> None:
    counted = Counted()
    check = remembering(counted)
    for _ in range(3):
        with pytest.raises(RejectionError):
            check(KEY.public, b"vote", OTHER_KEY.sign(b"vote"))
    assert counted.count == 3


def test_what_is_remembered_of_one_key_message_and_signature_says_nothing_of_others() -> None:
    check = remembering(check_signature)
    signature = KEY.sign(b"vote")
    check(KEY.public, b"vote", signature)
    changed = Signature(bytes([signature[0] ^ 1]) + signature[1:])
    for wrong in (
        (OTHER_KEY.public, b"vote", signature),
        (KEY.public, b"veto", signature),
        (KEY.public, b"vote", changed),
    ):
        with pytest.raises(RejectionError):
            check(*wrong)


def test_memory_is_bounded() -> None:
    counted = Counted()
    check = remembering(counted)
    signature = KEY.sign(b"first")
    check(KEY.public, b"first", signature)
    for number in range(REMEMBERED_MAX):
        message = number.to_bytes(4, "big")
        check(KEY.public, message, KEY.sign(message))
    check(KEY.public, b"first", signature)
    assert counted.count == REMEMBERED_MAX + 2
