"""Which operation of S3 a request asks for: by method, by what it names, and by its sub-resource.

Everything that S3 has and this gateway has not is in the table as well, so that it is answered NotImplemented and never
taken for something else: `PUT /bucket?analytics` must not make a bucket.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from node.gateway.access_keys import Verb
from node.gateway.errors import S3Code, S3Error
from node.gateway.signatures import decode_text
from storage.tags import NAME_BYTES_MAX

if TYPE_CHECKING:
    from node.gateway.signatures import RequestHead

KEY_BYTES_MAX: Final = NAME_BYTES_MAX


class Operation(Enum):
    """What is done, S3's name for it, and what an access key needs for it."""

    LIST_BUCKETS = ("ListBuckets", Verb.LIST)
    CREATE_BUCKET = ("CreateBucket", Verb.ADMINISTER)
    HEAD_BUCKET = ("HeadBucket", Verb.LIST)
    DELETE_BUCKET = ("DeleteBucket", Verb.ADMINISTER)
    GET_LOCATION = ("GetBucketLocation", Verb.LIST)
    LIST_OBJECTS = ("ListObjects", Verb.LIST)
    LIST_OBJECTS_V2 = ("ListObjectsV2", Verb.LIST)
    LIST_VERSIONS = ("ListObjectVersions", Verb.LIST)
    DELETE_OBJECTS = ("DeleteObjects", Verb.DELETE)
    POST_OBJECT = ("PostObject", Verb.WRITE)
    GET_VERSIONING = ("GetBucketVersioning", Verb.LIST)
    PUT_VERSIONING = ("PutBucketVersioning", Verb.ADMINISTER)
    GET_LOCK = ("GetObjectLockConfiguration", Verb.LIST)
    PUT_LOCK = ("PutObjectLockConfiguration", Verb.ADMINISTER)
    GET_BUCKET_ACL = ("GetBucketAcl", Verb.LIST)
    PUT_BUCKET_ACL = ("PutBucketAcl", Verb.ADMINISTER)
    GET_CORS = ("GetBucketCors", Verb.LIST)
    PUT_CORS = ("PutBucketCors", Verb.ADMINISTER)
    DELETE_CORS = ("DeleteBucketCors", Verb.ADMINISTER)
    GET_LIFECYCLE = ("GetBucketLifecycleConfiguration", Verb.LIST)
    PUT_LIFECYCLE = ("PutBucketLifecycleConfiguration", Verb.ADMINISTER)
    DELETE_LIFECYCLE = ("DeleteBucketLifecycle", Verb.ADMINISTER)
    GET_POLICY = ("GetBucketPolicy", Verb.LIST)
    PUT_POLICY = ("PutBucketPolicy", Verb.ADMINISTER)
    DELETE_POLICY = ("DeleteBucketPolicy", Verb.ADMINISTER)
    GET_POLICY_STATUS = ("GetBucketPolicyStatus", Verb.LIST)
    GET_BUCKET_TAGS = ("GetBucketTagging", Verb.LIST)
    PUT_BUCKET_TAGS = ("PutBucketTagging", Verb.ADMINISTER)
    DELETE_BUCKET_TAGS = ("DeleteBucketTagging", Verb.ADMINISTER)
    GET_NOTIFICATION = ("GetBucketNotificationConfiguration", Verb.LIST)
    PUT_NOTIFICATION = ("PutBucketNotificationConfiguration", Verb.ADMINISTER)
    GET_PUBLIC_BLOCK = ("GetPublicAccessBlock", Verb.LIST)
    PUT_PUBLIC_BLOCK = ("PutPublicAccessBlock", Verb.ADMINISTER)
    DELETE_PUBLIC_BLOCK = ("DeletePublicAccessBlock", Verb.ADMINISTER)
    GET_OWNERSHIP = ("GetBucketOwnershipControls", Verb.LIST)
    PUT_OWNERSHIP = ("PutBucketOwnershipControls", Verb.ADMINISTER)
    DELETE_OWNERSHIP = ("DeleteBucketOwnershipControls", Verb.ADMINISTER)
    GET_ENCRYPTION = ("GetBucketEncryption", Verb.LIST)
    GET_WEBSITE = ("GetBucketWebsite", Verb.LIST)
    GET_REPLICATION = ("GetBucketReplication", Verb.LIST)
    GET_LOGGING = ("GetBucketLogging", Verb.LIST)
    GET_REQUEST_PAYMENT = ("GetBucketRequestPayment", Verb.LIST)
    GET_ACCELERATE = ("GetBucketAccelerateConfiguration", Verb.LIST)
    LIST_UPLOADS = ("ListMultipartUploads", Verb.LIST)
    GET_OBJECT = ("GetObject", Verb.READ)
    HEAD_OBJECT = ("HeadObject", Verb.READ)
    GET_ATTRIBUTES = ("GetObjectAttributes", Verb.READ)
    GET_PROOF = ("GetObjectProof", Verb.READ)
    PUT_OBJECT = ("PutObject", Verb.WRITE)
    COPY_OBJECT = ("CopyObject", Verb.WRITE)
    DELETE_OBJECT = ("DeleteObject", Verb.DELETE)
    GET_OBJECT_TAGS = ("GetObjectTagging", Verb.READ)
    PUT_OBJECT_TAGS = ("PutObjectTagging", Verb.WRITE)
    DELETE_OBJECT_TAGS = ("DeleteObjectTagging", Verb.WRITE)
    GET_OBJECT_ACL = ("GetObjectAcl", Verb.READ)
    PUT_OBJECT_ACL = ("PutObjectAcl", Verb.WRITE)
    GET_RETENTION = ("GetObjectRetention", Verb.READ)
    PUT_RETENTION = ("PutObjectRetention", Verb.WRITE)
    GET_HOLD = ("GetObjectLegalHold", Verb.READ)
    PUT_HOLD = ("PutObjectLegalHold", Verb.WRITE)
    CREATE_UPLOAD = ("CreateMultipartUpload", Verb.WRITE)
    UPLOAD_PART = ("UploadPart", Verb.WRITE)
    UPLOAD_PART_COPY = ("UploadPartCopy", Verb.WRITE)
    COMPLETE_UPLOAD = ("CompleteMultipartUpload", Verb.WRITE)
    ABORT_UPLOAD = ("AbortMultipartUpload", Verb.WRITE)
    LIST_PARTS = ("ListParts", Verb.READ)
    PREFLIGHT = ("Preflight", Verb.READ)

    def __init__(self, shown: str, verb: Verb) -> None:
        self.shown = shown
        self.verb = verb


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a request names."""

    bucket: str
    name: str


_BUCKET: Final[dict[tuple[str, str], Operation]] = {
    ("GET", "location"): Operation.GET_LOCATION,
    ("GET", "versions"): Operation.LIST_VERSIONS,
    ("GET", "versioning"): Operation.GET_VERSIONING,
    ("PUT", "versioning"): Operation.PUT_VERSIONING,
    ("GET", "object-lock"): Operation.GET_LOCK,
    ("PUT", "object-lock"): Operation.PUT_LOCK,
    ("GET", "acl"): Operation.GET_BUCKET_ACL,
    ("PUT", "acl"): Operation.PUT_BUCKET_ACL,
    ("GET", "cors"): Operation.GET_CORS,
    ("PUT", "cors"): Operation.PUT_CORS,
    ("DELETE", "cors"): Operation.DELETE_CORS,
    ("GET", "lifecycle"): Operation.GET_LIFECYCLE,
    ("PUT", "lifecycle"): Operation.PUT_LIFECYCLE,
    ("DELETE", "lifecycle"): Operation.DELETE_LIFECYCLE,
    ("GET", "policy"): Operation.GET_POLICY,
    ("PUT", "policy"): Operation.PUT_POLICY,
    ("DELETE", "policy"): Operation.DELETE_POLICY,
    ("GET", "policyStatus"): Operation.GET_POLICY_STATUS,
    ("GET", "tagging"): Operation.GET_BUCKET_TAGS,
    ("PUT", "tagging"): Operation.PUT_BUCKET_TAGS,
    ("DELETE", "tagging"): Operation.DELETE_BUCKET_TAGS,
    ("GET", "notification"): Operation.GET_NOTIFICATION,
    ("PUT", "notification"): Operation.PUT_NOTIFICATION,
    ("GET", "publicAccessBlock"): Operation.GET_PUBLIC_BLOCK,
    ("PUT", "publicAccessBlock"): Operation.PUT_PUBLIC_BLOCK,
    ("DELETE", "publicAccessBlock"): Operation.DELETE_PUBLIC_BLOCK,
    ("GET", "ownershipControls"): Operation.GET_OWNERSHIP,
    ("PUT", "ownershipControls"): Operation.PUT_OWNERSHIP,
    ("DELETE", "ownershipControls"): Operation.DELETE_OWNERSHIP,
    ("GET", "encryption"): Operation.GET_ENCRYPTION,
    ("GET", "website"): Operation.GET_WEBSITE,
    ("GET", "replication"): Operation.GET_REPLICATION,
    ("GET", "logging"): Operation.GET_LOGGING,
    ("GET", "requestPayment"): Operation.GET_REQUEST_PAYMENT,
    ("GET", "accelerate"): Operation.GET_ACCELERATE,
    ("GET", "uploads"): Operation.LIST_UPLOADS,
    ("POST", "delete"): Operation.DELETE_OBJECTS,
}
_OBJECT: Final[dict[tuple[str, str], Operation]] = {
    ("GET", "tagging"): Operation.GET_OBJECT_TAGS,
    ("PUT", "tagging"): Operation.PUT_OBJECT_TAGS,
    ("DELETE", "tagging"): Operation.DELETE_OBJECT_TAGS,
    ("GET", "acl"): Operation.GET_OBJECT_ACL,
    ("PUT", "acl"): Operation.PUT_OBJECT_ACL,
    ("GET", "retention"): Operation.GET_RETENTION,
    ("PUT", "retention"): Operation.PUT_RETENTION,
    ("GET", "legal-hold"): Operation.GET_HOLD,
    ("PUT", "legal-hold"): Operation.PUT_HOLD,
    ("GET", "attributes"): Operation.GET_ATTRIBUTES,
    ("GET", "proof"): Operation.GET_PROOF,
    ("POST", "uploads"): Operation.CREATE_UPLOAD,
    ("GET", "uploadId"): Operation.LIST_PARTS,
    ("PUT", "uploadId"): Operation.UPLOAD_PART,
    ("POST", "uploadId"): Operation.COMPLETE_UPLOAD,
    ("DELETE", "uploadId"): Operation.ABORT_UPLOAD,
}
_PLAIN_BUCKET: Final = {
    "PUT": Operation.CREATE_BUCKET,
    "HEAD": Operation.HEAD_BUCKET,
    "DELETE": Operation.DELETE_BUCKET,
    "POST": Operation.POST_OBJECT,
    "OPTIONS": Operation.PREFLIGHT,
}
_PLAIN_OBJECT: Final = {
    "GET": Operation.GET_OBJECT,
    "HEAD": Operation.HEAD_OBJECT,
    "PUT": Operation.PUT_OBJECT,
    "DELETE": Operation.DELETE_OBJECT,
    "OPTIONS": Operation.PREFLIGHT,
}
_SUBRESOURCES: Final = frozenset(name for _, name in (*_BUCKET, *_OBJECT)) | {
    "analytics",
    "intelligent-tiering",
    "inventory",
    "metadataConfiguration",
    "metadataTable",
    "metrics",
    "rename",
    "renameObject",
    "restore",
    "select",
    "session",
    "torrent",
}
"""Every sub-resource that S3 has: one that we lack for this method is NotImplemented."""


def read_target(raw_path: str) -> Target:
    """Return what a path names: nothing, a bucket, or a bucket and a key.

    Raises:
        S3Error: InvalidURI for a path that is not UTF-8, KeyTooLongError.
    """
    raw_bucket, _, raw_key = raw_path[1:].partition("/")
    bucket, key_text = decode_text(raw_bucket), decode_text(raw_key)
    if len(key_text.encode()) > KEY_BYTES_MAX:
        raise S3Error(S3Code.KEY_TOO_LONG)
    if "\0" in key_text or "\0" in bucket:
        raise S3Error(S3Code.INVALID_URI, "a key has no NUL")
    return Target(bucket=bucket, name=key_text)


def read_operation(head: RequestHead, target: Target) -> Operation:
    """Return the operation that a request asks for.

    Raises:
        S3Error: NotImplemented or MethodNotAllowed.
    """
    if not target.bucket:
        if head.method == "GET":
            return Operation.LIST_BUCKETS
        raise S3Error(S3Code.METHOD_NOT_ALLOWED)
    method = "GET" if head.method == "HEAD" and target.name else head.method
    subresources = [name for name, _ in head.query if name in _SUBRESOURCES]
    table = _OBJECT if target.name else _BUCKET
    for name in subresources:
        if (method, name) in table:
            return _refined(table[method, name], head)
    if subresources:
        detail = f"{head.method} of ?{subresources[0]} is not implemented"
        raise S3Error(S3Code.NOT_IMPLEMENTED, detail)
    if not target.name and head.method == "GET":
        is_second = head.parameter("list-type") == "2"
        return Operation.LIST_OBJECTS_V2 if is_second else Operation.LIST_OBJECTS
    found = (_PLAIN_OBJECT if target.name else _PLAIN_BUCKET).get(head.method)
    if found is None:
        raise S3Error(S3Code.METHOD_NOT_ALLOWED)
    return _refined(found, head)


def _refined(operation: Operation, head: RequestHead) -> Operation:
    """Tell a copy from an upload by its header."""
    copies = head.header("x-amz-copy-source") is not None
    if operation is Operation.PUT_OBJECT and head.parameter("append") is not None:
        raise S3Error(S3Code.NOT_IMPLEMENTED, "appending is not implemented")
    if operation is Operation.PUT_OBJECT and copies:
        return Operation.COPY_OBJECT
    if operation is Operation.UPLOAD_PART and copies:
        return Operation.UPLOAD_PART_COPY
    return operation
