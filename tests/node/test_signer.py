"""The signer record: one message a place, ascending, whatever the disk does to it between two starts."""

from __future__ import annotations

import os
import random
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from consensus.identifiers import NO_ROUND, BlockHash, GenesisHash, Height, MemberIndex, Round, Signature
from consensus.proposals import Proposal, check_proposal
from consensus.votes import Precommit, Prevote, check_vote
from node.disk import LocalDisk, LocalFile
from node.entry_file import ENTRY_END, overhead_bytes
from node.errors import ConfigurationError, WriteAheadLogError
from node.signer import (
    COMPACT_BYTES,
    HEAD,
    MAGIC,
    RECORD_NAME,
    Position,
    Signer,
    SigningRefusedError,
    create_signer_record,
    position_of,
)
from testnet.simulation.disks import PowerCutError, SimulatedDisk, Trap
from tests.strategies import CHAIN, example_members, signing_keys

SEAT = MemberIndex(1)
KEY = signing_keys(4)[SEAT]
MEMBERS = example_members(4)
RED, BLUE = BlockHash(b"r" * 32), BlockHash(b"b" * 32)
Signed = Prevote | Precommit | Proposal


def precommit(height: int, round_: int = 0, block_hash: BlockHash | None = RED) -> Precommit:
    return Precommit(height=Height(height), round=Round(round_), block_hash=block_hash, member=SEAT)


def prevote(height: int, round_: int = 0, block_hash: BlockHash | None = RED) -> Prevote:
    return Prevote(height=Height(height), round=Round(round_), block_hash=block_hash, valid_round=NO_ROUND, member=SEAT)


def proposal(height: int, round_: int = 0, block_hash: BlockHash = RED) -> Proposal:
    return Proposal(
        height=Height(height), round=Round(round_), block_hash=block_hash, valid_round=NO_ROUND, proposer=SEAT
    )


def opened(home: Path) -> Signer:
    return Signer(home, KEY, CHAIN)


def sign(signer: Signer, message: Signed) -> Signature:
    if isinstance(message, Proposal):
        signed = signer.sign_proposal(message)
        check_proposal(signed, MEMBERS)
        return signed.signature
    vote = signer.sign_vote(message)
    check_vote(vote, MEMBERS)
    return vote.signature


def entry_starts(record: bytes) -> list[int]:
    """Return where each entry starts, and the end."""
    starts = [len(MAGIC)]
    while starts[-1] < len(record):
        starts.append(starts[-1] + overhead_bytes(HEAD) + HEAD.unpack_from(record, starts[-1])[0])
    return starts


@pytest.fixture
def home(tmp_path: Path) -> Path:
    create_signer_record(tmp_path)
    return tmp_path


def three_signed(home: Path) -> tuple[Signed, ...]:
    messages = (prevote(5), precommit(5), proposal(5, 1, BLUE))
    signer = opened(home)
    for message in messages:
        sign(signer, message)
    signer.close()
    return messages


def test_the_same_message_gets_the_same_signature_and_another_none(home: Path) -> None:
    signer = opened(home)
    first = sign(signer, prevote(1))
    assert sign(signer, prevote(1)) == first
    for other in (prevote(1, 0, BLUE), prevote(1, 0, None), proposal(1)):
        with pytest.raises(SigningRefusedError, match="not signed"):
            sign(signer, other)
    signer.close()


def test_without_a_record_nothing_is_signed_until_a_floor_is_set(tmp_path: Path) -> None:
    signer = opened(tmp_path)
    assert (signer.floor, signer.may_sign(Height(1_000_000))) == (None, False)
    with pytest.raises(SigningRefusedError):
        sign(signer, prevote(1_000_000))
    signer.set_floor(Height(7))
    with pytest.raises(SigningRefusedError):
        sign(signer, precommit(7, 100))
    sign(signer, prevote(8))
    signer.close()
    again = opened(tmp_path)
    assert (again.floor, again.last) == (7, position_of(prevote(8)))
    again.close()


