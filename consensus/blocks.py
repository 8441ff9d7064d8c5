"""Blocks: what a decision is about, and the proof that it was decided.

The header commits everything; no round stands inside, so a block proposed again keeps its hash. The state root is the
one after the parent. Transactions are opaque bytes here; the application reads them. Off-chain records travel beside
the block and are never part of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta

from consensus.certificates import CommitCertificate, PolkaCertificate, check_commit
from consensus.encoding import Record, encode
from consensus.errors import RejectionError, RejectionReason
from consensus.evidence import Evidence
from consensus.identifiers import (
    HASH,
    HEIGHT,
    MEMBER,
    TIME,
    BlockHash,
    CertificateHash,
    Height,
    MemberIndex,
    MerkleRoot,
    Milliseconds,
    StateRoot,
)
from consensus.signing import Domain, check_signature, domain_hash

if TYPE_CHECKING:
    from consensus.members import MemberSet
    from consensus.signing import SignatureCheck

BLOCK_BYTES_MAX: Final = 4 * 1024 * 1024
"""A block with the records that travel beside it."""
TRANSACTION_BYTES_MAX: Final = 1024 * 1024
TRANSACTIONS_MAX: Final = 16_384
EVIDENCE_MAX: Final = 16
POLKAS_MAX: Final = 64
"""Polka certificates back to valid round -1; each is a different round."""
PROTOCOL_VERSION: Final = 1
NO_CERTIFICATE: Final = CertificateHash(bytes(32))
"""The parent commit hash of the first block."""


class Header(Record, tag=11):
    """What a block's hash commits."""

    protocol_version: Annotated[int, Meta(ge=1, le=65_535)]
    chain_id: Annotated[str, Meta(min_length=1, max_length=64)]
    height: Annotated[Height, HEIGHT]
    parent_hash: Annotated[BlockHash, HASH]
    parent_commit_hash: Annotated[CertificateHash, HASH]
    transactions_root: Annotated[MerkleRoot, HASH]
    state_root: Annotated[StateRoot, HASH]
    evidence_root: Annotated[MerkleRoot, HASH]
    proposer: Annotated[MemberIndex, MEMBER]
    time_ms: Annotated[Milliseconds, TIME]


class Block(Record, tag=12):
    """A header and what it commits; the parent's certificate holds every precommit the proposer had."""

    header: Header
    parent_commit: CommitCertificate | None
    evidence: Annotated[tuple[Evidence, ...], Meta(max_length=EVIDENCE_MAX)]
    transactions: Annotated[
        tuple[Annotated[bytes, Meta(max_length=TRANSACTION_BYTES_MAX)], ...], Meta(max_length=TRANSACTIONS_MAX)
    ]


class DecidedBlock(Record, tag=13):
    """A block with its commit certificate and, decided in a round above 0, its polkas back to valid round -1."""

    block: Block
    commit: CommitCertificate
    polkas: Annotated[tuple[PolkaCertificate, ...], Meta(max_length=POLKAS_MAX)]


def header_hash(header: Header) -> BlockHash:
    """Return the hash that names a block."""
    return BlockHash(domain_hash(Domain.HEADER, encode(header)))


def certificate_hash(certificate: CommitCertificate) -> CertificateHash:
    """Return the hash by which a child header commits its parent's certificate."""
    return CertificateHash(domain_hash(Domain.COMMIT, encode(certificate)))


def check_header_commit(
    header: Header, commit: CommitCertificate, members: MemberSet, check: SignatureCheck = check_signature
) -> None:
    """Refuse a certificate that does not prove this very header decided.

    Raises:
        RejectionError: WRONG_CERTIFICATE for another block's, and what check_commit gives.
    """
    if (commit.height, commit.block_hash) != (header.height, header_hash(header)):
        raise RejectionError(RejectionReason.WRONG_CERTIFICATE, "the commit certificate is of another block")
    check_commit(commit, members, check)
