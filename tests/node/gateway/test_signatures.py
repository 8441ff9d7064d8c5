"""Signature V4 against botocore's signer, and against requests that were changed after they were signed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlsplit

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from node.gateway.access_keys import AccessSecret
from node.gateway.errors import S3Code, S3Error
from node.gateway.signatures import (
    RequestHead,
    check_signature,
    read_authorization,
    read_query,
)

ACCESS_KEY = "GRANDEST0123456789AB"
SECRET = "x" * 40
METHODS = st.sampled_from(["GET", "PUT", "HEAD", "DELETE", "POST"])
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40)
QUERY_NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
QUERIES = st.lists(st.tuples(QUERY_NAMES.filter(lambda name: not name.startswith("X-Amz-")), NAMES), max_size=5)
META = st.dictionaries(
    st.from_regex(r"x-amz-meta-[a-z0-9-]{1,12}", fullmatch=True),
    st.from_regex(r"[!-~]([ -~]{0,30}[!-~])?", fullmatch=True),
    max_size=4,
)


def url_of(name: str, query: list[tuple[str, str]]) -> str:
    pairs = "&".join(f"{quote(key, safe='-_.~')}={quote(text, safe='-_.~')}" for key, text in query)
    return f"http://127.0.0.1:9000/bucket/{quote(name, safe='/-_.~')}" + (f"?{pairs}" if pairs else "")


def head_of(request: AWSRequest) -> RequestHead:
    parts = urlsplit(request.url)
    headers = tuple((name.lower(), text) for name, text in request.headers.items())
    if not any(name == "host" for name, _ in headers):
        headers = (("host", parts.netloc), *headers)
    return RequestHead(method=request.method, raw_path=parts.path, query=read_query(parts.query), headers=headers)


def signed(method: str, url: str, headers: dict[str, str], body: bytes = b"") -> RequestHead:
    request = AWSRequest(method=method, url=url, headers=headers, data=body)
    S3SigV4Auth(Credentials(ACCESS_KEY, SECRET), "s3", "grand-est").add_auth(request)
    return head_of(request)


def presigned(method: str, url: str, seconds: int = 600) -> RequestHead:
    request = AWSRequest(method=method, url=url)
    S3SigV4QueryAuth(Credentials(ACCESS_KEY, SECRET), "s3", "grand-est", expires=seconds).add_auth(request)
    return head_of(request)


def check(head: RequestHead, now: datetime | None = None, secret: str = SECRET) -> None:
    authorization = read_authorization(head, now or datetime.now(UTC))
    assert authorization is not None
    check_signature(authorization, head, AccessSecret(secret.encode()))


def refusal(head: RequestHead, now: datetime | None = None, secret: str = SECRET) -> S3Code:
    with pytest.raises(S3Error) as refused:
        check(head, now, secret)
    return refused.value.code


@given(METHODS, NAMES, QUERIES, META, st.binary(max_size=64))
def test_what_botocore_signs_in_the_header_is_accepted(
    method: str, name: str, query: list[tuple[str, str]], meta: dict[str, str], body: bytes
) -> None:
    check(signed(method, url_of(name, query), dict(meta), body))


@given(METHODS, NAMES, QUERIES)
def test_what_botocore_signs_in_the_query_is_accepted(method: str, name: str, query: list[tuple[str, str]]) -> None:
    check(presigned(method, url_of(name, query)))


@given(NAMES, QUERIES, META, st.data())
def test_a_request_that_was_changed_is_refused(
    name: str, query: list[tuple[str, str]], meta: dict[str, str], draw: st.DataObject
) -> None:
    head = signed("PUT", url_of(name, query), dict(meta))
    changed = draw.draw(st.sampled_from(["method", "path", "query", "header", "secret", "added"]))
    match changed:
        case "method":
            assert refusal(mutated(head, method="GET")) is S3Code.SIGNATURE_MISMATCH
        case "path":
            assert refusal(mutated(head, raw_path=head.raw_path + "a")) is S3Code.SIGNATURE_MISMATCH
        case "query":
            assert refusal(mutated(head, query=(*head.query, ("versions", "")))) is S3Code.SIGNATURE_MISMATCH
        case "header":
            headers = tuple((known, text + "0" if known == "host" else text) for known, text in head.headers)
            assert refusal(mutated(head, headers=headers)) is S3Code.SIGNATURE_MISMATCH
        case "secret":
            assert refusal(head, secret="y" * 40) is S3Code.SIGNATURE_MISMATCH
        case _:
            headers = (*head.headers, ("x-amz-acl", "public-read"))
            assert refusal(mutated(head, headers=headers)) is S3Code.ACCESS_DENIED


def mutated(
    head: RequestHead,
    *,
    method: str | None = None,
    raw_path: str | None = None,
    query: tuple[tuple[str, str], ...] | None = None,
    headers: tuple[tuple[str, str], ...] | None = None,
) -> RequestHead:
    return RequestHead(
        method=method or head.method,
        raw_path=raw_path or head.raw_path,
        query=head.query if query is None else query,
        headers=head.headers if headers is None else headers,
    )


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=120))
def test_an_authorization_of_any_text_is_refused_by_name(text: str) -> None:
    head = signed("GET", url_of("name", []), {})
    headers = tuple((name, text if name == "authorization" else value) for name, value in head.headers)
    with pytest.raises(S3Error):
        check(mutated(head, headers=headers))


@pytest.mark.parametrize("minutes", [-16, 16])
def test_a_clock_off_by_more_than_a_quarter_of_an_hour_is_refused(minutes: int) -> None:
    head = signed("GET", url_of("name", []), {})
    assert refusal(head, datetime.now(UTC) + timedelta(minutes=minutes)) is S3Code.TIME_TOO_SKEWED


def test_a_presigned_request_lives_as_long_as_it_says() -> None:
    head = presigned("GET", url_of("name", []), 600)
    check(head, datetime.now(UTC) + timedelta(seconds=590))
    assert refusal(head, datetime.now(UTC) + timedelta(seconds=610)) is S3Code.REQUEST_EXPIRED


@pytest.mark.parametrize("seconds", [0, -1, 604_801])
def test_a_presigned_request_lives_a_week_at_most(seconds: int) -> None:
    assert refusal(presigned("GET", url_of("name", []), seconds)) is S3Code.ACCESS_DENIED


def test_a_longer_life_is_not_taken_from_the_query() -> None:
    head = presigned("GET", url_of("name", []), 600)
    query = tuple((name, "601" if name == "X-Amz-Expires" else text) for name, text in head.query)
    assert refusal(mutated(head, query=query)) is S3Code.SIGNATURE_MISMATCH


def test_another_region_is_refused_with_ours() -> None:
    request = AWSRequest(method="GET", url=url_of("name", []))
    S3SigV4Auth(Credentials(ACCESS_KEY, SECRET), "s3", "eu-west-9").add_auth(request)
    with pytest.raises(S3Error) as refused:
        check(head_of(request))
    assert refused.value.code is S3Code.AUTHORIZATION_HEADER_MALFORMED
    assert refused.value.fields == {"Region": "grand-est"}


def test_a_request_without_a_signature_is_anonymous() -> None:
    head = RequestHead(method="GET", raw_path="/bucket", query=(), headers=(("host", "127.0.0.1"),))
    assert read_authorization(head, datetime.now(UTC)) is None


def test_header_and_query_together_are_refused() -> None:
    head = presigned("GET", url_of("name", []))
    both = mutated(head, headers=(*head.headers, ("authorization", "AWS4-HMAC-SHA256 x")))
    assert refusal(both) is S3Code.INVALID_ARGUMENT


def test_a_secret_is_not_shown() -> None:
    assert SECRET not in repr(AccessSecret(SECRET.encode()))
