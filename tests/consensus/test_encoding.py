"""What is not the one encoding of a record is refused by reason; every kind: tests/test_encodings.py."""

from __future__ import annotations

import subprocess
import sys

import msgpack
import pytest

from consensus import messages
from consensus.encoding import check_second_opinion, decode, encode
from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import BlockHash, Height, MemberIndex, Round
from consensus.votes import Precommit
from tests.consensus import decoder_race

BYTES_MAX = 1024 * 1024
VOTE = Precommit(height=Height(5), round=Round(2), block_hash=BlockHash(bytes(32)), member=MemberIndex(8))


def test_a_vote_has_the_bytes_that_the_formats_page_shows() -> None:
    assert encode(VOTE).hex() == "95020502c420" + "00" * 32 + "08"


def refused(encoded: bytes, bytes_max: int = BYTES_MAX) -> RejectionReason:
    with pytest.raises(RejectionError) as caught:
        decode(encoded, Precommit, bytes_max=bytes_max)
    return caught.value.reason


def test_a_number_in_more_bytes_than_it_needs_is_refused() -> None:
    wide = encode(VOTE).replace(b"\x95\x02\x05", b"\x95\x02\xcc\x05")
    assert msgpack.unpackb(wide) == msgpack.unpackb(encode(VOTE))
    assert refused(wide) is RejectionReason.NOT_CANONICAL


def test_the_second_opinion_agrees_and_can_disagree() -> None:
    check_second_opinion(encode(VOTE))
    wide = encode(VOTE).replace(b"\x95\x02\x05", b"\x95\x02\xcc\x05")
    for encoded, reason in (
        (wide, RejectionReason.NOT_CANONICAL),
        (encode(VOTE)[:-1], RejectionReason.MALFORMED),
        (encode(VOTE) + b"\0", RejectionReason.MALFORMED),
        (b"\x81\x01\x02", RejectionReason.MALFORMED),
        (b"\x91" * 5000, RejectionReason.MALFORMED),
    ):
        with pytest.raises(RejectionError) as caught:
            check_second_opinion(encoded)
        assert caught.value.reason is reason


def test_oversized_bytes_are_refused_unread() -> None:
    assert refused(b"\xff" * 11, bytes_max=10) is RejectionReason.OVERSIZED


@pytest.mark.parametrize(
    "value",
    [
        (2, 5, 2, bytes(31), 8),  # a short hash
        (2, -1, 2, bytes(32), 8),  # below the least height
        (2, 5, 2**31, bytes(32), 8),  # above the last round
        (2, 5, 2, bytes(32), 64),  # beyond the largest member set
        (2, 5, 2, bytes(32), 8, 0),  # a field too many
        (2, 5, 2, bytes(32)),  # a field too few
        (1, 5, 2, bytes(32), 8),  # another kind's tag
        (2, 5.0, 2, bytes(32), 8),  # a float
        (2, 5, 2, "0" * 32, 8),  # text for bytes
        {"height": 5},  # a map
        None,
    ],
)
def test_what_is_not_this_record_is_malformed(value: object) -> None:
    assert refused(msgpack.packb(value)) is RejectionReason.MALFORMED


BROKEN = [b"", b"\xc1", b"\x95\x02", encode(VOTE) + b"\0", b"\x91" * 5000 + b"\xc0"]
MAPS = [b"\x80", b"\x81\x80\xc0", b"\x81\x90\xc0"]


@pytest.mark.parametrize("encoded", BROKEN + MAPS)
def test_broken_or_nested_bytes_are_malformed(encoded: bytes) -> None:
    assert refused(encoded) is RejectionReason.MALFORMED


def test_a_message_from_the_wire_comes_back_whole() -> None:
    message = messages.StatusMessage(height=Height(7), round=Round(0))
    assert messages.decode_message(messages.encode_message(message)) == message
    request = messages.BlocksRequest(from_height=Height(1), count=64)
    assert messages.decode_request(messages.encode_request(request)) == request
    response = messages.BlocksResponse(decided=())
    assert messages.decode_response(messages.encode_response(response)) == response


def test_messages_beyond_their_limit_are_refused() -> None:
    with pytest.raises(RejectionError) as caught:
        messages.decode_message(bytes(messages.MESSAGE_BYTES_MAX + 1))
    assert caught.value.reason is RejectionReason.OVERSIZED
    with pytest.raises(RejectionError) as caught:
        messages.decode_request(bytes(messages.REQUEST_BYTES_MAX + 1))
    assert caught.value.reason is RejectionReason.OVERSIZED


def test_records_read_for_the_first_time_by_many_threads_at_once_are_all_read() -> None:
    raced = subprocess.run(
        [sys.executable, "-P", "-m", "tests.consensus.decoder_race"], capture_output=True, text=True, check=False
    )
    assert (raced.returncode, raced.stdout) == (0, f"{decoder_race.ROUNDS * decoder_race.THREADS}\n"), raced.stderr
