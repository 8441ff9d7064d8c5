"""The write-ahead log gives back what was flushed, or a prefix when it was torn, or refuses: it never guesses."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.blocks import Block
from consensus.events import Event, HeightStarted, Timeout, TimeoutElapsed, TimeoutKind, VoteReceived
from consensus.identifiers import GenesisHash, Height, Round
from node import write_ahead_log
from node.entry_file import CRC, ENTRY_END, frame_entry, overhead_bytes
from node.errors import WriteAheadLogError
from node.write_ahead_log import ENTRY, HEAD_BYTES, MAGIC, LogContents, WriteAheadLog
from testnet.simulation.disks import ProcessEndError, SimulatedDisk, Trap
from tests.consensus.messages_by_hand import RED, precommit, prevote
from tests.node.small_chain import small_chain, small_genesis
from tests.strategies import CHAIN, records

HEIGHT = Height(7)
(BLOCK,) = (decided.block for decided in small_chain(small_genesis(), 1))
ENTRIES: tuple[Event | Block, ...] = (
    HeightStarted(height=HEIGHT),
    BLOCK,
    VoteReceived(signed=prevote(0, RED)),
    TimeoutElapsed(timeout=Timeout(kind=TimeoutKind.PROPOSE, height=HEIGHT, round=Round(0))),
    VoteReceived(signed=precommit(1, None)),
)


def append(log: WriteAheadLog, entry: Event | Block) -> None:
    if isinstance(entry, Block):
        log.append_block(entry)
    else:
        log.append_event(entry)


def write(folder: Path, *entries: Event | Block, height: Height = HEIGHT) -> Path:
    log = WriteAheadLog(folder, CHAIN)
    assert log.read() is None
    log.begin(height)
    for entry in entries:
        append(log, entry)
    log.flush()
    log.close()
    return folder / "log"


def read(folder: Path, genesis_hash: GenesisHash = CHAIN) -> LogContents | None:
    log = WriteAheadLog(folder, genesis_hash)
    try:
        return log.read()
    finally:
        log.close()


def entry_starts(log: bytes) -> list[int]:
    starts = [HEAD_BYTES]
    while starts[-1] < len(log):
        payload_bytes = ENTRY.unpack_from(log, starts[-1])[0]
        starts.append(starts[-1] + payload_bytes + overhead_bytes(ENTRY))
    return starts


def test_what_was_flushed_comes_back_in_order(tmp_path: Path) -> None:
    write(tmp_path, *ENTRIES)
    assert read(tmp_path) == LogContents(height=HEIGHT, entries=ENTRIES)


def test_a_new_log_and_an_empty_height_hold_nothing(tmp_path: Path) -> None:
    assert read(tmp_path / "new") is None
    write(tmp_path)
    assert read(tmp_path) == LogContents(height=HEIGHT, entries=())


@pytest.mark.parametrize("seed", range(10))
def test_what_a_killed_process_had_not_flushed_is_durable_once_it_is_read(seed: int) -> None:
    disk, folder = SimulatedDisk(Random(seed)), Path("wal")
    log = WriteAheadLog(folder, CHAIN, disk)
    log.begin(HEIGHT)
    append(log, ENTRIES[0])
    disk.arm(Trap.KILL, 2)  # at the flush, behind the write
    with pytest.raises(ProcessEndError):
        log.flush()
    after = WriteAheadLog(folder, CHAIN, disk)
    assert after.read() == LogContents(height=HEIGHT, entries=ENTRIES[:1])
    after.flush()  # nothing was appended since
    disk.lose_power()
    assert WriteAheadLog(folder, CHAIN, disk).read() == LogContents(height=HEIGHT, entries=ENTRIES[:1])


def test_what_was_not_flushed_is_lost(tmp_path: Path) -> None:
    write(tmp_path, ENTRIES[0])
    log = WriteAheadLog(tmp_path, CHAIN)
    assert log.read() is not None
    log.append_event(HeightStarted(height=HEIGHT))
    log.close()
    assert read(tmp_path) == LogContents(height=HEIGHT, entries=ENTRIES[:1])


def test_a_reopened_log_goes_on_and_a_new_height_forgets_the_old(tmp_path: Path) -> None:
    write(tmp_path, *ENTRIES[:2])
    log = WriteAheadLog(tmp_path, CHAIN)
    log.read()
    for entry in ENTRIES[2:]:
        append(log, entry)
    log.flush()
    log.flush()
    log.close()
    assert read(tmp_path) == LogContents(height=HEIGHT, entries=ENTRIES)
    log = WriteAheadLog(tmp_path, CHAIN)
    log.begin(Height(8))
    log.append_event(HeightStarted(height=Height(8)))
    log.flush()
    log.close()
    assert read(tmp_path) == LogContents(height=Height(8), entries=(HeightStarted(height=Height(8)),))


def test_a_log_torn_at_any_byte_is_a_prefix_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, *ENTRIES)
    whole = path.read_bytes()
    starts = entry_starts(whole)
    for cut in range(len(whole)):
        kept = sum(1 for _, end in pairwise(starts) if end - len(ENTRY_END) <= cut)
        for grown in (cut, cut + 1, cut + 7, cut + 8, len(whole)):
            path.write_bytes(whole[:cut].ljust(grown, b"\0"))
            caplog.clear()
            contents = read(tmp_path)
            assert contents == (LogContents(height=HEIGHT, entries=ENTRIES[:kept]) if cut >= HEAD_BYTES else None)
            is_between = grown in (0, *starts, *(end - len(ENTRY_END) for end in starts[1:]))
            assert bool(caplog.records) or is_between


def test_an_entry_of_which_the_end_was_cut_is_kept_and_ended_by_the_next_flush(tmp_path: Path) -> None:
    path = write(tmp_path, *ENTRIES[:2])
    whole = path.read_bytes()
    for cut in range(len(whole) - len(ENTRY_END), len(whole)):
        path.write_bytes(whole[:cut].ljust(len(whole), b"\0"))
        log = WriteAheadLog(tmp_path, CHAIN)
        assert log.read() == LogContents(height=HEIGHT, entries=ENTRIES[:2])
        append(log, ENTRIES[2])
        log.flush()
        log.close()
        assert path.read_bytes().startswith(whole)
        assert read(tmp_path) == LogContents(height=HEIGHT, entries=ENTRIES[:3])


def test_any_changed_byte_is_refused_and_the_recovery_named(tmp_path: Path) -> None:
    path = write(tmp_path, *ENTRIES)
    whole = path.read_bytes()
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        with pytest.raises(WriteAheadLogError, match=r"log is damaged at byte \d+ \(.*move it away .*operating.md"):
            read(tmp_path)
        assert path.read_bytes() == changed, "evidence is left as it was"


@settings(max_examples=50)
@given(
    events=st.lists(records(TimeoutElapsed) | records(VoteReceived), min_size=1, max_size=5),
    where=st.randoms(use_true_random=False),
)
def test_several_changed_bytes_never_give_another_history(events: list[Event], where: Random) -> None:
    with TemporaryDirectory() as folder:
        path = write(Path(folder), *events)
        changed = bytearray(path.read_bytes())
        for _ in range(where.randrange(1, 5)):
            changed[where.randrange(len(changed))] = where.randrange(256)
        path.write_bytes(changed)
        try:
            contents = read(Path(folder))
        except WriteAheadLogError:
            return
        assert contents is None or contents.entries == tuple(events)[: len(contents.entries)]


def test_the_log_of_another_chain_is_refused(tmp_path: Path) -> None:
    write(tmp_path, *ENTRIES)
    with pytest.raises(WriteAheadLogError, match="belongs to another chain: this home's genesis was changed"):
        read(tmp_path, GenesisHash(b"x" * 32))


def test_entries_out_of_order_or_twice_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, *ENTRIES)
    whole = path.read_bytes()
    first, second, third, *_ = entry_starts(whole)
    one, two = whole[first:second], whole[second:third]
    for order in (two + one, one + one, two):
        path.write_bytes(whole[:first] + order)
        with pytest.raises(WriteAheadLogError, match=r"\(sequence \d, expected \d\)"):
            read(tmp_path)


@pytest.mark.parametrize(("kind", "payload"), [(3, b"\x90"), (1, b"\x91\x92\x01"), (2, b"\x90"), (1, b"\xc1")])
def test_an_entry_that_is_no_event_is_refused(tmp_path: Path, kind: int, payload: bytes) -> None:
    path = write(tmp_path)
    path.write_bytes(path.read_bytes() + frame_entry(ENTRY.pack(len(payload), 0, kind), payload))
    with pytest.raises(WriteAheadLogError, match="damaged at byte 52"):
        read(tmp_path)


def test_an_entry_longer_than_any_is_refused_unread(tmp_path: Path) -> None:
    path = write(tmp_path)
    head = ENTRY.pack(write_ahead_log.PAYLOAD_BYTES_MAX + 1, 0, 1)
    path.write_bytes(path.read_bytes() + head + CRC.pack(google_crc32c.value(head)))
    with pytest.raises(WriteAheadLogError, match="damaged at byte 52"):
        read(tmp_path)


def test_a_file_larger_than_any_log_is_refused_unread(tmp_path: Path) -> None:
    path = write(tmp_path)
    with path.open("r+b") as stream:
        stream.truncate(write_ahead_log.LOG_BYTES_MAX + 1)
    with pytest.raises(WriteAheadLogError, match="larger than any log"):
        read(tmp_path)


def test_a_height_without_end_stops_before_it_fills_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_ahead_log, "LOG_BYTES_MAX", 500)
    log = WriteAheadLog(tmp_path, CHAIN)
    log.begin(HEIGHT)
    each_bytes = len(b"\x91\x92\x01\x07") + overhead_bytes(ENTRY)
    for _ in range((500 - HEAD_BYTES) // each_bytes):
        log.append_event(HeightStarted(height=HEIGHT))
    with pytest.raises(WriteAheadLogError, match="this height does not end"):
        log.append_event(HeightStarted(height=HEIGHT))
    log.flush()
    log.close()
    assert 450 < (tmp_path / "log").stat().st_size <= 500


def test_a_log_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    with pytest.raises(WriteAheadLogError, match="log cannot be opened: Is a directory"):
        WriteAheadLog(tmp_path, CHAIN)


def test_the_file_begins_with_its_name(tmp_path: Path) -> None:
    assert write(tmp_path).read_bytes()[:40] == MAGIC + CHAIN
