"""S3's errors, and the one place where every other error becomes one of them.

Each code has S3's own name and status (Amazon S3 API Reference, "Error responses"). What a request did wrong is raised
as `S3Error`; what failed below the gateway is mapped by `s3_error_of`. Nothing is ever answered with 500 on purpose:
that status is left to our own bugs.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

from consensus.errors import GrandestError, RejectionError, RejectionReason
from node.client.errors import NotCommittedError, ObjectMissingError, TooFewHoldersError
from node.errors import NodeError, PeerUnreachableError
from node.gateway.refusals import WriteFailure, WriteRefusedError
from storage.errors import NotEnoughShardsError, StorageError, StoreFullError

if TYPE_CHECKING:
    from collections.abc import Mapping


class S3Code(Enum):
    """S3's codes with their status and what is said when the raiser says nothing more."""

    ACCESS_DENIED = ("AccessDenied", 403, "Access Denied")
    AUTHORIZATION_HEADER_MALFORMED = ("AuthorizationHeaderMalformed", 400, "The authorization header is malformed.")
    AUTHORIZATION_QUERY_ERROR = ("AuthorizationQueryParametersError", 400, "The signature's parameters are malformed.")
    BAD_DIGEST = ("BadDigest", 400, "The digest you specified did not match what we received.")
    BUCKET_ALREADY_EXISTS = ("BucketAlreadyExists", 409, "The bucket exists already.")
    BUCKET_ALREADY_OWNED_BY_YOU = ("BucketAlreadyOwnedByYou", 409, "You have this bucket already.")
    BUCKET_NOT_EMPTY = ("BucketNotEmpty", 409, "The bucket you tried to delete is not empty.")
    CONDITIONAL_CONFLICT = ("ConditionalRequestConflict", 409, "The name changed while the request was carried out.")
    ENTITY_TOO_LARGE = ("EntityTooLarge", 400, "Your proposed upload exceeds the maximum allowed object size.")
    ENTITY_TOO_SMALL = ("EntityTooSmall", 400, "Your proposed upload is smaller than the minimum allowed size.")
    EXPIRED_TOKEN = ("ExpiredToken", 400, "The provided token has expired.")
    ILLEGAL_LOCATION = ("IllegalLocationConstraintException", 400, "The location is not this region.")
    ILLEGAL_VERSIONING = ("InvalidBucketState", 409, "The bucket's state forbids this.")
    INCOMPLETE_BODY = ("IncompleteBody", 400, "The body ended before the number of bytes announced.")
    INTERNAL_ERROR = ("InternalError", 500, "An internal error occurred. Try again.")
    INVALID_ACCESS_KEY = ("InvalidAccessKeyId", 403, "The access key you provided does not exist in our records.")
    INVALID_ARGUMENT = ("InvalidArgument", 400, "Invalid Argument")
    INVALID_BUCKET_NAME = ("InvalidBucketName", 400, "The specified bucket is not valid.")
    INVALID_DIGEST = ("InvalidDigest", 400, "The digest you specified is not valid.")
    INVALID_LOCATION = ("InvalidLocationConstraint", 400, "The specified location constraint is not valid.")
    INVALID_PART = ("InvalidPart", 400, "One or more of the specified parts could not be found.")
    INVALID_PART_NUMBER = ("InvalidPartNumber", 416, "The requested partnumber is not satisfiable")
    INVALID_PART_ORDER = ("InvalidPartOrder", 400, "The list of parts was not in ascending order.")
    INVALID_POLICY_DOCUMENT = ("InvalidPolicyDocument", 400, "The content of the form's policy is not valid.")
    INVALID_RANGE = ("InvalidRange", 416, "The requested range is not satisfiable")
    INVALID_REQUEST = ("InvalidRequest", 400, "Invalid Request")
    INVALID_RETENTION_PERIOD = ("InvalidRetentionPeriod", 400, "The retention period must be a positive integer.")
    INVALID_TAG = ("InvalidTag", 400, "The tag provided was not a valid tag.")
    INVALID_URI = ("InvalidURI", 400, "Couldn't parse the specified URI.")
    KEY_TOO_LONG = ("KeyTooLongError", 400, "Your key is too long")
    MALFORMED_ACL = ("MalformedACLError", 400, "The ACL you provided was not well-formed.")
    MALFORMED_POLICY = ("MalformedPolicy", 400, "The policy is not well-formed.")
    MALFORMED_POST = (
        "MalformedPOSTRequest",
        400,
        "The body of your POST request is not well-formed multipart/form-data.",
    )
    MALFORMED_TRAILER = ("MalformedTrailerError", 400, "The request's trailer is not well-formed.")
    MALFORMED_XML = ("MalformedXML", 400, "The XML you provided was not well-formed or did not validate.")
    MAX_MESSAGE = ("MaxMessageLengthExceeded", 400, "Your request was too big.")
    MAX_POST_PRE_DATA = ("MaxPostPreDataLengthExceededError", 400, "Your POST fields before the file were too large.")
    METADATA_TOO_LARGE = ("MetadataTooLarge", 400, "Your metadata headers exceed the maximum allowed metadata size.")
    METHOD_NOT_ALLOWED = ("MethodNotAllowed", 405, "The specified method is not allowed against this resource.")
    MISSING_ATTACHMENT = ("MissingAttachment", 400, "A SOAP attachment was expected, but none was found.")
    MISSING_CONTENT_LENGTH = ("MissingContentLength", 411, "You must provide the Content-Length HTTP header.")
    MISSING_REQUEST_BODY = ("MissingRequestBodyError", 400, "Request body is empty.")
    MISSING_SECURITY_HEADER = ("MissingSecurityHeader", 400, "Your request is missing a required header.")
    NO_SUCH_BUCKET = ("NoSuchBucket", 404, "The specified bucket does not exist")
    NO_SUCH_BUCKET_POLICY = ("NoSuchBucketPolicy", 404, "The bucket policy does not exist")
    NO_SUCH_CORS = ("NoSuchCORSConfiguration", 404, "The CORS configuration does not exist")
    NO_SUCH_KEY = ("NoSuchKey", 404, "The specified key does not exist.")
    NO_SUCH_LIFECYCLE = ("NoSuchLifecycleConfiguration", 404, "The lifecycle configuration does not exist")
    NO_SUCH_OBJECT_LOCK = ("NoSuchObjectLockConfiguration", 404, "The object has no such object lock configuration")
    NO_SUCH_OWNERSHIP = ("OwnershipControlsNotFoundError", 404, "The bucket ownership controls were not found")
    NO_SUCH_PUBLIC_BLOCK = ("NoSuchPublicAccessBlockConfiguration", 404, "There is no public access block")
    NO_SUCH_REPLICATION = ("ReplicationConfigurationNotFoundError", 404, "There is no replication configuration")
    NO_SUCH_SSE = ("ServerSideEncryptionConfigurationNotFoundError", 404, "There is no encryption configuration")
    NO_SUCH_TAG_SET = ("NoSuchTagSet", 404, "The TagSet does not exist")
    NO_SUCH_UPLOAD = ("NoSuchUpload", 404, "The specified upload does not exist.")
    NO_SUCH_VERSION = ("NoSuchVersion", 404, "The specified version does not exist.")
    NO_SUCH_WEBSITE = ("NoSuchWebsiteConfiguration", 404, "The bucket has no website configuration")
    NOT_IMPLEMENTED = (
        "NotImplemented",
        501,
        "A header or parameter you provided implies functionality that is not implemented.",
    )
    NOT_MODIFIED = ("NotModified", 304, "Not Modified")
    OBJECT_LOCK_MISSING = (
        "ObjectLockConfigurationNotFoundError",
        404,
        "Object Lock configuration does not exist for this bucket",
    )
    PRECONDITION_FAILED = ("PreconditionFailed", 412, "At least one of the pre-conditions you specified did not hold")
    QUOTA_EXCEEDED = ("QuotaExceeded", 403, "The tenant's quota is used up.")
    REQUEST_EXPIRED = ("AccessDenied", 403, "Request has expired")
    REQUEST_HEADER_TOO_LARGE = ("RequestHeaderSectionTooLarge", 400, "The request header section exceeds the maximum.")
    REQUEST_TIMEOUT = ("RequestTimeout", 400, "Your socket connection was not read from or written to in time.")
    SHA256_MISMATCH = (
        "XAmzContentSHA256Mismatch",
        400,
        "The provided 'x-amz-content-sha256' header does not match what was computed.",
    )
    SIGNATURE_MISMATCH = (
        "SignatureDoesNotMatch",
        403,
        "The request signature we calculated does not match the signature you provided.",
    )
    SLOW_DOWN = ("SlowDown", 503, "Reduce your request rate.")
    TIME_TOO_SKEWED = (
        "RequestTimeTooSkewed",
        403,
        "The difference between the request time and the server's time is too large.",
    )
    TOO_MANY_BUCKETS = ("TooManyBuckets", 400, "You have attempted to create more buckets than allowed")
    UNEXPECTED_CONTENT = ("UnexpectedContent", 400, "This request does not support content.")
    UNKNOWN_NOTIFICATION = ("NoSuchNotificationConfiguration", 404, "There is no notification configuration")

    USER_KEY_MUST_BE_SPECIFIED = ("UserKeyMustBeSpecified", 400, "The key must be specified.")

    def __init__(self, code: str, status: int, message: str) -> None:
        self.code = code
        self.status = status
        self.message = message


