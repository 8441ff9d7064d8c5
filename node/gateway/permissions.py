"""What a request may do beside what its head names: the source of a copy, each name of a deletion, what is retained.

The access key and the bucket's policy judge the target of every request (application.py); here is what they judge when
one request touches more than its target.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from node.gateway import settings as kept
from node.gateway.access_keys import Verb
from node.gateway.errors import S3Code, S3Error
from node.gateway.operations import Operation
from node.gateway.policies import denies, parse_policy
from node.gateway.settings import PolicyText, read_setting
from storage.buckets import Governance

if TYPE_CHECKING:
    from node.gateway.call import Call
    from node.gateway.store import Bucket


def check_policy(bucket: Bucket, operation: Operation, name: str) -> None:
    """Judge a bucket's policy.

    Raises:
        S3Error: AccessDenied.
    """
    text = read_setting(bucket.settings, kept.POLICY, PolicyText)
    if text is not None and denies(parse_policy(text.text.encode(), bucket.name), operation, bucket.name, name):
        raise S3Error(S3Code.ACCESS_DENIED)


def check_copied(call: Call, bucket: Bucket, name: str) -> None:
    """Judge the reading of a copy's source.

    Raises:
        S3Error: AccessDenied.
    """
    if not call.access_key.admits(Verb.READ, bucket.name, call.now_ms):
        raise S3Error(S3Code.ACCESS_DENIED)
    check_policy(bucket, Operation.GET_OBJECT, name)


def read_governance(call: Call) -> Governance:
    """Tell whether retention in governance mode is to be bypassed.

    Raises:
        S3Error: AccessDenied when it is, by a key that does not administer the bucket.
    """
    asks = call.head.header("x-amz-bypass-governance-retention") == "true"
    if asks and not call.access_key.admits(Verb.ADMINISTER, call.target.bucket, call.now_ms):
        raise S3Error(S3Code.ACCESS_DENIED)
    return Governance(asks)
