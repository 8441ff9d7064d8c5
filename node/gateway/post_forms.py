"""POST of a form: an upload from a browser, allowed by a signed policy (S3 API Reference, "POST Object").

A policy is a JSON document in base64 that lists what the form's fields must be; its signature is that of the base64
text under the day's signing key. Every field but the exempt ones must be named by a condition.
"""

from __future__ import annotations

import base64
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import msgspec

from node.gateway.access_keys import Verb
from node.gateway.bodies import ObjectBody, read_rules
from node.gateway.bucket_settings import read_tags
from node.gateway.call import Call, empty_answer, xml_answer
from node.gateway.errors import S3Code, S3Error
from node.gateway.form_data import FormReader
from node.gateway.markup import document, leaf
from node.gateway.metadata import OBJECT_TAGS_MAX
from node.gateway.object_writes import store_body, written_headers
from node.gateway.operations import Operation, Target
from node.gateway.permissions import check_policy as check_bucket_policy
from node.gateway.signatures import ALGORITHM, REGIONS, RequestHead, Scope, derive_signing_key, sign_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from node.gateway.access_keys import AccessKey
    from node.gateway.application import Tenants
    from node.gateway.http_server import HttpAnswer, HttpRequest
    from node.gateway.rates import TenantRates
    from storage.sealing import SecretKey

EXEMPT: Final = frozenset({"file", "policy", "x-amz-signature", "awsaccesskeyid", "signature"})
"""Fields that no condition needs to name; those that begin with x-ignore- too."""
POLICY_BYTES_MAX: Final = 16 * 1024
CONDITIONS_MAX: Final = 100

_LENGTH: Final = re.compile(r"[0-9]{1,16}\Z")