class S3Error(NodeError):
    """A request is answered with an error of S3."""

    def __init__(
        self,
        code: S3Code,
        detail: str = "",
        *,
        fields: Mapping[str, str] | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """Name the code, what was wrong this time, and what S3 adds to this error.

        Args:
            code: S3's.
            detail: Replaces the code's own message.
            fields: Further elements of the answer, such as ActualObjectSize.
            headers: Of the answer.
        """
        super().__init__(detail or code.message)
        self.code = code
        self.detail = detail or code.message
        self.fields = dict(fields or {})
        self.headers = headers


RETRY_AFTER: Final = (("Retry-After", "2"),)

_OF_FAILURE: Final = {
    WriteFailure.CONDITION_FAILED: S3Code.PRECONDITION_FAILED,
    WriteFailure.CONFLICT: S3Code.CONDITIONAL_CONFLICT,
    WriteFailure.QUOTA_EXCEEDED: S3Code.QUOTA_EXCEEDED,
    WriteFailure.RETAINED: S3Code.ACCESS_DENIED,
    WriteFailure.BUCKET_MISSING: S3Code.NO_SUCH_BUCKET,
    WriteFailure.BUCKET_EXISTS: S3Code.BUCKET_ALREADY_OWNED_BY_YOU,
    WriteFailure.BUCKET_NOT_EMPTY: S3Code.BUCKET_NOT_EMPTY,
    WriteFailure.VERSION_MISSING: S3Code.NO_SUCH_VERSION,
    WriteFailure.LOCK_OFF: S3Code.INVALID_REQUEST,
    WriteFailure.TOO_MANY_BUCKETS: S3Code.TOO_MANY_BUCKETS,
    WriteFailure.OTHER: S3Code.SLOW_DOWN,
}


def failure_error(failure: WriteFailure, detail: str = "") -> S3Error:
    """Return S3's error for a write that the ledger refused."""
    code = _OF_FAILURE[failure]
    if failure is WriteFailure.RETAINED:
        detail = "Access Denied because object protected by object lock."
    return S3Error(code, detail if code is S3Code.SLOW_DOWN or failure is WriteFailure.RETAINED else "")


def s3_error_of(error: GrandestError) -> S3Error:
    """Map an expected error from below to S3's: the one place for it."""
    match error:
        case S3Error():
            return error
        case WriteRefusedError():
            return failure_error(error.failure, str(error))
        case ObjectMissingError():
            return S3Error(S3Code.NO_SUCH_KEY)
        case TooFewHoldersError() | NotEnoughShardsError() | StoreFullError() | PeerUnreachableError():
            return S3Error(S3Code.SLOW_DOWN, str(error), headers=RETRY_AFTER)
        case RejectionError(reason=RejectionReason.BAD_RECORD | RejectionReason.OVERSIZED):
            return S3Error(S3Code.INVALID_ARGUMENT, error.detail)
        case NotCommittedError() | RejectionError() | StorageError():
            return S3Error(S3Code.SLOW_DOWN, str(error), headers=RETRY_AFTER)
        case _:
            return S3Error(S3Code.INTERNAL_ERROR)
