"""A home whose log, record and chain are sound files and yet do not belong together is refused, with what to do."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from consensus.blocks import header_hash
from consensus.identifiers import NO_ROUND, Height, Round
from consensus.messages import VoteMessage
from consensus.votes import Prevote
from node.entry_file import EntryReader
from node.errors import WriteAheadLogError
from node.signer import ENTRY_BYTES_MAX, HEAD, MAGIC, RECORD_NAME
from node.write_ahead_log import ENTRY, HEAD_BYTES, PAYLOAD_BYTES_MAX
from tests.node.one_member import open_member
from tests.node.test_member import CHAIN, ME, NEXT, PEERS, fresh_block, hear, inner, prevote, proposed

REFUSED = r"move signer and wal/log away and start again; the node then rejoins as after a fire"


@pytest.fixture
async def home(tmp_path: Path) -> Path:
    """Give the home of a member that holds two blocks and is locked on a third, which it has precommitted."""
    with open_member(tmp_path / "home", CHAIN, seat=ME) as member:
        await inner(member).recover()
        block = fresh_block(member)
        named = header_hash(block.header)
        await hear(member, proposed(block), *[VoteMessage(signed=prevote(m, named)) for m in PEERS])
        assert inner(member).state.machine.locked is not None
        member.consensus._parts.log.flush()
    return tmp_path / "home"


async def start(home: Path) -> bool:
    """Start the member; say whether it is locked."""
    with open_member(home, (), seat=ME, fresh=False) as member:
        await inner(member).recover()
        return inner(member).state.machine.locked is not None


def record_ends(home: Path) -> list[int]:
    """Return where each entry of the record ends, its beginning first."""
    reader, ends = EntryReader((home / RECORD_NAME).read_bytes(), HEAD, ENTRY_BYTES_MAX), [len(MAGIC)]
    while (found := reader.read(ends[-1])) is not None:
        ends.append(found.end)
    return ends


def log_ends(home: Path) -> list[int]:
    reader, ends = EntryReader((home / "wal" / "log").read_bytes(), ENTRY, PAYLOAD_BYTES_MAX), [HEAD_BYTES]
    while (found := reader.read(ends[-1])) is not None:
        ends.append(found.end)
    return ends


async def test_a_home_as_it_was_left_starts_with_its_lock(home: Path) -> None:
    assert await start(home)


async def test_a_record_cut_between_two_entries_is_refused(home: Path) -> None:
    path, ends = home / RECORD_NAME, record_ends(home)
    record = path.read_bytes()
    assert len(ends) == 4, "a precommit of the chain's last block, a prevote, a precommit"
    for end in ends[:-1]:
        path.write_bytes(record[:end])
        with pytest.raises(WriteAheadLogError, match=REFUSED):
            await start(home)


async def test_a_log_cut_between_two_entries_is_refused_or_holds_the_lock(home: Path) -> None:
    path, ends = home / "wal" / "log", log_ends(home)
    log = path.read_bytes()
    refused: list[str] = []
    for end in (0, HEAD_BYTES, *ends):
        path.write_bytes(log[:end])
        try:
            assert await start(home)
        except WriteAheadLogError as error:
            refused.append(str(error))
    assert len(refused) > len(ends) // 2
    assert all("the log lacks what led to signatures of height 3" in said for said in refused)


async def test_a_log_without_one_of_its_entries_is_refused(home: Path) -> None:
    path, ends = home / "wal" / "log", log_ends(home)
    log = path.read_bytes()
    for start_at, end in pairwise(ends[:-1]):
        path.write_bytes(log[:start_at] + log[end:])
        with pytest.raises(WriteAheadLogError, match="damaged at byte"):
            await start(home)


async def test_a_chain_copied_back_is_refused(home: Path, tmp_path: Path) -> None:
    with open_member(tmp_path / "older", CHAIN[:1], seat=ME):
        pass
    (home / "chain").rename(tmp_path / "newer")
    (tmp_path / "older" / "chain").rename(home / "chain")
    with pytest.raises(WriteAheadLogError, match=r"move chain/, signer and wal/log away and start again"):
        await start(home)
    (home / "wal" / "log").unlink()
    with pytest.raises(WriteAheadLogError, match=r"signed at height 3, and the chain ends at 1: .*" + REFUSED):
        await start(home)


async def test_a_record_of_another_copy_is_refused(home: Path) -> None:
    """The file fits seat and chain, and holds another vote than the log says."""
    with open_member(home, (), seat=ME, fresh=False) as member:
        signer = member.signer
        later = Prevote(height=NEXT, round=Round(5), block_hash=None, valid_round=NO_ROUND, member=ME)
        signer.sign_vote(later)
    with pytest.raises(WriteAheadLogError, match="the log lacks what led to signatures of height 3"):
        await start(home)


async def test_without_a_record_the_seat_rejoins_whatever_the_log_says(home: Path) -> None:
    (home / RECORD_NAME).unlink()
    with open_member(home, (), seat=ME, fresh=False) as member:
        await inner(member).recover()
        assert not member.signer.may_sign(Height(1_000))
        assert inner(member).state.context.me is None
