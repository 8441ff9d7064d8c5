"""A refusal of the ledger says what to do, where there is something to do."""

from __future__ import annotations

from node.cli import ExitCode, exit_code_of
from node.cli.remedies import OLDER_KEYS, REMEDIES, explained
from node.client.errors import BucketMissingError, NotCommittedError
from node.errors import PeerUnreachableError
from storage.errors import UnsealError
from storage.outcomes import FailureReason


def test_every_remedy_is_of_a_reason() -> None:
    assert REMEDIES.keys() <= {reason.value for reason in FailureReason}


def test_a_refusal_says_what_to_do() -> None:
    refused = NotCommittedError("quota_exceeded")
    assert explained(refused) == f"refused by the chain: quota_exceeded: {REMEDIES['quota_exceeded']}"
    assert explained(NotCommittedError("wrong_k")) == "refused by the chain: wrong_k"
    assert explained(PeerUnreachableError("silent")) == "silent"
    assert explained(UnsealError("another key")) == f"another key: {OLDER_KEYS}"
    assert exit_code_of(refused) is ExitCode.REFUSED
    assert exit_code_of(BucketMissingError("none")) is ExitCode.MISSING
