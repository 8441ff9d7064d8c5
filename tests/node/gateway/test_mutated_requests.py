"""Requests that were changed by chance, before they were signed or after: each is answered or the connection closed,
none with 500, and none harms what it does not name.

GRANDEST_REQUESTS=100000 makes it long (make campaign).
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.node.gateway.memory_gateway import OURS, MemoryGateway
from tests.node.gateway.raw_requests import RawRequest, exchanged
from tests.node.gateway.request_corpus import corpus, form, mutated, named, torn

REQUESTS = int(os.environ.get("GRANDEST_REQUESTS", "1200"))
FORMS = 5
"""Among some fifty others: one form has more to go wrong than one document."""
FRESH_EVERY = 100
"""Mutants that delete or lock what others need: everything is made anew now and then."""


def made(gateway: MemoryGateway, bucket: str) -> str:
    """Make a bucket with one object and one upload; return the upload's id."""
    gateway.stores[OURS].contents.pop(bucket, None)
    for method, target, body in (("PUT", f"/{bucket}", b""), ("PUT", f"/{bucket}/kept", b"some contents")):
        answer = exchanged(gateway.address, RawRequest(method=method, target=target, body=body).signed(gateway.address))
        assert answer.status == 200, answer
    exchanged(gateway.address, RawRequest(method="POST", target=f"/{bucket}/kept?uploads").signed(gateway.address))
    return next(iter(gateway.stores[OURS].contents[bucket].uploads))


def signed_afterwards(request: RawRequest, gateway: MemoryGateway, chance: random.Random) -> bytes:
    return named(mutated(request, chance), "mutants", "").signed(gateway.address)


def signed_before(request: RawRequest, gateway: MemoryGateway, chance: random.Random) -> bytes:
    return torn(request.signed(gateway.address), chance)


@pytest.mark.parametrize("change", [signed_afterwards, signed_before])
def test_no_request_is_answered_with_500(
    gateway: MemoryGateway, change: Callable[[RawRequest, MemoryGateway, random.Random], bytes]
) -> None:
    statuses: Counter[int] = Counter()
    requests: list[RawRequest] = []
    for seed in range(REQUESTS // 2):
        if seed % FRESH_EVERY == 0:
            requests = corpus("mutants", made(gateway, "mutants")) + [form("mutants")] * FORMS
        chance = random.Random(seed)
        sent = change(chance.choice(requests), gateway, chance)
        answer = exchanged(gateway.address, sent)
        assert answer.status not in {500, 502, 504}, (seed, sent, answer)
        statuses[answer.status] += 1
    assert len(statuses) > 4, "requests that all fail alike show little"
    assert statuses[0] < REQUESTS // 4, "an answer is the rule, a closed connection the exception"


def test_a_request_changed_after_it_was_signed_does_nothing(gateway: MemoryGateway) -> None:
    """Whatever is signed decides; a changed method, path, query, header or body is somebody else's request."""
    made(gateway, "sealed")
    request = RawRequest(
        method="PUT", target="/sealed/kept?partNumber=1&uploadId=x", headers=(("x-amz-meta-a", "b"),), body=b"contents"
    )
    sent = request.signed(gateway.address)
    for old, new in (
        (b"PUT /", b"POST /"),
        (b"/sealed/kept", b"/sealed/KEPT"),
        (b"partNumber=1", b"partNumber=2"),
        (b"x-amz-meta-a: b", b"x-amz-meta-a: c"),
        (b"x-amz-meta-a: b", b"x-amz-meta-a: b\r\nx-amz-meta-c: d"),
        (b"Host: 127", b"Host: 128"),
    ):
        assert sent.count(old) == 1
        answer = exchanged(gateway.address, sent.replace(old, new))
        assert (answer.status, answer.code) in {(403, "SignatureDoesNotMatch"), (403, "AccessDenied")}, (new, answer)
    body = exchanged(gateway.address, replace(request, target="/sealed/new").signed(gateway.address)[:-1] + b"!")
    assert (body.status, body.code) == (400, "XAmzContentSHA256Mismatch")
    assert list(gateway.stores[OURS].contents["sealed"].versions) == ["kept"]
