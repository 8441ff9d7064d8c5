"""One node's API over a small real chain: ledger and blocks in LevelDB, asked through ASGI without a socket."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
import msgspec
from starlette.applications import Starlette

from consensus.blocks import DecidedBlock
from consensus.chain import chain_rules
from consensus.genesis import genesis_hash
from consensus.identifiers import MemberIndex
from node.admission import Admission
from node.api.answers import ErrorAnswer
from node.api.application import ApiParts, build_application
from node.clock import now_ms
from node.config import LogFormat, LogLevel, NodeConfig
from node.consensus_task import ConsensusParts, ConsensusTask
from node.keys import OperatorKeys
from node.ledger_chain import LedgerChain
from node.mempool import Mempool
from node.node_chain import Appended
from node.read_book import ReadBook
from node.signer import Signer, create_signer_record
from node.telemetry import NodeCounters
from node.write_ahead_log import WriteAheadLog
from storage.genesis import storage_genesis
from storage.stores.blocks import ChainStore, open_chain
from storage.stores.records import RecordStore
from tests.node.real_chain import Sent
from tests.storage.ledger_world import World, signing_key

AnswerT = TypeVar("AnswerT", bound=msgspec.Struct)
SEAT = MemberIndex(2)


def config_of(world: World, home: Path) -> NodeConfig:
    rules = chain_rules(world.genesis)
    return NodeConfig(
        home=home,
        genesis=world.genesis,
        genesis_hash=genesis_hash(world.genesis),
        storage_genesis=storage_genesis(world.genesis),
        members=rules.members,
        seat=SEAT,
        keys=OperatorKeys(signing=signing_key(f"seat {SEAT}"), network=signing_key(f"network {SEAT}")),
        listen_host="127.0.0.1",
        libp2p_port=4001,
        shard_port=4002,
        api_host="127.0.0.1",
        api_port=8080,
        history_heights=None,
        reserve_bytes=0,
        log_level=LogLevel.INFO,
        log_format=LogFormat.TEXT,
        peers=(),
        overrides={},
    )


@dataclass(slots=True, kw_only=True)
class Site:
    """What a test sees: the chain behind the API, and the API."""

    world: World
    chain: LedgerChain
    consensus: ConsensusTask
    mempool: Mempool
    application: Starlette
    http: httpx.AsyncClient

    @property
    def store(self) -> ChainStore:
        return self.chain.store

    def append(
        self, *transactions: bytes, guilty: tuple[int, ...] = (), later_ms: int = 1_000
    ) -> tuple[DecidedBlock, Appended]:
        """Decide and append a block of these, and of evidence against these members, so long after the last one."""
        evidence = tuple(self.world.evidence(member) for member in guilty)
        decided = self.world.decide(*transactions, evidence=evidence, later_ms=later_ms)
        appended = self.chain.append(decided)
        self.mempool.committed(appended.transaction_ids, appended.height)
        self.consensus.on_appended(appended)
        return decided, appended

    async def get(self, path: str, kind: type[AnswerT], status: int = 200) -> AnswerT:
        """Ask, and read the whole answer strictly: a field too many or too few fails."""
        return read(await self.http.get(path), kind, status)

    async def error(self, path: str, status: int, error: str) -> ErrorAnswer:
        answer = await self.get(path, ErrorAnswer, status)
        assert answer.error == error, answer
        assert answer.detail
        assert answer.remedy
        return answer


def read(response: httpx.Response, kind: type[AnswerT], status: int = 200) -> AnswerT:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    answer = msgspec.json.decode(response.content, type=kind, strict=True)
    assert msgspec.json.decode(response.content) == msgspec.json.decode(msgspec.json.encode(answer))
    return answer


@asynccontextmanager
async def open_site(folder: Path) -> AsyncGenerator[Site, None]:
    world = World()
    config = config_of(world, folder)
    with ExitStack() as stack:
        store = stack.enter_context(open_chain(folder / "chain", world.genesis))
        records = RecordStore(folder / "records")
        stack.callback(records.close)
        create_signer_record(folder)
        signer = Signer(folder, config.keys.signing, config.genesis_hash)
        stack.callback(signer.close)
        log = WriteAheadLog(folder / "wal", config.genesis_hash)
        stack.callback(log.close)
        chain = LedgerChain(store=store, records=records, seat=SEAT)
        sent, mempool, counters = Sent(), Mempool(), NodeCounters()
        admission = Admission(chain=chain, mempool=mempool, outbox=sent, counters=counters)
        consensus = ConsensusTask(
            ConsensusParts(
                seat=SEAT,
                chain=chain,
                signer=signer,
                log=log,
                mempool=mempool,
                outbox=sent,
                counters=counters,
                take_transactions=admission.take,
                on_appended=lambda _: None,
            )
        )
        application = build_application(
            ApiParts(
                config=config,
                store=store,
                consensus=consensus,
                admission=admission,
                mempool=mempool,
                signer=signer,
                connected_seats=lambda: [0, 3],
                operator="operator 2",
                holder_bytes=lambda: 12_345,
                reads=ReadBook(folder, config.genesis_hash, now_ms, 600_000),
            )
        )
        transport = httpx.ASGITransport(app=application)
        async with httpx.AsyncClient(transport=transport, base_url="http://node") as http:
            yield Site(
                world=world, chain=chain, consensus=consensus, mempool=mempool, application=application, http=http
            )