def test_a_record_is_made_once(home: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot create .*signer: exists already"):
        create_signer_record(home)


def test_genesis_is_never_signed_about(home: Path) -> None:
    signer = opened(home)
    with pytest.raises(SigningRefusedError):
        sign(signer, prevote(0))
    signer.close()


def test_an_entry_torn_at_any_byte_was_never_released_and_those_before_stay(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    messages = three_signed(home)
    path = home / RECORD_NAME
    record = path.read_bytes()
    *_, last_start, end = entry_starts(record)
    content_end = end - len(ENTRY_END)
    for cut in range(last_start + 1, content_end):
        for grown in {cut, cut + 1, (cut + end) // 2, end - 8, end - 1, end}:
            path.write_bytes(record[:cut].ljust(grown, b"\0"))
            caplog.clear()
            signer = opened(home)
            assert "is cut off" in caplog.text
            assert signer.last == position_of(messages[1])
            assert path.stat().st_size == last_start
            signer.close()
    sign(signer := opened(home), proposal(5, 1, RED))
    signer.close()


def test_an_entry_of_which_the_end_alone_was_cut_is_kept_and_ended(home: Path) -> None:
    messages = three_signed(home)
    path = home / RECORD_NAME
    record = path.read_bytes()
    for cut in range(len(record) - len(ENTRY_END), len(record)):
        for torn in (record[:cut], record[:cut].ljust(len(record), b"\0"), record[:cut].ljust(len(record) + 9, b"\0")):
            path.write_bytes(torn)
            signer = opened(home)
            assert signer.last == position_of(messages[2])
            assert path.read_bytes() == record
            sign(signer, prevote(6))
            signer.close()
            opened(home).close()


def test_any_changed_byte_stops_the_node_rather_than_forget_a_signature(home: Path) -> None:
    messages = three_signed(home)
    path = home / RECORD_NAME
    record = path.read_bytes()
    for position in range(len(record)):
        for change in {0x01, 0x80, record[position]} - {0}:
            damaged = bytearray(record)
            damaged[position] ^= change
            path.write_bytes(damaged)
            if position == len(record) - 1 and not damaged[position]:
                signer = opened(home)  # as a tear leaves it, with all that was signed
                assert signer.last == position_of(messages[2])
                signer.close()
                continue
            with pytest.raises(WriteAheadLogError, match=r"is damaged at byte .* rejoins as after a fire"):
                opened(home)


def test_the_record_of_another_seat_is_refused(home: Path) -> None:
    three_signed(home)
    with pytest.raises(WriteAheadLogError, match=r"another seat's; .* move it and wal/log away .* rejoins"):
        Signer(home, signing_keys(4)[0], CHAIN)


@pytest.mark.parametrize("seed", range(20))
def test_what_a_killed_process_had_not_flushed_is_durable_before_it_is_released(seed: int) -> None:
    disk, home = SimulatedDisk(random.Random(seed)), Path("home")
    create_signer_record(home, disk)
    disk.arm(Trap.POWER_CUT, 2)  # at the flush, behind the write: here the end of the process alone
    with pytest.raises(PowerCutError):
        sign(Signer(home, KEY, CHAIN, disk), prevote(1))
    released = sign(Signer(home, KEY, CHAIN, disk), prevote(1))
    disk.lose_power()
    after = Signer(home, KEY, CHAIN, disk)
    with pytest.raises(SigningRefusedError, match="not signed"):
        sign(after, prevote(1, 0, BLUE))
    assert sign(after, prevote(1)) == released


def test_entries_out_of_order_stop_the_node(home: Path) -> None:
    three_signed(home)
    record = (home / RECORD_NAME).read_bytes()
    first, second, third, end = entry_starts(record)
    for order in (
        record[second:third] + record[first:second],
        record[first:second] * 2,
        record[third:end] + record[first:second],
    ):
        (home / RECORD_NAME).write_bytes(MAGIC + order)
        with pytest.raises(WriteAheadLogError, match="damaged"):
            opened(home)


def test_another_file_is_no_record(home: Path) -> None:
    for content in (b"", b"GRANDSI", b"GRANDWAL" + bytes(50)):
        (home / RECORD_NAME).write_bytes(content)
        with pytest.raises(WriteAheadLogError, match="damaged at byte 0"):
            opened(home)


def test_a_long_record_is_rewritten_with_floor_and_last_height(tmp_path: Path) -> None:
    signer = opened(tmp_path)
    signer.set_floor(Height(3))
    height = 3
    grown = 0
    while grown <= (now := (tmp_path / RECORD_NAME).stat().st_size):
        grown, height = now, height + 1
        sign(signer, prevote(height))
    assert grown <= COMPACT_BYTES
    assert now < 1_000
    with pytest.raises(SigningRefusedError):
        sign(signer, prevote(height, 0, BLUE))
    signer.close()
    again = opened(tmp_path)
    assert (again.floor, again.last) == (3, position_of(prevote(height)))
    assert again.floor is not None
    sign(again, precommit(height))
    again.close()


def test_who_looks_at_the_record_while_it_is_rewritten_sees_what_was_signed(tmp_path: Path) -> None:
    """The trio thread asks about strangers while a worker thread signs."""
    seen = list[tuple[int | None, Position | None, bool]]()

    class Watched(LocalDisk):
        def open(self, path: Path) -> LocalFile:
            if signer is not None and own is not None:
                seen.append((signer.floor, signer.last, signer.is_stranger(position_of(prevote(4)), own)))
            return super().open(path)

    signer: Signer | None = None
    own: Signature | None = None
    signer = Signer(tmp_path, KEY, CHAIN, Watched())
    signer.set_floor(Height(3))
    own = sign(signer, prevote(4))
    for round_ in range(1, 1_500):
        sign(signer, prevote(4, round_))
    assert seen
    assert all(floor == 3 and last is not None and not is_stranger for floor, last, is_stranger in seen)
    signer.close()


def test_a_disk_that_refuses_is_named(home: Path) -> None:
    missing = Signer(home / "none", KEY, CHAIN)
    with pytest.raises(WriteAheadLogError, match="cannot be written: No such file or directory; check the disk"):
        missing.set_floor(Height(1))


def test_a_signature_of_this_seat_from_elsewhere_is_known_by_its_place(home: Path) -> None:
    signer = opened(home)
    own = sign(signer, prevote(5))
    other = KEY.sign(b"another message")
    assert signer.is_stranger(position_of(precommit(5)), other)
    assert signer.is_stranger(position_of(prevote(5)), other)
    assert not signer.is_stranger(position_of(prevote(5)), own)
    assert not signer.is_stranger(position_of(prevote(4)), other), "an old one may be a replay"
    signer.close()


def test_another_chain_is_another_message(home: Path) -> None:
    signer = opened(home)
    here = sign(signer, prevote(5))
    signer.close()
    other = Signer(home, KEY, GenesisHash(bytes(32)))
    with pytest.raises(SigningRefusedError):
        other.sign_vote(prevote(5))
    assert other.last == position_of(prevote(5))
    assert other.is_stranger(position_of(prevote(5)), Signature(bytes(64)))
    assert not other.is_stranger(position_of(prevote(5)), here)
    other.close()


PLACES = st.tuples(st.integers(1, 4), st.integers(0, 2), st.sampled_from([RED, BLUE]))
MESSAGES: st.SearchStrategy[Signed] = st.one_of(
    PLACES.map(lambda place: prevote(*place)),
    PLACES.map(lambda place: precommit(*place)),
    PLACES.map(lambda place: proposal(*place)),
)


class SignerMachine(RuleBasedStateMachine):
    """Against the simplest model: what was released, by place."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.home = Path(self.folder.name)
        self.released: dict[Position, tuple[Signed, Signature]] = {}
        self.floor = 0
        self.signer: Signer | None = None

    @initialize(floor=st.integers(0, 2))
    def start(self, floor: int) -> None:
        self.floor = floor
        if floor == 0:
            create_signer_record(self.home)
        self.signer = opened(self.home)
        if floor:
            self.signer.set_floor(Height(floor))

    @rule(message=MESSAGES)
    def asked(self, message: Signed) -> None:
        assert self.signer is not None
        place = position_of(message)
        before = self.released.get(place)
        is_new = place.height > self.floor and all(place > other for other in self.released)
        is_repeated = before is not None and before[0] == message and place.height == max(self.released).height
        if not (is_new or is_repeated):
            with pytest.raises(SigningRefusedError):
                sign(self.signer, message)
            return
        signature = sign(self.signer, message)
        assert before is None or before == (message, signature)
        self.released[place] = message, signature

    @rule()
    def started_again(self) -> None:
        assert self.signer is not None
        self.signer.close()
        self.signer = opened(self.home)

    @precondition(lambda self: bool(self.released))
    @rule(message=MESSAGES, part=st.floats(0, 1, exclude_max=True))
    def crashed_while_signing(self, message: Signed, part: float) -> None:
        """An entry that was being written is cut at any byte; of its end alone, it is kept as if released."""
        assert self.signer is not None
        path = self.home / RECORD_NAME
        whole = path.stat().st_size
        try:
            signature = sign(self.signer, message)
        except SigningRefusedError:
            return
        grown = path.stat().st_size
        self.signer.close()
        cut = whole + int((grown - whole) * part)
        os.truncate(path, cut)
        self.signer = opened(self.home)
        is_kept = cut >= grown - len(ENTRY_END)
        assert path.stat().st_size == (grown if is_kept else whole)
        if is_kept and grown > whole:
            self.released[position_of(message)] = message, signature

    @rule(part=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
    def damaged(self, part: float, bit: int) -> None:
        assert self.signer is not None
        self.signer.close()
        path = self.home / RECORD_NAME
        record = path.read_bytes()
        changed = bytearray(record)
        changed[int(len(record) * part)] ^= 1 << bit
        path.write_bytes(changed)
        try:
            self.signer = opened(self.home)
        except WriteAheadLogError:
            path.write_bytes(record)
            self.signer = opened(self.home)

    @invariant()
    def remembers_the_last(self) -> None:
        if self.signer is not None and self.released:
            assert self.signer.last == max(self.released)

    def teardown(self) -> None:
        if self.signer is not None:
            self.signer.close()
        self.folder.cleanup()


TestSignerMachine = SignerMachine.TestCase
TestSignerMachine.settings = settings(max_examples=25, stateful_step_count=20)
