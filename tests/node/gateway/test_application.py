"""The application over a store in memory, asked by requests that botocore signed: what it refuses, limits and counts.

Which access key reaches what stands in test_scopes.py; what S3's tools do in tests/integration.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from node.gateway.access_keys import AccessKey, AccessSecret
from node.gateway.application import Application
from node.gateway.http_server import HttpRequest
from node.gateway.metrics import Metrics
from node.gateway.rates import BURST_SECONDS, TenantRates
from storage.identifiers import TenantId
from tests.node.gateway.memory_store import MemoryStore
from tests.node.gateway.test_signatures import head_of

if TYPE_CHECKING:
    from node.gateway.http_server import HttpAnswer
    from node.gateway.store import Store

SECRET = "s" * 40
TENANTS = {"mine": TenantId(b"m" * 16), "theirs": TenantId(b"t" * 16)}
RATE = 10
NEVER_REACHED = 1_000_000


@dataclass
class SmallBody:
    """Implements BodyReader over bytes."""

    contents: bytes = b""
    is_read: bool = False

    @property
    def content_length(self) -> int | None:
        return len(self.contents)

    async def read_some(self) -> memoryview | None:
        if self.is_read or not self.contents:
            return None
        self.is_read = True
        return memoryview(self.contents)


@dataclass
class Gateway:
    """An application for two tenants, each with an access key of its name, and a clock that stands still."""

    requests_per_second: int = NEVER_REACHED
    now_s: float = 0.0
    metrics: Metrics = field(default_factory=Metrics)
    stores: dict[TenantId, MemoryStore] = field(
        default_factory=lambda: {tenant: MemoryStore() for tenant in TENANTS.values()}
    )

    def __post_init__(self) -> None:
        rates = TenantRates(self.requests_per_second, lambda: self.now_s)
        self.application = Application(self, self.metrics, rates)

    def access_key(self, name: str) -> AccessKey | None:
        tenant = TENANTS.get(name)
        secret = AccessSecret(SECRET.encode())
        return None if tenant is None else AccessKey(access_key=name, secret=secret, tenant=tenant)

    def store(self, access_key: AccessKey) -> Store:
        return self.stores[access_key.tenant]

    async def asked(
        self, method: str, path: str, name: str = "mine", body: bytes = b"", headers: dict[str, str] | None = None
    ) -> HttpAnswer:
        request = AWSRequest(method=method, url=f"http://127.0.0.1:9000{path}", headers=headers or {}, data=body)
        S3SigV4Auth(Credentials(name, SECRET), "s3", "grand-est").add_auth(request)
        sent = HttpRequest(head=head_of(request), request_id="R", peer="p", body=SmallBody(body))
        return await self.application.answer(sent)


async def test_two_tenants_have_buckets_of_one_name() -> None:
    gateway = Gateway()
    for name in TENANTS:
        assert (await gateway.asked("PUT", "/same-name", name)).status == 200
        assert (await gateway.asked("PUT", "/same-name/k", name, name.encode())).status == 200
    assert (await gateway.asked("DELETE", "/same-name/k", "theirs")).status == 204
    assert list(gateway.stores[TENANTS["mine"]].contents["same-name"].versions) == ["k"]


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("PUT", "/b-one?analytics", {}),
        ("PUT", "/b-one?website", {}),
        ("PUT", "/b-one?encryption", {}),
        ("GET", "/b-one/k?torrent", {}),
        ("PUT", "/b-one/k?proof", {}),
        ("PUT", "/b-one/k", {"x-amz-server-side-encryption": "AES256"}),
        ("PUT", "/b-one/k", {"x-amz-storage-class": "GLACIER"}),
        ("PUT", "/b-one/k", {"x-amz-acl": "public-read"}),
    ],
)
async def test_what_is_not_supported_is_never_a_false_success(method: str, path: str, headers: dict[str, str]) -> None:
    gateway = Gateway()
    await gateway.asked("PUT", "/b-one")
    assert (await gateway.asked(method, path, headers=headers)).status == 501
    assert list(gateway.stores[TENANTS["mine"]].contents["b-one"].versions) == []


async def test_a_tenant_that_asks_too_much_is_told_to_slow_down_and_no_other() -> None:
    gateway = Gateway(requests_per_second=RATE)
    burst = round(RATE * BURST_SECONDS)
    answered = [await gateway.asked("PUT", f"/bucket-{number}") for number in range(burst + 5)]
    assert [answer.status for answer in answered] == [200] * burst + [503] * 5
    assert b"<Code>SlowDown</Code><Message>More than 10 requests a second" in answered[-1].body
    assert ("Retry-After", "2") in answered[-1].headers
    assert len(gateway.stores[TENANTS["mine"]].contents) == burst
    assert (await gateway.asked("PUT", "/bucket", "theirs")).status == 200


async def test_who_slowed_down_is_served_at_its_rate_again() -> None:
    gateway = Gateway(requests_per_second=RATE)
    while (await gateway.asked("GET", "/")).status == 200:
        pass
    for _ in range(3):
        gateway.now_s += 0.5
        assert [(await gateway.asked("GET", "/")).status for _ in range(6)] == [*[200] * 5, 503]
    gateway.now_s += 3_600.0
    assert sum([(await gateway.asked("GET", "/")).status == 200 for _ in range(100)]) == round(RATE * BURST_SECONDS)


async def test_whoever_knows_no_secret_uses_up_nobodys_rate() -> None:
    gateway = Gateway(requests_per_second=RATE)
    for _ in range(100):
        assert (await gateway.asked("GET", "/", "nobody")).status == 403
    assert (await gateway.asked("GET", "/")).status == 200


async def test_answers_are_counted_by_operation_tenant_and_status() -> None:
    gateway = Gateway()
    for path in ("/b-one", "/b-one/k", "/b-one/k"):
        await gateway.asked("PUT", path)
    await gateway.asked("GET", "/b-one/k")
    await gateway.asked("GET", "/b-one/never")
    await gateway.asked("GET", "/b-one/k", "theirs")
    await gateway.asked("GET", "/b-one/k", 'nobody"}\n')
    answers = [line for line in gateway.metrics.text().splitlines() if line.startswith("grandest_s3_answers_total")]
    mine, theirs = (tenant.hex()[:16] for tenant in TENANTS.values())
    assert answers == [
        f'grandest_s3_answers_total{{operation="CreateBucket",tenant="{mine}",status="200"}} 1',
        'grandest_s3_answers_total{operation="GetObject",tenant="",status="400"} 1',
        f'grandest_s3_answers_total{{operation="GetObject",tenant="{mine}",status="200"}} 1',
        f'grandest_s3_answers_total{{operation="GetObject",tenant="{mine}",status="404"}} 1',
        f'grandest_s3_answers_total{{operation="GetObject",tenant="{theirs}",status="404"}} 1',
        f'grandest_s3_answers_total{{operation="PutObject",tenant="{mine}",status="200"}} 2',
    ]


async def test_a_conditional_deletion_of_nothing_does_nothing() -> None:
    gateway = Gateway()
    await gateway.asked("PUT", "/b-one")
    enabled = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
    assert (await gateway.asked("PUT", "/b-one?versioning", body=enabled)).status == 200
    versions = gateway.stores[TENANTS["mine"]].contents["b-one"].versions
    for etag in ("*", '"other"'):
        assert (await gateway.asked("DELETE", "/b-one/k", headers={"If-Match": etag})).status == 204
    assert versions == {}
    await gateway.asked("PUT", "/b-one/k")
    assert (await gateway.asked("DELETE", "/b-one/k", headers={"If-Match": '"other"'})).status == 412
    assert (await gateway.asked("DELETE", "/b-one/k", headers={"If-Match": "*"})).status == 204
    assert (await gateway.asked("DELETE", "/b-one/k", headers={"If-Match": '"other"'})).status == 412, "a marker"
    assert [version.is_marker for version in versions["k"]] == [True, False]


async def test_tags_are_told_in_order_of_their_names() -> None:
    gateway = Gateway()
    await gateway.asked("PUT", "/b-one")
    await gateway.asked("PUT", "/b-one/k", headers={"x-amz-tagging": "foo=bar&bar"})
    told = (await gateway.asked("GET", "/b-one/k?tagging")).body
    assert told.index(b"<Key>bar</Key>") < told.index(b"<Key>foo</Key>")


@pytest.mark.parametrize(("date", "status"), [("2030-01-02T00:00:00Z", 200), ("2030-01-02T00:00:01Z", 400)])
async def test_what_expires_at_a_date_does_so_at_midnight(date: str, status: int) -> None:
    gateway = Gateway()
    await gateway.asked("PUT", "/b-one")
    rule = f"<Rule><Prefix/><Status>Enabled</Status><Expiration><Date>{date}</Date></Expiration></Rule>"
    body = f"<LifecycleConfiguration>{rule}</LifecycleConfiguration>".encode()
    assert (await gateway.asked("PUT", "/b-one?lifecycle", body=body)).status == status
