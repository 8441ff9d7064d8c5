"""The consensus task of one seat with everything real below it: chain, signer and log on disk; nobody to talk to."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from consensus.blocks import DecidedBlock
from consensus.genesis import genesis_hash
from consensus.identifiers import MemberIndex
from consensus.signing import check_signature
from consensus.votes import Precommit
from node.admission import Admission
from node.catch_up_task import CatchUpServer
from node.consensus_task import ConsensusParts, ConsensusTask
from node.ledger_chain import LedgerChain
from node.mempool import Mempool
from node.node_chain import Appended
from node.signer import Signer
from node.snapshot_server import SnapshotServer
from node.telemetry import NodeCounters
from node.write_ahead_log import WriteAheadLog
from storage.stores.snapshots import MadeSnapshots
from tests.node.real_chain import Sent, open_ledger_chain, open_signer
from tests.node.small_chain import KEYS, small_genesis

if TYPE_CHECKING:
    from consensus.signing import SignatureCheck


@dataclass(slots=True, kw_only=True)
class OneMember:
    """The parts of one seat."""

    chain: LedgerChain
    signer: Signer
    sent: Sent
    mempool: Mempool
    admission: Admission
    consensus: ConsensusTask
    server: CatchUpServer
    appended: list[Appended] = field(default_factory=list[Appended])


def remember(signer: Signer, seat: MemberIndex, decided: DecidedBlock) -> None:
    """Have a record hold what its seat signed of a block of the small chain, which all nine decided."""
    commit = decided.commit
    vote = Precommit(height=commit.height, round=commit.round, block_hash=commit.block_hash, member=seat)
    signer.sign_vote(vote)


@contextmanager
def open_member(
    folder: Path,
    blocks: Sequence[DecidedBlock] = (),
    *,
    seat: int = 0,
    fresh: bool = True,
    check: SignatureCheck = check_signature,
) -> Generator[OneMember]:
    """Open a seat that has these blocks; one that is not fresh has lost its signer record."""
    folder.mkdir(exist_ok=True)
    pin = genesis_hash(small_genesis())
    with open_ledger_chain(folder, blocks, seat=seat) as chain, open_signer(folder, seat=seat, fresh=fresh) as signer:
        if fresh and blocks:
            remember(signer, chain.seat, blocks[-1])
        log = WriteAheadLog(folder / "wal", pin)
        sent, mempool, counters, appended = Sent(), Mempool(), NodeCounters(), list[Appended]()
        admission = Admission(chain=chain, mempool=mempool, outbox=sent, counters=counters)
        parts = ConsensusParts(
            seat=chain.seat,
            chain=chain,
            signer=signer,
            log=log,
            mempool=mempool,
            outbox=sent,
            counters=counters,
            take_transactions=admission.take,
            on_appended=appended.append,
            listen_s=0.0,
            check=check,
        )
        server = CatchUpServer(
            seat=chain.seat,
            signing_key=KEYS[seat],
            genesis_hash=pin,
            chain=chain,
            store=chain.store,
            signer=signer,
            snapshots=SnapshotServer(chain.store, MadeSnapshots(folder / "made")),
        )
        try:
            yield OneMember(
                chain=chain,
                signer=signer,
                sent=sent,
                mempool=mempool,
                admission=admission,
                consensus=ConsensusTask(parts),
                server=server,
                appended=appended,
            )
        finally:
            log.close()
