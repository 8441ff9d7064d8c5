"""Heads: what stays of a decided block when its transactions' bytes are pruned behind a snapshot.

A head holds the header and all it commits but the transactions themselves, of which it keeps the Merkle leaves: the
transactions root follows from them, and whoever still has a transaction proves where it stood. Heads are chained by the
parent hash, so one certified header proves every head below it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from consensus.blocks import (
    EVIDENCE_MAX,
    NO_CERTIFICATE,
    POLKAS_MAX,
    TRANSACTIONS_MAX,
    Header,
    certificate_hash,
    header_hash,
)
from consensus.certificates import CommitCertificate, PolkaCertificate, check_commit, check_polka
from consensus.chain import evidence_root
from consensus.encoding import Record
from consensus.errors import RejectionError, RejectionReason
from consensus.evidence import Evidence
from consensus.identifiers import HASH, BlockHash, Height
from consensus.merkle import leaf_hash, root_of_leaves
from consensus.signing import check_signature

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consensus.blocks import DecidedBlock
    from consensus.schedule import MemberSchedule
    from consensus.signing import SignatureCheck


class BlockHead(Record, tag=15):
    """A block without its transactions' bytes; `transaction_leaves` are their Merkle leaves, in order."""

    header: Header
    parent_commit: CommitCertificate | None
    evidence: Annotated[tuple[Evidence, ...], Meta(max_length=EVIDENCE_MAX)]
    transaction_leaves: Annotated[tuple[Annotated[bytes, HASH], ...], Meta(max_length=TRANSACTIONS_MAX)]


class DecidedHead(Record, tag=16):
    """What stays of a DecidedBlock; certificates as they were."""

    block: BlockHead
    commit: CommitCertificate
    polkas: Annotated[tuple[PolkaCertificate, ...], Meta(max_length=POLKAS_MAX)]


def head_of(decided: DecidedBlock) -> DecidedHead:
    """Return what stays of a decided block."""
    block = decided.block
    head = BlockHead(
        header=block.header,
        parent_commit=block.parent_commit,
        evidence=block.evidence,
        transaction_leaves=tuple(leaf_hash(encoded) for encoded in block.transactions),
    )
    return DecidedHead(block=head, commit=decided.commit, polkas=decided.polkas)


def check_heads(
    heads: Sequence[DecidedHead],
    parent: tuple[Height, BlockHash],
    schedule: MemberSchedule,
    check: SignatureCheck = check_signature,
) -> tuple[Height, BlockHash]:
    """Verify heads that follow each other from a known block on; return height and hash of the last.

    The last one's certificate is checked, and with it all that its hash commits: every header below, its parent's
    certificate, evidence and transactions. Certificates that no child commits are checked one by one.

    Args:
        heads: In order of height.
        parent: Height and hash of the block below the first.
        schedule: Who the members of their heights are.
        check: Verifies signatures.

    Raises:
        RejectionError: WRONG_HEIGHT, WRONG_PARENT, WRONG_CERTIFICATE, WRONG_TRANSACTIONS_ROOT, WRONG_EVIDENCE_ROOT,
            and what check_commit and check_polka give.
    """
    height, above = parent
    for index, decided in enumerate(heads):
        header, commit = decided.block.header, decided.commit
        if header.height != height + 1:
            raise RejectionError(RejectionReason.WRONG_HEIGHT, f"head {header.height} behind {height}")
        if header.parent_hash != above:
            raise RejectionError(RejectionReason.WRONG_PARENT, f"the parent of {header.height} is another")
        height, above = header.height, header_hash(header)
        _check_body(decided.block)
        if (commit.height, commit.block_hash) != (height, above):
            raise RejectionError(RejectionReason.WRONG_CERTIFICATE, f"the certificate of {height} is of another block")
        child = heads[index + 1].block.parent_commit if index + 1 < len(heads) else None
        if commit != child:
            check_commit(commit, schedule.members_at(height), check)
        for polka in decided.polkas:
            if (polka.height, polka.block_hash) != (height, above):
                raise RejectionError(RejectionReason.WRONG_CERTIFICATE, f"a polka of {height} is of another block")
            check_polka(polka, schedule.members_at(height), check)
    return height, above


def _check_body(block: BlockHead) -> None:
    """Refuse a body that its header does not commit."""
    header, commit = block.header, block.parent_commit
    if header.parent_commit_hash != (NO_CERTIFICATE if commit is None else certificate_hash(commit)):
        raise RejectionError(RejectionReason.WRONG_CERTIFICATE, "header and head name different certificates")
    if header.evidence_root != evidence_root(block.evidence):
        raise RejectionError(RejectionReason.WRONG_EVIDENCE_ROOT, "header and head differ")
    if header.transactions_root != root_of_leaves(block.transaction_leaves):
        raise RejectionError(RejectionReason.WRONG_TRANSACTIONS_ROOT, "header and head differ")