class _PolicyDocument(msgspec.Struct, frozen=True, kw_only=True):
    expiration: str
    conditions: list[dict[str, str] | list[str | int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a policy allows beside its fields."""

    bytes_min: int = 0
    bytes_max: int | None = None


async def post_object(
    request: HttpRequest, target: Target, tenants: Tenants, rates: TenantRates, now_ms: int
) -> HttpAnswer:
    """Answer POST Object."""
    form = FormReader(request.body, request.head.header("content-type") or "")
    fields = await form.read_fields()
    if not {"policy", "x-amz-signature", "signature"} & fields.keys():
        raise S3Error(S3Code.ACCESS_DENIED)
    access_key = _sender(fields, tenants)
    rates.take(access_key.tenant)
    if "policy" not in fields:
        raise S3Error(S3Code.INVALID_ARGUMENT, "Bucket POST must contain a field named 'policy'.")
    limits = check_policy(fields, target.bucket, now_ms)
    if not access_key.admits(Verb.WRITE, target.bucket, now_ms):
        raise S3Error(S3Code.ACCESS_DENIED)
    name = fields.get("key", "").replace("${filename}", form.file_name)
    if not name:
        raise S3Error(
            S3Code.INVALID_ARGUMENT,
            "Bucket POST must contain a field named 'key'.  If it is specified, please check the order of the fields.",
        )
    form.limit(limits.bytes_min, limits.bytes_max)
    head = _object_head(request.head, fields)
    rules = read_rules(head, None, None)
    call = Call(
        head=head,
        target=Target(bucket=target.bucket, name=name),
        operation=Operation.POST_OBJECT,
        access_key=access_key,
        store=tenants.store(access_key),
        body=ObjectBody(form, rules, None),
        rules=rules,
        request_id=request.request_id,
        now_ms=now_ms,
    )
    tagging = fields.get("tagging")
    tags = () if tagging is None else read_tags(tagging.encode(), OBJECT_TAGS_MAX)
    check_bucket_policy(await call.bucket(), Operation.POST_OBJECT, name)
    bucket, object_version = await store_body(call, tags)
    return _posted(fields, call, written_headers(bucket, object_version))


def _posted(fields: Mapping[str, str], call: Call, headers: tuple[tuple[str, str], ...]) -> HttpAnswer:
    etag = dict(headers).get("ETag", "")
    location = f"/{call.target.bucket}/{call.target.name}"
    redirect = fields.get("success_action_redirect") or fields.get("redirect")
    if redirect and redirect.startswith(("http://", "https://")) and redirect.isascii() and redirect.isprintable():
        separator = "&" if "?" in redirect else "?"
        quoted = etag.replace('"', "%22")
        place = f"{redirect}{separator}bucket={call.target.bucket}&key={call.target.name}&etag={quoted}"
        return empty_answer(("Location", place), *headers, status=HTTPStatus.SEE_OTHER)
    status = fields.get("success_action_status", "204")
    if status == "201":
        pieces = (
            leaf("Location", location),
            leaf("Bucket", call.target.bucket),
            leaf("Key", call.target.name),
            leaf("ETag", etag),
        )
        return xml_answer(document("PostResponse", *pieces), *headers, status=HTTPStatus.CREATED)
    shown = HTTPStatus.OK if status == "200" else HTTPStatus.NO_CONTENT
    return empty_answer(*headers, ("Location", location), status=shown)


def _sender(fields: Mapping[str, str], tenants: Tenants) -> AccessKey:
    """Check the form's signature: of version 4, or of version 2, which forms alone may still carry."""
    if "signature" in fields and "x-amz-signature" not in fields:
        access_key = _known(tenants, fields.get("awsaccesskeyid", ""))
        digest = hmac.digest(access_key.secret.reveal(), fields.get("policy", "").encode(), "sha1")
        expected, found = base64.b64encode(digest).decode(), fields["signature"]
    else:
        access_key, signing_key = _signing_key(fields, tenants)
        expected, found = sign_text(signing_key, fields["policy"].encode()), fields["x-amz-signature"]
    if not hmac.compare_digest(expected.encode(), found.encode()):
        raise S3Error(S3Code.SIGNATURE_MISMATCH)
    return access_key


def _signing_key(fields: Mapping[str, str], tenants: Tenants) -> tuple[AccessKey, SecretKey]:
    needed = ("policy", "x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-signature")
    missing = [name for name in needed if not fields.get(name)]
    if missing:
        raise S3Error(S3Code.INVALID_ARGUMENT, f"Bucket POST must contain a field named '{missing[0]}'.")
    if fields["x-amz-algorithm"] != ALGORITHM:
        raise S3Error(S3Code.INVALID_ARGUMENT, f"X-Amz-Algorithm only supports {ALGORITHM}")
    parts = fields["x-amz-credential"].rsplit("/", 4)
    if len(parts) != 5 or parts[2] not in REGIONS or parts[3:] != ["s3", "aws4_request"]:  # noqa: PLR2004 (the fields)
        raise S3Error(S3Code.INVALID_ARGUMENT, "the Credential is mal-formed")
    if fields["x-amz-date"][:8] != parts[1]:
        raise S3Error(S3Code.INVALID_ARGUMENT, "the Credential's date is not the date of the form")
    access_key = _known(tenants, parts[0])
    return access_key, derive_signing_key(access_key.secret, Scope(date=parts[1], region=parts[2]))


def _known(tenants: Tenants, name: str) -> AccessKey:
    access_key = tenants.access_key(name)
    if access_key is None:
        raise S3Error(S3Code.INVALID_ACCESS_KEY)
    return access_key


def check_policy(fields: Mapping[str, str], bucket: str, now_ms: int) -> Limits:
    """Check a form's fields against its policy.

    Raises:
        S3Error: InvalidPolicyDocument, AccessDenied for a condition that fails or a field that none names.
    """
    policy = _decode_policy(fields["policy"])
    if _expires_ms(policy.expiration) <= now_ms:
        raise S3Error(S3Code.ACCESS_DENIED, "Invalid according to Policy: Policy expired.")
    known = {**fields, "bucket": bucket}
    named: set[str] = set()
    limits = Limits()
    for condition in policy.conditions:
        if isinstance(condition, dict):
            pairs = [("eq", f"${name}", text) for name, text in condition.items()]
            if len(pairs) != 1:
                raise S3Error(S3Code.INVALID_POLICY_DOCUMENT, "Invalid Policy: Invalid Simple-Condition")
        else:
            pairs = [_read_condition(condition)]
        for kind, first, second in pairs:
            if kind == "content-length-range":
                limits = Limits(bytes_min=int(first), bytes_max=int(second))
                continue
            name = first.removeprefix("$").lower()
            named.add(name)
            _check_condition(kind, name, second, known.get(name, ""))
    unnamed = [name for name in fields if name not in named and name not in EXEMPT and not name.startswith("x-ignore-")]
    if unnamed or "bucket" not in named:
        what = unnamed[0] if unnamed else "bucket"
        raise S3Error(S3Code.ACCESS_DENIED, f"Invalid according to Policy: Extra input fields: {what[:64]}")
    return limits


def _decode_policy(text: str) -> _PolicyDocument:
    try:
        raw = base64.b64decode(text, validate=True)
        if len(raw) > POLICY_BYTES_MAX:
            raise S3Error(S3Code.INVALID_POLICY_DOCUMENT)
        policy = msgspec.json.decode(raw, type=_PolicyDocument)
    except (ValueError, msgspec.DecodeError) as error:  # no base64, no ASCII, no UTF-8, no such JSON
        raise S3Error(S3Code.INVALID_POLICY_DOCUMENT, "Invalid Policy: Invalid JSON.") from error
    if not 1 <= len(policy.conditions) <= CONDITIONS_MAX:
        raise S3Error(S3Code.INVALID_POLICY_DOCUMENT, "Invalid Policy: Missing conditions")
    return policy


def _expires_ms(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise S3Error(S3Code.INVALID_POLICY_DOCUMENT, "Invalid Policy: Invalid 'expiration' value") from error
    if "T" not in text:
        raise S3Error(S3Code.INVALID_POLICY_DOCUMENT, "Invalid Policy: Invalid 'expiration' value")
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp() * 1000


def _read_condition(condition: list[str | int]) -> tuple[str, str, str]:
    if len(condition) != 3 or not isinstance(condition[0], str):  # noqa: PLR2004 (kind, field, value)
        raise S3Error(S3Code.INVALID_POLICY_DOCUMENT, "Invalid Policy: Invalid Condition")
    kind = condition[0].lower()
    first, second = str(condition[1]), str(condition[2])
    if kind == "content-length-range":
        if not (_LENGTH.match(first) and _LENGTH.match(second)):
            raise S3Error(S3Code.INVALID_POLICY_DOCUMENT, "Invalid Policy: Invalid content-length-range")
    elif kind not in {"eq", "starts-with"} or not first.startswith("$"):
        raise S3Error(S3Code.INVALID_POLICY_DOCUMENT, "Invalid Policy: Invalid Condition")
    return kind, first, second


def _check_condition(kind: str, name: str, wanted: str, found: str) -> None:
    holds = found == wanted if kind == "eq" else found.startswith(wanted)
    if not holds:
        detail = f'Invalid according to Policy: Policy Condition failed: ["{kind}", "${name[:64]}", "{wanted[:64]}"]'
        raise S3Error(S3Code.ACCESS_DENIED, detail)


def _object_head(head: RequestHead, fields: Mapping[str, str]) -> RequestHead:
    """Return the head that a PUT of the same object would have."""
    moved = {"acl": "x-amz-acl"}
    headers = [
        (moved.get(name, name), text)
        for name, text in fields.items()
        if name.startswith(
            ("x-amz-meta-", "x-amz-checksum-", "x-amz-object-lock-", "x-amz-server-side", "x-amz-storage")
        )
        or name in {"acl", "content-type", "cache-control", "content-disposition", "content-encoding", "expires"}
        or name == "x-amz-website-redirect-location"
    ]
    return RequestHead(method="POST", raw_path=head.raw_path, query=head.query, headers=tuple(headers))
