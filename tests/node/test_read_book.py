"""What members signed for stays for four epochs, within each member's share, and costs no reader anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from consensus.encoding import encode
from consensus.errors import RejectionError
from consensus.identifiers import GenesisHash, Milliseconds
from consensus.signing import SigningKey
from node import read_book
from node.cli.asked_node import parts
from node.cli.audited_reads import whole_frames
from node.read_book import LENGTH_BYTES, ReadBook
from storage.identifiers import ColumnIndex, SegmentId
from storage.read_receipts import SPANS_KEPT, LeafRange, ReadReceipt, decode_read, sign_read

GENESIS = GenesisHash(b"g" * 32)
HOLDER = SigningKey(b"h" * 32)
EPOCH_MS = 600_000
BEGUN = Milliseconds(100 * EPOCH_MS)


class Place:
    """A home, a clock, and a book that can be opened again."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.now_ms = BEGUN
        self.book = self.open()

    def open(self) -> ReadBook:
        return ReadBook(self.home, GENESIS, lambda: self.now_ms, EPOCH_MS)

    def sign(self, leaf: int, reader: bytes = b"r") -> ReadReceipt:
        key = SigningKey(reader * 32)
        ranges = (LeafRange(segment_id=SegmentId(b"s" * 32), column=ColumnIndex(0), first_leaf=leaf, leaf_count=1),)
        signed = sign_read(key, GENESIS, holder=HOLDER.public, time_ms=self.now_ms, ranges=ranges)
        return ReadReceipt(
            reader=key.public, holder=HOLDER.public, time_ms=self.now_ms, ranges=ranges, signature=signed.signature
        )

    def leaves(self) -> list[int]:
        found: list[int] = []
        for kept in self.book.files():
            contents = self.book.read(kept.name, 0, kept.byte_count)
            assert contents is not None
            found += [decode_read(encoded).ranges[0].first_leaf for encoded in parts(whole_frames(contents))]
        return found


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_receipts_of_four_epochs_are_kept_also_over_a_restart(place: Place) -> None:
    for epoch in range(SPANS_KEPT + 2):
        place.book.keep(place.sign(epoch))
        place.book.close()
        place.now_ms = Milliseconds(place.now_ms + EPOCH_MS // 2)
        place.book = place.open()
        place.book.keep(place.sign(100 + epoch))
        place.now_ms = Milliseconds(place.now_ms + EPOCH_MS // 2)
    assert place.leaves() == [leaf for epoch in range(2, SPANS_KEPT + 2) for leaf in (epoch, 100 + epoch)]


def test_what_is_false_or_old_is_refused_and_not_kept(place: Place) -> None:
    good = place.sign(1)
    place.now_ms = Milliseconds(place.now_ms + 60_001)
    with pytest.raises(RejectionError, match="too_late"):
        place.book.keep(good)
    false = place.sign(2)
    place.now_ms = Milliseconds(place.now_ms + 1)
    with pytest.raises(RejectionError, match="bad_signature"):
        place.book.keep(
            ReadReceipt(
                reader=false.reader,
                holder=false.holder,
                time_ms=place.now_ms,
                ranges=false.ranges,
                signature=false.signature,
            )
        )
    assert place.leaves() == []


def test_a_member_cannot_wash_out_what_it_has_read(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = 4
    monkeypatch.setattr(read_book, "READER_BYTES_MAX", kept * (len(encode(place.sign(0))) + LENGTH_BYTES))
    for leaf in range(kept):
        place.book.keep(place.sign(leaf))
    with pytest.raises(RejectionError, match="queue_full"):
        place.book.keep(place.sign(kept))
    place.book.keep(place.sign(50, reader=b"o"))
    assert place.leaves() == [*range(kept), 50], "another member has its own share"
    place.now_ms = Milliseconds(place.now_ms + EPOCH_MS)
    place.book.keep(place.sign(99))
    assert place.leaves() == [*range(kept), 50, 99]


def test_a_cut_end_is_left_out_and_only_kept_files_are_given(place: Place) -> None:
    place.book.keep(place.sign(1))
    place.book.keep(place.sign(2))
    (kept,) = place.book.files()
    path = place.home / "reads" / kept.name
    path.write_bytes(path.read_bytes()[:-5])
    assert place.leaves() == [1]
    (place.home / "secret").write_bytes(b"secret")
    assert place.book.read("../secret", 0, 100) is None
    assert place.book.read("7-7", 0, 100) is None


def test_a_disk_that_refuses_costs_the_receipt_and_not_the_reader(place: Place) -> None:
    (place.home / "reads").write_text("in the way of the folder")
    place.book.keep(place.sign(1))
    assert place.book.files() == ()
