"""A small chain with real keys: genesis, receipts, transactions and decided blocks, for the tests of the ledger."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from msgspec import structs

from consensus.blocks import NO_CERTIFICATE, Block, DecidedBlock, header_hash
from consensus.certificates import commit_certificate
from consensus.chain import ChainRules, ChainTip, chain_rules, genesis_tip, make_block, next_tip, rules_at
from consensus.evidence import Evidence
from consensus.genesis import ConsensusParameters, Genesis, genesis_hash
from consensus.identifiers import BlockHash, Height, MemberIndex, Milliseconds, Round
from consensus.signing import SigningKey
from consensus.vote_keeper import vote_evidence
from consensus.votes import Precommit, SignedVote, vote_sign_bytes
from storage.buckets import EntryDetails, NewBucket
from storage.genesis import GenesisTenant, Grant, Seat, StorageGenesis, StorageParameters, encode_storage_genesis
from storage.identifiers import (
    BucketTag,
    ColumnIndex,
    NameTag,
    RecordAddress,
    SeatIndex,
    SegmentId,
    ShardRoot,
    TenantId,
    VersionId,
)
from storage.ledger import (
    LedgerContext,
    StateChange,
    apply_block,
    apply_transactions,
    context_after,
    genesis_state,
    ledger_context,
)
from storage.membership import ProposalState, proposal_key
from storage.moments import Moment
from storage.outcomes import Outcome
from storage.placement import column_seats
from storage.receipts import Receipt, ReceiptItem, held_bitmap, sign_receipt
from storage.record_claims import record_claims
from storage.seat_changes import (
    ApproveChange,
    Change,
    ProposeChange,
    SeatOffer,
    change_id,
    make_offer,
    offer_of,
)
from storage.segments import SegmentShape
from storage.state import MemoryState, read_state
from storage.transactions import (
    Body,
    BucketEntries,
    CommitObjects,
    EntryCommit,
    Envelope,
    Extent,
    SegmentCommit,
    StoredExtent,
    decode_transaction,
    sign_transaction,
)

TENANT = TenantId(b"T" * 16)
OTHER_TENANT = TenantId(b"O" * 16)
BUCKET = BucketTag(b"B" * 16)
NEW_BUCKET = NewBucket(
    bucket_tag=BUCKET, version_id=VersionId(b"b" * 16), record_address=RecordAddress(hashlib.sha256(b"bucket").digest())
)


def signing_key(name: str) -> SigningKey:
    return SigningKey(hashlib.sha256(name.encode()).digest())


def make_genesis(seats: int, chain_id: str = "test") -> Genesis:
    part = StorageGenesis(
        seats=tuple(
            Seat(
                operator=f"operator {i}",
                site="example",
                network_key=signing_key(f"network {i}").public,
                certificate=b"certificate",
                host="127.0.0.1",
                libp2p_port=4001,
                shard_port=4002,
                api_port=8080,
            )
            for i in range(seats)
        ),
        tenants=(
            GenesisTenant(
                tenant=TENANT,
                public_key=signing_key("tenant").public,
                grants=(Grant(public_key=signing_key("client").public, certificate=b"client certificate"),),
            ),
            GenesisTenant(tenant=OTHER_TENANT, public_key=signing_key("other tenant").public, grants=()),
        ),
        parameters=StorageParameters(),
    )
    return Genesis(
        chain_id=chain_id,
        time_ms=Milliseconds(1_000),
        members=tuple(signing_key(f"seat {i}").public for i in range(seats)),
        parameters=ConsensusParameters(),
        application=encode_storage_genesis(part),
    )


def name_tag(name: str) -> NameTag:
    return NameTag(hashlib.sha256(name.encode()).digest()[:16])


def record_addresses(transaction: bytes) -> tuple[RecordAddress, ...]:
    """Return the addresses of the records that must travel with a transaction, each once, in its order."""
    claims = record_claims(decode_transaction(transaction).envelope.body)
    return tuple(dict.fromkeys(claim.address for claim in claims))


def segment_id(name: str) -> SegmentId:
    return SegmentId(hashlib.sha256(b"segment" + name.encode()).digest())


def entry(
    name: str,
    *extents: Extent | StoredExtent,
    version: str = "1",
    condition: bytes | None = None,
    details: EntryDetails | None = None,
) -> EntryCommit:
    digest = hashlib.sha256(f"{name} {version}".encode()).digest()
    return EntryCommit(
        name_tag=name_tag(name),
        version_id=VersionId(digest[:16]),
        record_address=RecordAddress(digest),
        extents=extents,
        condition=condition,
        details=details,
    )


@dataclass(slots=True)
class World:
    """A ledger in memory, and everybody's keys."""

    seats: int = 4
    chain_id: str = "test"
    sequence: int = 0
    names: list[str] = field(init=False)
    """Whose key each seat votes with, by number."""
    genesis: Genesis = field(init=False)
    context: LedgerContext = field(init=False)
    rules: ChainRules = field(init=False)
    state: MemoryState = field(init=False)
    tip: ChainTip = field(init=False)

    def __post_init__(self) -> None:
        self.names = [f"seat {seat}" for seat in range(self.seats)]
        self.genesis = make_genesis(self.seats, self.chain_id)
        self.context = ledger_context(self.genesis)
        self.rules = chain_rules(self.genesis)
        self.state = MemoryState()
        change = genesis_state(self.genesis)
        self.state.commit(change.values, change.pages)
        self.tip = genesis_tip(self.genesis, change.state_root)

    def segment(self, name: str, *, segment_bytes: int = 1000, k: int | None = None) -> SegmentCommit:
        columns = self.context.coding.members
        return SegmentCommit(
            segment_id=segment_id(name),
            k=self.context.coding.quorum if k is None else k,
            segment_bytes=segment_bytes,
            roots=tuple(ShardRoot(hashlib.sha256(f"{name} {i}".encode()).digest()) for i in range(columns)),
        )

    def receipt(
        self,
        seat: int,
        segments: tuple[SegmentCommit, ...],
        *,
        held: tuple[int, ...] | None = None,
        expiry: int = 100,
        signer: str | None = None,
        tenant: TenantId = TENANT,
    ) -> Receipt:
        positions = tuple(range(len(segments))) if held is None else held
        items = list[ReceiptItem]()
        for position in positions:
            segment = segments[position]
            column = column_seats(segment.segment_id, self.context.seats).index(SeatIndex(seat))
            shape = SegmentShape(segment.segment_bytes, segment.k, len(segment.roots))
            items.append(
                ReceiptItem(
                    segment_id=segment.segment_id,
                    column=ColumnIndex(column),
                    shard_root=segment.roots[column],
                    shard_bytes=shape.shard_bytes,
                )
            )
        return sign_receipt(
            signing_key(signer or self.names[seat]),
            genesis_hash(self.genesis),
            tenant=tenant,
            seat=SeatIndex(seat),
            held=held_bitmap(positions, len(segments)),
            items=items,
            expiry_height=Height(expiry),
        )

    def receipts(self, segments: tuple[SegmentCommit, ...], seats: range | None = None) -> tuple[Receipt, ...]:
        return tuple(self.receipt(seat, segments) for seat in seats or range(self.seats))

    def transaction(
        self, body: Body, *, sender: str = "client", valid_until: int = 500, sequence: int | None = None
    ) -> bytes:
        self.sequence += 1
        key = signing_key(sender)
        envelope = Envelope(
            transaction_version=1,
            sender=key.public,
            sequence=self.sequence if sequence is None else sequence,
            valid_until_height=Height(valid_until),
            body=body,
        )
        return sign_transaction(envelope, key, genesis_hash(self.genesis))

    def commit(
        self, segments: tuple[SegmentCommit, ...], *entries: EntryCommit, receipts: tuple[Receipt, ...] | None = None
    ) -> CommitObjects:
        found = (self.receipts(segments) if segments else ()) if receipts is None else receipts
        buckets = (BucketEntries(bucket_tag=BUCKET, entries=entries),) if entries else ()
        return CommitObjects(
            tenant=TENANT, segments=segments, buckets=buckets, receipts=found, new_buckets=(NEW_BUCKET,)
        )

    def apply(self, *transactions: bytes, later_ms: int = 1_000) -> StateChange:
        """Apply a block without deciding it, so long after the one before."""
        moment = self.next_moment(later_ms)
        change = apply_transactions(self.context, self.state, moment, transactions)
        self.commit_change(change)
        self.tip = ChainTip(
            height=moment.height,
            block_hash=self.tip.block_hash,
            time_ms=moment.time_ms,
            state_root=change.state_root,
            last=None,
            turns=structs.replace(self.tip.turns, height=moment.height),
        )
        return change

    def next_moment(self, later_ms: int = 1_000) -> Moment:
        """Return the moment of a block so long after the last; the certificate of an undecided one is of nobody."""
        return Moment(
            height=Height(self.tip.height + 1),
            time_ms=Milliseconds(self.tip.time_ms + later_ms),
            certificate=NO_CERTIFICATE,
        )

    def run(self, body: Body, *, sender: str = "client") -> Outcome:
        """Apply a block of one transaction and return what became of it."""
        return self.apply(self.transaction(body, sender=sender)).outcomes[0]

    def decide(self, *transactions: bytes, evidence: tuple[Evidence, ...] = (), later_ms: int = 1_000) -> DecidedBlock:
        """Make, decide and apply a block so long after the one before; every member signs."""
        height = Height(self.tip.height + 1)
        proposer = self.tip.turns.proposer(height, Round(0))
        block = make_block(
            self.tip,
            self.rules,
            proposer,
            transactions=transactions,
            evidence=evidence,
            now_ms=Milliseconds(self.tip.time_ms + later_ms),
        )
        decided = self.certify(block)
        change = apply_block(self.context, self.state, block)
        self.commit_change(change)
        self.tip = next_tip(self.tip, decided, change.state_root, self.context.schedule)
        return decided

    def commit_change(self, change: StateChange) -> None:
        """Write what a block changed; the next one is judged by what follows from it."""
        self.state.commit(change.values, change.pages)
        self.context = context_after(self.context, self.state, change)
        following = Height(change.height + 1)
        self.rules = rules_at(self.genesis.chain_id, self.context.schedule, following)

    def offer(self, number: int, name: str, operator: str | None = None) -> SeatOffer:
        """Return what a newcomer of this name offers."""
        seat = Seat(
            operator=operator or f"operator {name}",
            site="example",
            network_key=signing_key(f"network {name}").public,
            certificate=b"certificate",
            host="127.0.0.1",
            libp2p_port=4001,
            shard_port=4002,
            api_port=8080,
        )
        return make_offer(SeatIndex(number), seat, signing_key(name), genesis_hash(self.genesis))

    def propose(self, change: Change, *, by: int = 0) -> bytes:
        """Return a member's proposal."""
        return self.transaction(ProposeChange(change=change), sender=self.names[by])

    def approve(self, proposer: int, *, by: int) -> bytes:
        """Return a member's approval of what another one proposes now."""
        proposal = read_state(self.state, proposal_key(SeatIndex(proposer)), ProposalState)
        assert proposal is not None, "nothing is proposed"
        name = change_id(SeatIndex(proposer), proposal.height, proposal.change)
        return self.transaction(ApproveChange(proposer=SeatIndex(proposer), change_id=name), sender=self.names[by])

    def change(self, change: Change, name: str | None = None) -> None:
        """Decide a change and the blocks up to the last one before it is effective; `name` sits then."""
        voters = self.rules.members.indices[: self.rules.members.budget.quorum]
        self.decide(self.propose(change, by=voters[0]))
        self.decide(*(self.approve(voters[0], by=member) for member in voters[1:]))
        self.decide()
        offer = offer_of(change)
        if offer is not None:
            assert name is not None, "somebody sits"
            self.names[offer.number : offer.number + 1] = [name]

    def evidence(self, member: int, height: int = 1, round_: int = 0) -> Evidence:
        """Return the proof that a member precommitted two blocks; another call gives the same fault."""
        signed = list[SignedVote]()
        for fill in (1, 2):
            vote = Precommit(
                height=Height(height),
                round=Round(round_),
                block_hash=BlockHash(bytes((fill,)) * 32),
                member=MemberIndex(member),
            )
            message = vote_sign_bytes(vote, self.rules.members.genesis_hash)
            signed.append(SignedVote(vote=vote, signature=signing_key(self.names[member]).sign(message)))
        return vote_evidence(*signed)

    def certify(self, block: Block) -> DecidedBlock:
        """Return a block with the precommits of all members, in round 0."""
        votes = list[SignedVote]()
        for member in self.rules.members.indices:
            vote = Precommit(
                height=block.header.height, round=Round(0), block_hash=header_hash(block.header), member=member
            )
            message = vote_sign_bytes(vote, self.rules.members.genesis_hash)
            votes.append(SignedVote(vote=vote, signature=signing_key(self.names[member]).sign(message)))
        return DecidedBlock(block=block, commit=commit_certificate(votes), polkas=())
