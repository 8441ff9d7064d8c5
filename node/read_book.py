"""What members signed for what they read here: files in HOME/reads, one an epoch and start of the node (rule S66).

    EPOCH-BEGUN    4 bytes length, big-endian || encoded ReadReceipt, again and again; a cut end is none

Nothing is flushed for it: a power cut may cost the last half minute of what would only be compared. A disk that refuses
costs the receipt and not the reader, who may be rebuilding what another disk has lost.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from consensus.encoding import encode
from consensus.errors import RejectionError, RejectionReason
from storage.read_receipts import READER_BYTES_MAX, SPANS_KEPT, ReadReceipt, check_read, check_read_time

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from consensus.identifiers import GenesisHash, Milliseconds, PublicKey

LOGGER = logging.getLogger(__name__)

FOLDER: Final = "reads"
FILE_MODE: Final = 0o600
LENGTH_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class KeptReads:
    """One file of receipts."""

    name: str
    epoch: int
    byte_count: int


class ReadBook:
    """The receipts that one holder keeps; thread-safe, its methods block."""

    def __init__(
        self, home: Path, genesis_hash: GenesisHash, now_ms: Callable[[], Milliseconds], epoch_ms: int
    ) -> None:
        """Keep receipts below a node's home."""
        self._folder = home / FOLDER
        self._genesis_hash = genesis_hash
        self._now_ms = now_ms
        self._epoch_ms = epoch_ms
        self._begun = now_ms()
        self._lock = threading.Lock()
        self._epoch = -1
        self._descriptor: int | None = None
        self._used: Counter[PublicKey] = Counter()

    def keep(self, receipt: ReadReceipt) -> None:
        """Check what a member signed and keep it.

        Raises:
            RejectionError: BAD_SIGNATURE, TOO_LATE; QUEUE_FULL when this reader has signed for too much in this epoch.
        """
        now_ms = self._now_ms()
        check_read_time(receipt, now_ms)
        check_read(receipt, self._genesis_hash)
        encoded = encode(receipt)
        with self._lock:
            self._turn(now_ms // self._epoch_ms)
            if self._used[receipt.reader] + len(encoded) > READER_BYTES_MAX:
                detail = f"this member's receipts of the epoch have {READER_BYTES_MAX} bytes already"
                raise RejectionError(RejectionReason.QUEUE_FULL, detail)
            self._used[receipt.reader] += len(encoded) + LENGTH_BYTES
            if self._descriptor is not None:
                self._write(self._descriptor, len(encoded).to_bytes(LENGTH_BYTES, "big") + encoded)

    def files(self) -> tuple[KeptReads, ...]:
        """Return the files that are kept, the oldest first."""
        if not self._folder.is_dir():
            return ()
        named = [(path.name.split("-"), path) for path in self._folder.iterdir()]
        ours = [(parts, path) for parts, path in named if len(parts) == len(("epoch", "begun"))]
        found = [
            KeptReads(path.name, int(parts[0]), path.stat().st_size)
            for parts, path in ours
            if all(part.isdigit() for part in parts)
        ]
        return tuple(sorted(found, key=lambda kept: (kept.epoch, kept.name)))

    def read(self, name: str, offset: int, bytes_max: int) -> bytes | None:
        """Return bytes of a kept file from an offset on; None when there is none of this name."""
        if name not in {kept.name for kept in self.files()}:
            return None
        try:
            with (self._folder / name).open("rb") as file:
                file.seek(offset)
                return file.read(bytes_max)
        except FileNotFoundError:
            return None

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._release()

    def _turn(self, epoch: int) -> None:
        """Begin an epoch's file and let the oldest go."""
        if epoch == self._epoch:
            return
        self._release()
        self._epoch = epoch
        self._used.clear()
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            for kept in self.files():
                if kept.epoch <= epoch - SPANS_KEPT:
                    (self._folder / kept.name).unlink(missing_ok=True)
            path = self._folder / f"{epoch}-{self._begun}"
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, FILE_MODE)
        except OSError as error:
            LOGGER.warning("what members sign for is not kept: %s", error.strerror)

    def _write(self, descriptor: int, frame: bytes) -> None:
        try:
            if os.write(descriptor, frame) != len(frame):
                raise OSError(0, "written in part")  # noqa: TRY301 (handled as a refusal)
        except OSError as error:
            LOGGER.warning("what members sign for is not kept until the next epoch: %s", error.strerror)
            self._release()

    def _release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
