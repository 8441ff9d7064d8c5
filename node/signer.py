"""The record that prevents signing twice: nothing leaves with this seat's vote signature but through here.

File HOME/signer: 8 bytes "GRANDSIG", then entries as in entry_file.py, the head being the payload's length alone, the
payload the canonical `SignerEntry` or `SignerFloor`. Append-only; rewritten (new file, fsync, rename) when it passes
COMPACT_BYTES.

Rules
- D2. An entry is on disk (fdatasync) before its signature is returned.
- D3. The same bytes again give the same signature, from the record.
- D4. Anything else at or below the last (height, round, step), or at or below the floor, is refused.
- D5. The record is missing while keys exist: the seat rejoins (node/rejoin.py), which writes a floor.
- D10. A torn last entry was never released: it is cut off.
- D11. Any other damage stops the node, a signature that is not this seat's included: whoever forgets a signature may
  contradict it.
"""

from __future__ import annotations

import errno
import logging
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Final, assert_never

from msgspec import Meta

from consensus.encoding import Record, decode, encode
from consensus.errors import RejectionError
from consensus.identifiers import HEIGHT, ROUND, SIGNATURE, GenesisHash, Height, Round, Signature
from consensus.proposals import Proposal, SignedProposal, proposal_sign_bytes
from consensus.votes import Precommit, Prevote, SignedVote, Vote, vote_sign_bytes
from node.disk import LOCAL_DISK, write_error
from node.entry_file import ENTRY_END, DamagedEntryError, EntryReader, frame_entry
from node.errors import ConfigurationError, DiskFullError, NodeError, WriteAheadLogError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from consensus.identifiers import PublicKey
    from consensus.signing import SignatureMaker
    from node.disk import Disk, DiskFile
    from node.entry_file import FoundEntry

LOGGER = logging.getLogger(__name__)

MAGIC: Final = b"GRANDSIG"
HEAD: Final = struct.Struct(">I")
ENTRY_BYTES_MAX: Final = 1_024
COMPACT_BYTES: Final = 256 * 1024
"""About a thousand signatures; only those of the last height are kept."""
RECORD_NAME: Final = "signer"


class SignedStep(IntEnum):
    """What was signed, in the order of a round."""

    PROPOSAL = 0
    PREVOTE = 1
    PRECOMMIT = 2


class SignerEntry(Record, tag=1):
    """One signature that may have left."""

    height: Annotated[Height, HEIGHT]
    round: Annotated[Round, ROUND]
    step: Annotated[int, Meta(ge=0, le=2)]
    message: Annotated[bytes, Meta(max_length=512)]
    signature: Annotated[Signature, SIGNATURE]


class SignerFloor(Record, tag=2):
    """After a rejoin: nothing at or below this height is signed, whatever was signed before is unknown."""

    height: Annotated[Height, HEIGHT]


class _Line(Record):
    entry: SignerEntry | SignerFloor


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Position:
    """Where in the chain something was signed; a later one compares greater."""

    height: Height
    round: Round
    step: int


class SigningRefusedError(NodeError):
    """The record forbids this signature; the vote is not sent, the node goes on."""


def create_signer_record(home: Path, disk: Disk = LOCAL_DISK) -> None:
    """Write the empty record of a seat that has never signed: only when its keys are made (rule D5).

    Raises:
        ConfigurationError: There is a record already, or the home cannot be written.
    """
    path = home / RECORD_NAME
    try:
        if disk.exists(path):
            raise FileExistsError(errno.EEXIST, "exists already", str(path))
        disk.replace(path, MAGIC)
    except OSError as error:
        raise ConfigurationError(f"cannot create {path}: {error.strerror}") from error


