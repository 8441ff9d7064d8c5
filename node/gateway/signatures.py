"""Signature Version 4: who sent a request, from its head alone; in the header or in the query.

    string to sign = "AWS4-HMAC-SHA256" LF time LF scope LF hex(SHA-256(canonical request))
    scope          = date "/" region "/s3/aws4_request"
    signing key    = HMAC(HMAC(HMAC(HMAC("AWS4" secret, date), region), "s3"), "aws4_request")
    signature      = hex(HMAC(signing key, string to sign))

Rules
- G1. Host and every x-amz-* header that was sent are signed; what is not signed decides nothing.
- G2. The clock of a signed request is within SKEW of ours; a presigned one lives as long as it says, a week at most.
- G3. Signatures are compared in constant time; an unknown access key is told as such, as S3 does, and nothing else.
- G4. The path is signed as S3 encodes it; a client that signed the path as it sent it is accepted too: both spellings
  name one key.

Source: Amazon S3 API Reference, "Authenticating Requests (AWS Signature Version 4)". Bodies: `chunked.py`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from node.gateway.access_keys import AccessSecret
from node.gateway.errors import S3Code, S3Error
from storage.sealing import SecretKey

ALGORITHM: Final = "AWS4-HMAC-SHA256"
REGION: Final = "grand-est"
REGIONS: Final = frozenset({REGION, "us-east-1"})
"""Ours, and the one that every client assumes when it was told none."""
SKEW: Final = timedelta(minutes=15)
EXPIRES_SECONDS_MAX: Final = 7 * 24 * 3600
EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()
SIGNED_HEADERS_MAX: Final = 64
UNRESERVED: Final = "-_.~"
"""Beside letters and digits: what is never percent-encoded when signed."""

_TIME = "%Y%m%dT%H%M%SZ"
_FIELD: Final = re.compile(r"\s*([A-Za-z]+)\s*=\s*([^,\s]*)\s*\Z")
_SIGNATURE: Final = re.compile(r"[0-9a-f]{64}\Z")
_SECONDS: Final = re.compile(r"-?\d{1,10}\Z", re.ASCII)
_SHA256: Final = re.compile(r"[0-9a-fA-F]{64}\Z")
_SPACES: Final = re.compile(r" {2,}")

Headers = tuple[tuple[str, str], ...]
"""Names in lower case, values as they came (each byte one character), in order."""
Query = tuple[tuple[str, str], ...]
"""Decoded names and values, in order."""


class Payload(Enum):
    """How the body is vouched for: the value of x-amz-content-sha256, or a digest of it all."""

    DIGEST = "digest"
    UNSIGNED = "UNSIGNED-PAYLOAD"
    SIGNED_CHUNKS = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
    SIGNED_CHUNKS_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
    UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHead:
    """What a signature covers."""

    method: str
    raw_path: str
    """As sent, percent-encoded, without the query."""
    query: Query
    headers: Headers

    def header(self, name: str) -> str | None:
        """Return a header's first value; the name in lower case."""
        return next((text for known, text in self.headers if known == name), None)

    def parameter(self, name: str) -> str | None:
        """Return the first value of a query parameter."""
        return next((text for known, text in self.query if known == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a signing key is good for."""

    date: str
    region: str

    def __str__(self) -> str:
        """Return it as it is signed."""
        return f"{self.date}/{self.region}/s3/aws4_request"


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorization:
    """What a request says of its signature; nothing is checked yet."""

    access_key: str
    scope: Scope
    time: str
    signed_headers: tuple[str, ...]
    signature: str
    payload_hash: str
    is_presigned: bool

    @property
    def payload(self) -> Payload:
        """Return how the body is vouched for."""
        return Payload.DIGEST if _SHA256.match(self.payload_hash) else Payload(self.payload_hash)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """What signs the chunks of a body: the key and time of its head, and the head's signature as the first link."""

    signing_key: SecretKey
    scope: Scope
    time: str
    seed_signature: str


def read_authorization(head: RequestHead, now: datetime) -> Authorization | None:
    """Read a request's signature, from its header or its query; None when it carries none.

    Args:
        head: Of the request.
        now: Aware, in UTC.

    Raises:
        S3Error: Malformed, of another scheme or scope, both ways at once, too early or too late.
    """
    header = head.header("authorization")
    in_query = head.parameter("X-Amz-Algorithm") is not None or head.parameter("X-Amz-Signature") is not None
    if header is not None and in_query:
        raise S3Error(S3Code.INVALID_ARGUMENT, "Only one auth mechanism allowed")
    if head.parameter("AWSAccessKeyId") is not None or (header or "").startswith("AWS "):
        raise S3Error(
            S3Code.INVALID_REQUEST, f"Please use {ALGORITHM}: the mechanism you have provided is not supported."
        )
    if header is not None:
        return _from_header(head, header, now)
    return _from_query(head, now) if in_query else None


def check_signature(authorization: Authorization, head: RequestHead, secret: AccessSecret) -> Seal:
    """Check a request's signature; the seal checks its chunks.

    Raises:
        S3Error: SignatureDoesNotMatch, or AccessDenied for headers that had to be signed.
    """
    _check_signed_headers(authorization, head)
    signing_key = derive_signing_key(secret, authorization.scope)
    for path in dict.fromkeys((encode_path(head.raw_path), head.raw_path)):
        canonical = canonical_request(authorization, head, path)
        for encoding in ("latin-1", "utf-8"):
            # Header text beyond ASCII is signed as UTF-8 by some and sent as Latin-1.
            expected = _sign(signing_key, authorization.time, authorization.scope, canonical.encode(encoding))
            if hmac.compare_digest(expected, authorization.signature):
                return Seal(
                    signing_key=signing_key,
                    scope=authorization.scope,
                    time=authorization.time,
                    seed_signature=authorization.signature,
                )
            if canonical.isascii():
                break
    raise S3Error(S3Code.SIGNATURE_MISMATCH)


def derive_signing_key(secret: AccessSecret, scope: Scope) -> SecretKey:
    """Derive the key of one day, region and service."""
    derived = b"AWS4" + secret.reveal()
    for part in (scope.date, scope.region, "s3", "aws4_request"):
        derived = hmac.digest(derived, part.encode(), "sha256")
    return SecretKey(derived)


def sign_text(seal_key: SecretKey, text: bytes) -> str:
    """Return the signature of a string to sign, in hex."""
    return hmac.digest(seal_key.reveal(), text, "sha256").hex()


def canonical_request(authorization: Authorization, head: RequestHead, path: str) -> str:
    """Return what is hashed into the string to sign; text beyond ASCII one character a byte."""
    query = sorted(
        (_encode(name), _encode(text))
        for name, text in head.query
        if not (authorization.is_presigned and name == "X-Amz-Signature")
    )
    lines = [f"{name}:{_joined(head.headers, name)}\n" for name in authorization.signed_headers]
    return "\n".join(
        (
            head.method,
            path,
            "&".join(f"{name}={text}" for name, text in query),
            "".join(lines),
            ";".join(authorization.signed_headers),
            authorization.payload_hash,
        )
    )


def encode_path(raw_path: str) -> str:
    """Return a path as S3 signs it: decoded and encoded again, slashes kept."""
    return quote(unquote_to_bytes(raw_path.encode("latin-1")), safe="/" + UNRESERVED)


def read_query(raw_query: str) -> Query:
    """Decode a query string; a name without `=` has an empty value.

    Raises:
        S3Error: InvalidURI when it is not UTF-8.
    """
    pairs = (pair.partition("=") for pair in raw_query.split("&") if pair)
    return tuple((decode_text(name.replace("+", " ")), decode_text(text.replace("+", " "))) for name, _, text in pairs)


def decode_text(encoded: str) -> str:
    """Decode percent-encoded text.

    Raises:
        S3Error: InvalidURI when it is not UTF-8.
    """
    try:
        return unquote_to_bytes(encoded.encode("latin-1")).decode()
    except UnicodeDecodeError as error:
        raise S3Error(S3Code.INVALID_URI) from error


def _from_header(head: RequestHead, header: str, now: datetime) -> Authorization:
    scheme, _, rest = header.partition(" ")
    if scheme != ALGORITHM:
        raise S3Error(S3Code.INVALID_ARGUMENT, f"Unsupported Authorization Type: {ALGORITHM} is needed")
    fields: dict[str, str] = {}
    for part in rest.split(","):
        found = _FIELD.match(part)
        if found is None or found[1] in fields:
            raise S3Error(S3Code.AUTHORIZATION_HEADER_MALFORMED)
        fields[found[1]] = found[2]
    if fields.keys() != {"Credential", "SignedHeaders", "Signature"} or not _SIGNATURE.match(fields["Signature"]):
        raise S3Error(S3Code.AUTHORIZATION_HEADER_MALFORMED)
    payload_hash = head.header("x-amz-content-sha256")
    if payload_hash is None:
        raise S3Error(S3Code.INVALID_REQUEST, "Missing required header for this request: x-amz-content-sha256")
    _check_payload_hash(payload_hash)
    access_key, scope = _read_credential(fields["Credential"], S3Code.AUTHORIZATION_HEADER_MALFORMED)
    moment = _header_time(head)
    if abs(moment - now) > SKEW:
        raise S3Error(S3Code.TIME_TOO_SKEWED)
    return Authorization(
        access_key=access_key,
        scope=_scope_of_day(scope, moment, S3Code.AUTHORIZATION_HEADER_MALFORMED),
        time=moment.strftime(_TIME),
        signed_headers=_read_signed_headers(fields["SignedHeaders"], S3Code.AUTHORIZATION_HEADER_MALFORMED),
        signature=fields["Signature"],
        payload_hash=payload_hash,
        is_presigned=False,
    )


def _from_query(head: RequestHead, now: datetime) -> Authorization:
    wrong = S3Code.AUTHORIZATION_QUERY_ERROR
    names = ("Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Signature")
    found = {name: [text for known, text in head.query if known == f"X-Amz-{name}"] for name in names}
    if any(len(texts) != 1 for texts in found.values()):
        raise S3Error(wrong, "Query-string authentication requires each of its six parameters once")
    fields = {name: texts[0] for name, texts in found.items()}
    if fields["Algorithm"] != ALGORITHM or not _SIGNATURE.match(fields["Signature"]):
        raise S3Error(wrong, f"X-Amz-Algorithm only supports {ALGORITHM}")
    if not _SECONDS.match(fields["Expires"]):
        raise S3Error(wrong, "X-Amz-Expires should be a number of seconds")
    lifetime = int(fields["Expires"])
    if not 0 < lifetime <= EXPIRES_SECONDS_MAX:
        raise S3Error(S3Code.ACCESS_DENIED, "X-Amz-Expires must be positive and less than a week (in seconds)")
    access_key, scope = _read_credential(fields["Credential"], wrong)
    moment = _read_time(fields["Date"], wrong)
    if moment - now > SKEW:
        raise S3Error(S3Code.ACCESS_DENIED, "Request is not yet valid")
    if now > moment + timedelta(seconds=lifetime):
        raise S3Error(S3Code.REQUEST_EXPIRED)
    payload_hash = (
        head.header("x-amz-content-sha256") or head.parameter("X-Amz-Content-Sha256") or Payload.UNSIGNED.value
    )
    _check_payload_hash(payload_hash)
    return Authorization(
        access_key=access_key,
        scope=_scope_of_day(scope, moment, wrong),
        time=fields["Date"],
        signed_headers=_read_signed_headers(fields["SignedHeaders"], wrong),
        signature=fields["Signature"],
        payload_hash=payload_hash,
        is_presigned=True,
    )


def _check_payload_hash(payload_hash: str) -> None:
    if _SHA256.match(payload_hash) or payload_hash in {kind.value for kind in Payload if kind is not Payload.DIGEST}:
        return
    if payload_hash.startswith("STREAMING-"):
        raise S3Error(S3Code.NOT_IMPLEMENTED, f"bodies of {payload_hash[:64]} are not supported")
    raise S3Error(S3Code.INVALID_ARGUMENT, "x-amz-content-sha256 must be UNSIGNED-PAYLOAD or a valid sha256 value.")


def _read_credential(credential: str, wrong: S3Code) -> tuple[str, Scope]:
    parts = credential.rsplit("/", 4)
    if len(parts) != 5 or not parts[0] or parts[3] != "s3" or parts[4] != "aws4_request":  # noqa: PLR2004 (the fields)
        raise S3Error(wrong, 'the Credential is mal-formed; expecting "<ACCESS KEY>/YYYYMMDD/REGION/s3/aws4_request"')
    if parts[2] not in REGIONS:
        detail = f"the region '{parts[2][:40]}' is wrong; expecting '{REGION}'"
        raise S3Error(wrong, detail, fields={"Region": REGION})
    return parts[0], Scope(date=parts[1], region=parts[2])


def _scope_of_day(scope: Scope, moment: datetime, wrong: S3Code) -> Scope:
    if scope.date != moment.strftime("%Y%m%d"):
        raise S3Error(wrong, "the Credential's date is not the date of the request")
    return scope


def _read_signed_headers(text: str, wrong: S3Code) -> tuple[str, ...]:
    names = tuple(text.split(";"))
    if not text or len(names) > SIGNED_HEADERS_MAX or list(names) != sorted(set(names)) or text != text.lower():
        raise S3Error(wrong, "SignedHeaders must be lower-case names in order, each once")
    return names


def _check_signed_headers(authorization: Authorization, head: RequestHead) -> None:
    signed = set(authorization.signed_headers)
    sent = {name for name, _ in head.headers}
    needed = {name for name in sent if name.startswith("x-amz-")} | {"host"}
    if not needed <= signed:
        unsigned = ", ".join(sorted(needed - signed))
        raise S3Error(
            S3Code.ACCESS_DENIED,
            "There were headers present in the request which were not signed",
            fields={"HeadersNotSigned": unsigned},
        )


def _header_time(head: RequestHead) -> datetime:
    text = head.header("x-amz-date")
    if text is not None:
        return _read_time(text, S3Code.ACCESS_DENIED)
    date = head.header("date")
    if date is None:
        raise S3Error(S3Code.ACCESS_DENIED, "AWS authentication requires a valid Date or x-amz-date header")
    try:
        moment = parsedate_to_datetime(date)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):  # a year of twenty digits, or the last hour of the last year
        return _read_time(date, S3Code.ACCESS_DENIED)


def _read_time(text: str, wrong: S3Code) -> datetime:
    try:
        moment = datetime.strptime(text, _TIME).replace(tzinfo=UTC)
    except ValueError as error:
        raise S3Error(wrong, "a date must have the format YYYYMMDD'T'HHMMSS'Z'") from error
    if moment.strftime(_TIME) != text:
        raise S3Error(wrong, "a date must have the format YYYYMMDD'T'HHMMSS'Z'")
    return moment


def _joined(headers: Headers, name: str) -> str:
    return ",".join(_SPACES.sub(" ", text.strip()) for known, text in headers if known == name)


def _encode(text: str) -> str:
    return quote(text, safe=UNRESERVED)


def _sign(signing_key: SecretKey, time: str, scope: Scope, canonical: bytes) -> str:
    digest = hashlib.sha256(canonical).hexdigest()
    return sign_text(signing_key, f"{ALGORITHM}\n{time}\n{scope}\n{digest}".encode())
