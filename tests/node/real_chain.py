"""A seat's chain on a real disk: LevelDB, ledger, records, and the small chain's blocks in it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from consensus.blocks import DecidedBlock
from consensus.genesis import Genesis, genesis_hash
from consensus.identifiers import MemberIndex
from node.ledger_chain import LedgerChain
from node.signer import Signer, create_signer_record
from storage.stores.blocks import open_chain
from storage.stores.records import RecordStore
from tests.node.small_chain import KEYS, small_genesis


@dataclass(slots=True)
class Sent:
    """Implements Outbox: keeps what was sent, to whom; None is everybody."""

    frames: list[tuple[MemberIndex | None, bytes]] = field(default_factory=list[tuple[MemberIndex | None, bytes]])

    def send(self, member: MemberIndex, frame: bytes) -> None:
        self.frames.append((member, frame))

    def broadcast(self, frame: bytes) -> None:
        self.frames.append((None, frame))


@contextmanager
def open_ledger_chain(
    folder: Path, blocks: Sequence[DecidedBlock] = (), *, seat: int = 0, genesis: Genesis | None = None
) -> Generator[LedgerChain]:
    """Open a seat's chain and append these blocks."""
    genesis = genesis or small_genesis()
    with ExitStack() as stack:
        store = stack.enter_context(open_chain(folder / "chain", genesis))
        records = RecordStore(folder / "records")
        stack.callback(records.close)
        chain = LedgerChain(store=store, records=records, seat=MemberIndex(seat))
        for decided in blocks:
            chain.check_decided(decided)
            chain.append(decided)
        yield chain


@contextmanager
def open_signer(folder: Path, *, seat: int = 0, fresh: bool = True) -> Generator[Signer]:
    """Open a seat's signer; one that is not fresh has lost its record."""
    if fresh:
        create_signer_record(folder)
    signer = Signer(folder, KEYS[seat], genesis_hash(small_genesis()))
    try:
        yield signer
    finally:
        signer.close()
