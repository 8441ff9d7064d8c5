"""`grandest audit reads` over a socket: whoever rebuilds what it has vouched for is named, honest reads are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio

from consensus.genesis import genesis_hash
from consensus.signing import SigningKey
from node.cli import ExitCode, audited_reads
from node.cli.asked_node import open_node
from node.cli.audited_reads import kept_receipts
from node.clock import now_ms
from node.errors import PeerUnreachableError
from node.read_book import ReadBook
from storage.identifiers import ColumnIndex, SeatIndex
from storage.placement import column_seats
from storage.read_receipts import LeafRange, ReadReceipt, sign_read
from storage.transactions import Extent
from testnet.cli import main
from tests.node.api.site import Site
from tests.node.api.test_server import served
from tests.node.cli.test_asked_node import STATUS, answering
from tests.storage.ledger_world import entry, segment_id, signing_key

SEGMENT = segment_id("one")
SEGMENT_BYTES = 3_000_000
LEAVES = 62
"""Of each column: a megabyte."""


def leaves(column: int, first: int, count: int = 1) -> LeafRange:
    return LeafRange(segment_id=SEGMENT, column=ColumnIndex(column), first_leaf=first, leaf_count=count)


def note_read(book: ReadBook, reader: SigningKey, holder: SigningKey, asked: LeafRange) -> None:
    ranges = (asked,)
    signed = sign_read(reader, book._genesis_hash, holder=holder.public, time_ms=now_ms(), ranges=ranges)
    book.keep(
        ReadReceipt(
            reader=reader.public,
            holder=holder.public,
            time_ms=signed.time_ms,
            ranges=ranges,
            signature=signed.signature,
        )
    )


def store_one(site: Site) -> tuple[SeatIndex, ...]:
    """Commit a segment with all receipts; returns the seats by column."""
    world = site.world
    segment = world.segment("one", segment_bytes=SEGMENT_BYTES)
    site.append(world.transaction(world.commit((segment,), entry("one", Extent(segment=0, extent_bytes=9)))))
    return column_seats(SEGMENT, world.context.seats)


async def test_who_answers_with_others_columns_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with served(tmp_path) as (site, _, port):
        seats = store_one(site)
        assert (await site.http.get("/v1/reads")).json() == {"files": []}
        book = ReadBook(tmp_path, genesis_hash(site.world.genesis), now_ms, 600_000)
        liar, *others = seats
        repairing = seats[1]
        keys = {seat: signing_key(f"network {seat}") for seat in seats}
        for position in range(40):
            for seat in others:
                note_read(book, keys[liar], keys[seat], leaves(seats.index(seat), position))
        for seat in (liar, *seats[2:]):
            note_read(book, keys[repairing], keys[seat], leaves(seats.index(seat), 0, LEAVES))
        note_read(book, keys[seats[2]], keys[liar], leaves(0, 5))
        note_read(book, signing_key("a stranger"), keys[liar], leaves(0, 5))
        book.close()
        node = f"http://127.0.0.1:{port}"
        words = ["audit", "reads", "--node", node, "--also", node]
        assert await trio.to_thread.run_sync(main, [*words, "--json"]) == ExitCode.FAILED
        told = {reader["seat"]: reader for reader in json.loads(capsys.readouterr().out)["readers"]}
        named = [seat for seat, reader in told.items() if reader["fetches_its_answers"]]
        assert named == [liar]
        assert told[liar]["leaves_rebuilt"] == 40
        assert (told[repairing]["segments_rebuilt"], told[repairing]["leaves_rebuilt"]) == (1, 0)
        assert told[seats[2]]["questions"] == 1
        assert await trio.to_thread.run_sync(main, words) == ExitCode.FAILED
        shown = capsys.readouterr().out
        assert shown.count("answers with others' columns") == 1


async def test_a_false_receipt_leaves_its_holder_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with served(tmp_path) as (site, _, port):
        seats = store_one(site)
        book = ReadBook(tmp_path, genesis_hash(site.world.genesis), now_ms, 600_000)
        note_read(book, signing_key(f"network {seats[0]}"), signing_key(f"network {seats[1]}"), leaves(1, 5))
        book.close()
        (path,) = (tmp_path / "reads").iterdir()
        contents = bytearray(path.read_bytes())
        contents[-1] ^= 1
        path.write_bytes(contents)
        words = ["audit", "reads", "--node", f"http://127.0.0.1:{port}", "--json"]
        assert await trio.to_thread.run_sync(main, words) == ExitCode.DONE
        told = capsys.readouterr()
        assert json.loads(told.out)["holders"] == 0
        assert "is left out: bad_signature" in told.err


@pytest.mark.parametrize("page", [b"\0\0\0\1a" * 100, b"\xff" * 4_096], ids=["no end", "a frame without end"])
def test_a_holder_that_gives_without_end_is_left(page: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audited_reads, "KEPT_BYTES_MAX", 100_000)
    listed = b'{"files": [{"name": "1-2", "epoch": 1, "bytes": 5}]}'
    answers = {"/v1/status": STATUS, "/v1/reads": listed, "/v1/reads/1-2": page}
    with (
        answering(answers) as address,
        open_node((address,)) as (http, _),
        pytest.raises(PeerUnreachableError, match="more than anybody keeps"),
    ):
        assert all(kept == b"a" for kept in kept_receipts(http))
