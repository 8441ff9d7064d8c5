"""A short chain with real signatures and a real ledger, decided by nine example members."""

from __future__ import annotations

import io

from consensus.blocks import Block, DecidedBlock, header_hash
from consensus.certificates import commit_certificate, polka_certificate
from consensus.chain import chain_rules, genesis_tip, make_block, next_tip
from consensus.encoding import encode
from consensus.genesis import ConsensusParameters, Genesis, genesis_hash
from consensus.identifiers import NO_ROUND, Height, MemberIndex, Milliseconds, PublicKey, Round
from consensus.signing import SigningKey
from consensus.votes import Precommit, Prevote, SignedVote, Vote, vote_sign_bytes
from node.replay import write_export
from storage.genesis import GenesisTenant, Seat, StorageGenesis, StorageParameters, encode_storage_genesis
from storage.identifiers import TenantId
from storage.ledger import apply_block, genesis_state, ledger_context
from storage.state import MemoryState
from storage.transactions import Envelope, GrantClient, sign_transaction
from tests.strategies import signing_keys

KEYS = signing_keys(9)
TENANT_KEY = SigningKey(b"t" * 32)
TENANT = TenantId(b"t" * 16)


def small_genesis() -> Genesis:
    seats = tuple(
        Seat(
            operator=f"operator {index}",
            site="somewhere",
            network_key=PublicKey(bytes([index]) * 32),
            certificate=b"certificate",
            host="127.0.0.1",
            libp2p_port=1,
            shard_port=1,
            api_port=1,
        )
        for index in range(len(KEYS))
    )
    tenants = (GenesisTenant(tenant=TENANT, public_key=TENANT_KEY.public, grants=()),)
    part = StorageGenesis(seats=seats, tenants=tenants, parameters=StorageParameters())
    return Genesis(
        chain_id="small",
        time_ms=Milliseconds(1_000),
        members=tuple(signing_key.public for signing_key in KEYS),
        parameters=ConsensusParameters(),
        application=encode_storage_genesis(part),
    )


def grant(genesis: Genesis, number: int) -> bytes:
    """Return a transaction of the tenant."""
    body = GrantClient(tenant=TENANT, public_key=PublicKey(bytes([number]) * 32), certificate=b"certificate")
    envelope = Envelope(
        transaction_version=1,
        sender=TENANT_KEY.public,
        sequence=number,
        valid_until_height=Height(100),
        body=body,
    )
    return sign_transaction(envelope, TENANT_KEY, genesis_hash(genesis))


def signed(genesis: Genesis, vote: Vote) -> SignedVote:
    return SignedVote(vote=vote, signature=KEYS[vote.member].sign(vote_sign_bytes(vote, genesis_hash(genesis))))


def decide(genesis: Genesis, block: Block, round_: int) -> DecidedBlock:
    """Return the block with the certificates of six members, decided in a round where it was fresh."""
    height, named = block.header.height, header_hash(block.header)
    precommits = [
        signed(genesis, Precommit(height=height, round=Round(round_), block_hash=named, member=MemberIndex(member)))
        for member in range(6)
    ]
    prevotes = [
        signed(
            genesis,
            Prevote(
                height=height, round=Round(round_), block_hash=named, valid_round=NO_ROUND, member=MemberIndex(member)
            ),
        )
        for member in range(6)
    ]
    polkas = (polka_certificate(prevotes),) if round_ else ()
    return DecidedBlock(block=block, commit=commit_certificate(precommits), polkas=polkas)


def small_chain(genesis: Genesis, blocks: int) -> tuple[DecidedBlock, ...]:
    """Return decided blocks 1 to `blocks`; every second carries a transaction, every third is of round 1."""
    rules, context, state = chain_rules(genesis), ledger_context(genesis), MemoryState()
    start = genesis_state(genesis)
    state.commit(start.values, start.pages)
    tip = genesis_tip(genesis, start.state_root)
    chain: list[DecidedBlock] = []
    for height in range(1, blocks + 1):
        round_ = 1 if height % 3 == 0 else 0
        proposer = tip.turns.proposer(Height(height), Round(round_))
        transactions = (grant(genesis, height),) if height % 2 == 0 else ()
        block = make_block(
            tip, rules, proposer, transactions=transactions, evidence=(), now_ms=Milliseconds(2_000 + height)
        )
        decided = decide(genesis, block, round_)
        change = apply_block(context, state, block)
        state.commit(change.values, change.pages)
        tip = next_tip(tip, decided, change.state_root, context.schedule)
        chain.append(decided)
    return tuple(chain)


def exported(genesis: Genesis, chain: tuple[DecidedBlock, ...]) -> bytes:
    """Return the export of a chain."""
    output = io.BytesIO()
    write_export(output, encode(genesis), [encode(decided) for decided in chain])
    return output.getvalue()
