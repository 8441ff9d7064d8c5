"""Bucket policies: the subset that is honoured, and the refusal of everything else.

A policy narrows: requests of the bucket's own tenant are allowed by its access keys, and a statement with
`"Effect": "Deny"` takes rights back. What would give rights to others (another principal than the tenant's own, which
every `Allow` here must name as `"*"` or by handle) gives nothing: whoever has no access key of the tenant stays out.
Conditions and `Not...` elements are refused, since ignoring them would change what a statement says.

Honoured: Version, Id, Sid, Effect, Principal ("*" or {"AWS": ...}), Action (s3:* and names with wildcards), Resource
(arn:aws:s3:::bucket[/key], with * and ?).
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from node.gateway.errors import S3Code, S3Error
from node.gateway.operations import Operation

ARN: Final = "arn:aws:s3:::"
STATEMENTS_MAX: Final = 64
ACTIONS: Final = {
    Operation.LIST_BUCKETS: "ListAllMyBuckets",
    Operation.HEAD_BUCKET: "ListBucket",
    Operation.LIST_OBJECTS: "ListBucket",
    Operation.LIST_OBJECTS_V2: "ListBucket",
    Operation.LIST_VERSIONS: "ListBucketVersions",
    Operation.LIST_UPLOADS: "ListBucketMultipartUploads",
    Operation.LIST_PARTS: "ListMultipartUploadParts",
    Operation.DELETE_OBJECTS: "DeleteObject",
    Operation.HEAD_OBJECT: "GetObject",
    Operation.GET_ATTRIBUTES: "GetObject",
    Operation.GET_PROOF: "GetObject",
    Operation.POST_OBJECT: "PutObject",
    Operation.COPY_OBJECT: "PutObject",
    Operation.CREATE_UPLOAD: "PutObject",
    Operation.UPLOAD_PART: "PutObject",
    Operation.UPLOAD_PART_COPY: "PutObject",
    Operation.COMPLETE_UPLOAD: "PutObject",
    Operation.GET_LOCK: "GetBucketObjectLockConfiguration",
    Operation.PUT_LOCK: "PutBucketObjectLockConfiguration",
    Operation.GET_CORS: "GetBucketCORS",
    Operation.PUT_CORS: "PutBucketCORS",
    Operation.DELETE_CORS: "PutBucketCORS",
    Operation.GET_LIFECYCLE: "GetLifecycleConfiguration",
    Operation.PUT_LIFECYCLE: "PutLifecycleConfiguration",
    Operation.DELETE_LIFECYCLE: "PutLifecycleConfiguration",
    Operation.DELETE_BUCKET_TAGS: "PutBucketTagging",
    Operation.GET_NOTIFICATION: "GetBucketNotification",
    Operation.PUT_NOTIFICATION: "PutBucketNotification",
    Operation.GET_PUBLIC_BLOCK: "GetBucketPublicAccessBlock",
    Operation.PUT_PUBLIC_BLOCK: "PutBucketPublicAccessBlock",
    Operation.DELETE_PUBLIC_BLOCK: "PutBucketPublicAccessBlock",
    Operation.DELETE_OWNERSHIP: "PutBucketOwnershipControls",
    Operation.GET_ENCRYPTION: "GetEncryptionConfiguration",
    Operation.GET_REPLICATION: "GetReplicationConfiguration",
    Operation.GET_ACCELERATE: "GetAccelerateConfiguration",
}
"""S3's actions whose names are not those of the operations (Service Authorization Reference, "Actions for S3")."""
_ACTION: Final = re.compile(r"(s3:[A-Za-z*?]+|\*)\Z")


