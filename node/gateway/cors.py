"""Cross-origin rules: what a browser is told about a bucket (Fetch standard, as S3 applies a bucket's rules).

A preflight carries no signature, so that nobody knows whose bucket it asks about: buckets of different tenants may have
one name. It is answered for any origin with what S3's own clients use; the bucket's rules decide on the request itself,
whose answer a browser shows to a page only when a rule admits its origin.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from node.gateway import settings as kept
from node.gateway.call import empty_answer
from node.gateway.errors import S3Code, S3Error
from node.gateway.settings import Cors, read_setting

if TYPE_CHECKING:
    from node.gateway.http_server import HttpAnswer
    from node.gateway.settings import CorsRule
    from node.gateway.signatures import RequestHead
    from node.gateway.store import Bucket

METHODS: Final = "GET, PUT, HEAD, POST, DELETE"


def preflight(head: RequestHead) -> HttpAnswer:
    """Answer a browser that asks whether it may ask."""
    origin, method = head.header("origin"), head.header("access-control-request-method")
    if origin is None or method is None:
        detail = "Insufficient information. Origin request header and Access-Control-Request-Method needed."
        raise S3Error(S3Code.INVALID_REQUEST, detail)
    if method not in METHODS.split(", "):
        raise S3Error(S3Code.ACCESS_DENIED, "CORSResponse: This CORS request is not allowed.")
    headers = [("Access-Control-Allow-Origin", origin), ("Access-Control-Allow-Methods", METHODS), ("Vary", "Origin")]
    wanted = head.header("access-control-request-headers")
    if wanted is not None:
        headers.append(("Access-Control-Allow-Headers", wanted))
    return empty_answer(*headers, status=HTTPStatus.OK)


def cors_headers(head: RequestHead, bucket: Bucket) -> list[tuple[str, str]]:
    """Return what an answer tells a browser, nothing when no rule of the bucket fits."""
    origin = head.header("origin")
    cors = None if origin is None else read_setting(bucket.settings, kept.CORS, Cors)
    if cors is None or origin is None:
        return []
    for rule in cors.rules:
        admitted = next((pattern for pattern in rule.origins if _fits(pattern, origin)), None)
        if admitted is not None and head.method in rule.methods:
            return _headers(rule, "*" if admitted == "*" else origin)
    return []


def _headers(rule: CorsRule, origin: str) -> list[tuple[str, str]]:
    headers = [("Access-Control-Allow-Origin", origin), ("Access-Control-Allow-Methods", ", ".join(rule.methods))]
    if rule.exposed:
        headers.append(("Access-Control-Expose-Headers", ", ".join(rule.exposed)))
    if rule.max_age_seconds is not None:
        headers.append(("Access-Control-Max-Age", str(rule.max_age_seconds)))
    if origin != "*":
        headers += [("Access-Control-Allow-Credentials", "true"), ("Vary", "Origin")]
    return headers


def _fits(pattern: str, origin: str) -> bool:
    beginning, star, end = pattern.partition("*")
    if not star:
        return pattern == origin
    return len(origin) >= len(beginning) + len(end) and origin.startswith(beginning) and origin.endswith(end)