class Signer:
    """The only user of a seat's signing key for agreement. Signing blocks (fdatasync): call it from a worker thread."""

    __slots__ = (
        "_by_position",
        "_byte_count",
        "_disk",
        "_file",
        "_floor",
        "_genesis_hash",
        "_last",
        "_path",
        "_signing_key",
    )

    def __init__(
        self, home: Path, signing_key: SignatureMaker, genesis_hash: GenesisHash, disk: Disk = LOCAL_DISK
    ) -> None:
        """Open the record; a missing one makes a signer that refuses everything until set_floor().

        Raises:
            WriteAheadLogError: The record is damaged.
        """
        self._disk = disk
        self._path = home / RECORD_NAME
        self._signing_key = signing_key
        self._genesis_hash = genesis_hash
        self._floor: Height | None = None
        self._by_position: dict[Position, SignerEntry] = {}
        self._last: Position | None = None
        """A field of its own: others look at it while a worker thread signs."""
        self._file: DiskFile | None = None
        self._byte_count = 0
        if disk.exists(self._path):
            self._floor = Height(0)
            self._load()

    @property
    def public(self) -> PublicKey:
        """The key to check its signatures against."""
        return self._signing_key.public

    @property
    def floor(self) -> Height | None:
        """The height above which signing is allowed; None while the seat has to rejoin."""
        return self._floor

    @property
    def last(self) -> Position | None:
        """The latest position signed and still remembered."""
        return self._last

    def precommitted_height(self) -> Height:
        """Return the greatest height at which this seat may have signed a precommit; 0 for none."""
        last = self._last
        if last is None:
            return Height(0)
        has_not_yet = last.round == 0 and last.step < SignedStep.PRECOMMIT
        return Height(max(0, last.height - 1)) if has_not_yet else last.height

    def signed_at(self, height: Height) -> tuple[Position, ...]:
        """Return what was signed at a height; of the last height alone all is remembered."""
        return tuple(position for position in self._by_position if position.height == height)

    def may_sign(self, height: Height) -> bool:
        """Say whether this seat votes at a height."""
        return self._floor is not None and height > self._floor

    def set_floor(self, floor: Height) -> None:
        """End a rejoin: durably forbid everything up to a height, allow what is above.

        Raises:
            WriteAheadLogError: The record cannot be written.
        """
        assert self._floor is None, "a seat rejoins only without a record"
        self._replace([SignerFloor(height=floor)])
        self._floor = floor

    def sign_vote(self, vote: Vote) -> SignedVote:
        """Sign a vote or raise SigningRefusedError; durable before it returns."""
        message = vote_sign_bytes(vote, self._genesis_hash)
        return SignedVote(vote=vote, signature=self._sign(position_of(vote), message))

    def sign_proposal(self, proposal: Proposal) -> SignedProposal:
        """Sign a proposal or raise SigningRefusedError; durable before it returns."""
        message = proposal_sign_bytes(proposal, self._genesis_hash)
        return SignedProposal(proposal=proposal, signature=self._sign(position_of(proposal), message))

    def is_stranger(self, position: Position, signature: Signature) -> bool:
        """Say whether a signature of this very seat was made by another copy of it: later than anything recorded."""
        if self._floor is None or position.height <= self._floor:
            return False
        last = self.last
        if last is None or position > last:
            return True
        known = self._by_position.get(position)
        return known is not None and known.signature != signature

    def close(self) -> None:
        """Release the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _sign(self, position: Position, message: bytes) -> Signature:
        known = self._by_position.get(position)
        if known is not None and known.message == message:
            return known.signature
        last = self.last
        if not self.may_sign(position.height) or (last is not None and position <= last):
            raise SigningRefusedError(f"not signed: {position}, signed up to {last}, floor {self._floor}")
        signature = self._signing_key.sign(message)
        entry = SignerEntry(
            height=position.height, round=position.round, step=position.step, message=message, signature=signature
        )
        self._record(entry)
        return signature

    def _record(self, entry: SignerEntry) -> None:
        assert self._file is not None, "may_sign() was true without a record"
        line = _line(entry)
        try:
            if self._file.write(line, self._byte_count) != len(line):
                raise DiskFullError(f"{self._path} cannot be written: the disk is full")
            self._file.flush()
        except OSError as error:
            raise write_error(self._path, error) from error
        self._byte_count += len(line)
        self._remember(entry)
        if self._byte_count > COMPACT_BYTES:
            self._compact()

    def _remember(self, entry: SignerEntry) -> None:
        position = Position(height=entry.height, round=entry.round, step=entry.step)
        if self._by_position and next(iter(self._by_position)).height != entry.height:
            self._by_position.clear()
        self._by_position[position] = entry
        self._last = position

    def _compact(self) -> None:
        assert self._floor is not None, "recorded without a floor"
        self._replace([SignerFloor(height=self._floor), *self._by_position.values()])

    def _replace(self, entries: Sequence[SignerEntry | SignerFloor]) -> None:
        """Write the record anew; what memory knows does not change, since others look at it meanwhile."""
        content = MAGIC + b"".join(_line(entry) for entry in entries)
        try:
            self._disk.replace(self._path, content)
            self.close()
            self._file = self._disk.open(self._path)
            written = self._file.read(self._file.byte_count())
        except OSError as error:
            raise write_error(self._path, error) from error
        if written != content:
            raise self._damaged(0)
        self._byte_count = len(content)

    def _load(self) -> None:
        try:
            self._file = self._disk.open(self._path)
            self._file.flush()  # what a killed process wrote and did not flush is released again from here
            encoded = self._file.read(self._file.byte_count())
        except OSError as error:
            raise WriteAheadLogError(f"{self._path} cannot be read: {error.strerror}") from error
        if not encoded.startswith(MAGIC):
            raise self._damaged(0)
        reader, offset = EntryReader(encoded, HEAD, ENTRY_BYTES_MAX), len(MAGIC)
        while (found := self._read_entry(reader, offset)) is not None:
            self._take(self._decode(found.payload, offset), offset)
            offset = found.end
            if offset == found.content_end:
                self._mend(self._file, offset)
                offset += len(ENTRY_END)
                break
        if offset < len(encoded):
            LOGGER.warning("signer record: a torn entry of %d bytes is cut off", len(encoded) - offset)
            self._file.cut(offset)
        self._byte_count = offset

    def _take(self, entry: SignerEntry | SignerFloor, offset: int) -> None:
        match entry:
            case SignerEntry():
                self._check_order(entry, offset)
                self._remember(entry)
            case SignerFloor(height=height):
                self._floor = height
            case _:
                assert_never(entry)

    def _mend(self, file: DiskFile, offset: int) -> None:
        """Write the end of the last entry again; what is released from here is durable before."""
        try:
            file.write(ENTRY_END, offset)
            file.flush()
        except OSError as error:
            raise write_error(self._path, error) from error

    def _check_order(self, entry: SignerEntry, offset: int) -> None:
        last = self.last
        if last is not None and Position(height=entry.height, round=entry.round, step=entry.step) <= last:
            raise self._damaged(offset)
        if self._signing_key.sign(entry.message) != entry.signature:
            raise self._foreign()

    def _read_entry(self, reader: EntryReader, offset: int) -> FoundEntry | None:
        try:
            return reader.read(offset)
        except DamagedEntryError as error:
            raise self._damaged(offset) from error

    def _decode(self, payload: bytes, offset: int) -> SignerEntry | SignerFloor:
        try:
            return decode(payload, _Line, bytes_max=ENTRY_BYTES_MAX).entry
        except RejectionError as error:
            raise self._damaged(offset) from error

    def _foreign(self) -> WriteAheadLogError:
        return WriteAheadLogError(
            f"{self._path} holds signatures of another key: it, or keys/signing, is another seat's; if the keys are"
            " right, move it and wal/log away and start again; the node then rejoins as after a fire"
            " (docs/operating.md, Damaged log or signer record)"
        )

    def _damaged(self, offset: int) -> WriteAheadLogError:
        return WriteAheadLogError(
            f"{self._path} is damaged at byte {offset}: move it and wal/log away and start again; the node then rejoins"
            " as after a fire (docs/operating.md, Damaged log or signer record)"
        )


def position_of(signed: Vote | Proposal) -> Position:
    """Return where in the chain a vote or proposal stands."""
    match signed:
        case Proposal():
            step = SignedStep.PROPOSAL
        case Prevote():
            step = SignedStep.PREVOTE
        case Precommit():
            step = SignedStep.PRECOMMIT
        case _:
            assert_never(signed)
    return Position(height=signed.height, round=signed.round, step=step)


def _line(entry: SignerEntry | SignerFloor) -> bytes:
    payload = encode(_Line(entry=entry))
    return frame_entry(HEAD.pack(len(payload)), payload)