class Statement(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", forbid_unknown_fields=True):
    """One statement."""

    effect: str
    principal: str | dict[str, str | list[str]]
    action: str | list[str]
    resource: str | list[str]
    sid: str = ""


class Policy(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", forbid_unknown_fields=True):
    """A policy."""

    statement: list[Statement] | Statement
    language: str = msgspec.field(default="2012-10-17", name="Version")
    policy_name: str = msgspec.field(default="", name="Id")

    @property
    def statements(self) -> list[Statement]:
        """Return its statements."""
        return [self.statement] if isinstance(self.statement, Statement) else self.statement


class _RawPolicy(msgspec.Struct, frozen=True, rename="pascal"):
    statement: list[dict[str, msgspec.Raw]] | dict[str, msgspec.Raw]


def parse_policy(body: bytes, bucket: str) -> Policy:
    """Read a policy that is about this bucket.

    Raises:
        S3Error: MalformedPolicy, NotImplemented for elements that are not honoured.
    """
    try:
        raw = msgspec.json.decode(body, type=_RawPolicy)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise S3Error(S3Code.MALFORMED_POLICY, "Policies must be valid JSON and the first byte must be '{'") from error
    for element in raw.statement if isinstance(raw.statement, list) else [raw.statement]:
        _refuse_unhonoured(element)
    try:
        policy = msgspec.json.decode(body, type=Policy)
    except msgspec.ValidationError as error:
        raise S3Error(S3Code.MALFORMED_POLICY, f"The policy is not well-formed: {error}") from error
    if not 1 <= len(policy.statements) <= STATEMENTS_MAX:
        raise S3Error(S3Code.MALFORMED_POLICY)
    for statement in policy.statements:
        _check_statement(statement, bucket)
    return policy


def denies(policy: Policy, operation: Operation, bucket: str, key_text: str) -> bool:
    """Tell whether a policy takes an operation back, by S3's action for it or by the operation's own name."""
    names = {f"s3:{operation.shown}".lower(), f"s3:{ACTIONS.get(operation, operation.shown)}".lower()}
    resource = f"{ARN}{bucket}/{key_text}" if key_text else f"{ARN}{bucket}"
    return any(
        statement.effect == "Deny"
        and any(_fits(pattern.lower(), name) for pattern in _listed(statement.action) for name in names)
        and any(_fits(pattern, resource) for pattern in _listed(statement.resource))
        for statement in policy.statements
    )


def _refuse_unhonoured(statement: dict[str, msgspec.Raw]) -> None:
    for name in ("Condition", "NotPrincipal", "NotAction", "NotResource"):
        if name in statement:
            raise S3Error(S3Code.NOT_IMPLEMENTED, f"{name} in a bucket policy is not implemented")


def _check_statement(statement: Statement, bucket: str) -> None:
    if statement.effect not in {"Allow", "Deny"}:
        raise S3Error(S3Code.MALFORMED_POLICY, f"Invalid effect: {statement.effect[:64]}")
    if isinstance(statement.principal, str) and statement.principal != "*":
        raise S3Error(S3Code.MALFORMED_POLICY, "Invalid principal in policy")
    if any(not _ACTION.match(action) for action in _listed(statement.action)):
        raise S3Error(S3Code.MALFORMED_POLICY, "Policy has invalid action")
    for resource in _listed(statement.resource):
        named = resource.removeprefix(ARN).partition("/")[0]
        if not resource.startswith(ARN) or not _fits(named, bucket):
            raise S3Error(S3Code.MALFORMED_POLICY, "Policy has invalid resource")


def _listed(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else names


def _fits(pattern: str, text: str) -> bool:
    """Match `*` and `?`, in time linear in the product of the lengths."""
    position = star = 0
    mark = -1
    place = 0
    while place < len(text):
        if position < len(pattern) and pattern[position] in {"?", text[place]} and pattern[position] != "*":
            position, place = position + 1, place + 1
        elif position < len(pattern) and pattern[position] == "*":
            star, mark, position = place, position, position + 1
        elif mark >= 0:
            star += 1
            position, place = mark + 1, star
        else:
            return False
    return all(character == "*" for character in pattern[position:])
