"""Facts of the chain that need no trust in whoever tells them: only the members' keys, which genesis names.

A state proof holds a header, the precommits of a quorum for it, and the way from its state root to a key. The root in
header H is the state after block H - 1, so what block H changed is proven by header H + 1. A transaction proof holds
the way from the transactions root to one transaction: it stands in the chain, whatever became of it. Beside the value a
state proof takes about 1.5 KB at a million keys, of which 0.4 KB are six signatures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta

from consensus.blocks import TRANSACTION_BYTES_MAX, DecidedBlock, Header, check_header_commit
from consensus.certificates import CommitCertificate, bitmap_of, signers
from consensus.encoding import Record, decode
from consensus.errors import RejectionError, RejectionReason
from consensus.heads import DecidedHead
from consensus.members import MemberSet
from consensus.merkle import ListProof, check_list_proof, list_proof, list_proof_of_leaves
from consensus.signing import check_signature
from storage.state import STATE_VALUE_BYTES_MAX
from storage.state_tree import TreeProof, check_absence, check_inclusion

if TYPE_CHECKING:
    from consensus.signing import SignatureCheck

PROOF_BYTES_MAX: Final = 64 * 1024
"""Beside the value or transaction: at most 256 siblings of 34 bytes and 64 signatures of 66."""


class CertifiedHeader(Record):
    """A header and a quorum of precommits for it."""

    header: Header
    commit: CommitCertificate


class StateProof(Record, tag=21):
    """What a state key holds in the state that a header's root commits; None: nothing."""

    certified: CertifiedHeader
    value: Annotated[bytes, Meta(max_length=STATE_VALUE_BYTES_MAX)] | None
    tree: TreeProof


class TransactionProof(Record, tag=22):
    """That a transaction stands in a decided block; None where the block is pruned and its holder must bring it."""

    certified: CertifiedHeader
    transaction: Annotated[bytes, Meta(max_length=TRANSACTION_BYTES_MAX)] | None
    place: ListProof


def certified_header(decided: DecidedBlock | DecidedHead, members: MemberSet) -> CertifiedHeader:
    """Return a decided block's header with just a quorum of its precommits."""
    commit = decided.commit
    kept = members.budget.quorum
    trimmed = CommitCertificate(
        height=commit.height,
        round=commit.round,
        block_hash=commit.block_hash,
        members=bitmap_of(signers(commit)[:kept]),
        signatures=commit.signatures[:kept],
    )
    return CertifiedHeader(header=decided.block.header, commit=trimmed)


def transaction_proof(decided: DecidedBlock, index: int, members: MemberSet) -> TransactionProof:
    """Return the proof of one transaction of a decided block."""
    transactions = decided.block.transactions
    return TransactionProof(
        certified=certified_header(decided, members),
        transaction=transactions[index],
        place=list_proof(transactions, index),
    )


def pruned_transaction_proof(decided: DecidedHead, index: int, members: MemberSet) -> TransactionProof:
    """Return the proof of one transaction of a pruned block, for whoever kept the transaction."""
    return TransactionProof(
        certified=certified_header(decided, members),
        transaction=None,
        place=list_proof_of_leaves(decided.block.transaction_leaves, index),
    )


def decode_state_proof(encoded: bytes) -> StateProof:
    """Read a state proof or raise RejectionError."""
    return decode(encoded, StateProof, bytes_max=PROOF_BYTES_MAX + STATE_VALUE_BYTES_MAX)


def decode_transaction_proof(encoded: bytes) -> TransactionProof:
    """Read a transaction proof or raise RejectionError."""
    return decode(encoded, TransactionProof, bytes_max=PROOF_BYTES_MAX + TRANSACTION_BYTES_MAX)


def check_state_proof(
    proof: StateProof, state_key: bytes, members: MemberSet, check: SignatureCheck = check_signature
) -> bytes | None:
    """Return the proven value of a state key, None when its absence is proven.

    Raises:
        RejectionError: BAD_PROOF, and what check_header_commit gives.
    """
    certified = proof.certified
    check_header_commit(certified.header, certified.commit, members, check)
    root = certified.header.state_root
    if proof.value is None:
        check_absence(root, state_key, proof.tree)
    else:
        check_inclusion(root, state_key, proof.value, proof.tree)
    return proof.value


def check_transaction_proof(
    proof: TransactionProof,
    members: MemberSet,
    check: SignatureCheck = check_signature,
    *,
    kept: bytes | None = None,
) -> bytes:
    """Return the proven transaction; the header in the proof tells its height.

    Args:
        proof: From anybody.
        members: Of its height.
        check: Of signatures.
        kept: The transaction, where the proof comes from a pruned block without it.

    Raises:
        RejectionError: BAD_PROOF, and what check_header_commit gives.
    """
    certified = proof.certified
    check_header_commit(certified.header, certified.commit, members, check)
    transaction = proof.transaction if proof.transaction is not None else kept
    if transaction is None:
        raise RejectionError(RejectionReason.BAD_PROOF, "the block is pruned there: bring the transaction itself")
    check_list_proof(certified.header.transactions_root, transaction, proof.place)
    return transaction
