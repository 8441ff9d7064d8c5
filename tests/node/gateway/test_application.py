"""Who may do what: requests to the application over a store in memory, signed by botocore."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from node.clock import now_ms
from node.gateway.access_keys import AccessKey, AccessSecret, Verb
from node.gateway.application import Application
from node.gateway.http_server import HttpAnswer, HttpRequest
from node.gateway.metrics import Metrics
from node.gateway.store import Store
from storage.identifiers import TenantId
from tests.node.gateway.memory_store import MemoryStore
from tests.node.gateway.test_signatures import head_of

MINE, THEIRS = TenantId(b"m" * 16), TenantId(b"t" * 16)
SECRET = "s" * 40
ATTEMPTS = 400


@dataclass
class MemoryTenants:
    """Implements Tenants."""

    keys: dict[str, AccessKey] = field(default_factory=dict[str, AccessKey])
    stores: dict[TenantId, MemoryStore] = field(default_factory=dict[TenantId, MemoryStore])

    def access_key(self, name: str) -> AccessKey | None:
        return self.keys.get(name)

    def store(self, access_key: AccessKey) -> Store:
        return self.stores[access_key.tenant]


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


def tenants_of(*access_keys: AccessKey) -> MemoryTenants:
    return MemoryTenants(
        keys={access_key.access_key: access_key for access_key in access_keys},
        stores={MINE: MemoryStore(), THEIRS: MemoryStore()},
    )


def access(
    name: str,
    tenant: TenantId = MINE,
    verbs: frozenset[Verb] = frozenset(Verb),
    buckets: frozenset[str] | None = None,
    expires_ms: int | None = None,
) -> AccessKey:
    return AccessKey(
        access_key=name,
        secret=AccessSecret(SECRET.encode()),
        tenant=tenant,
        verbs=verbs,
        buckets=buckets,
        expires_ms=expires_ms,
    )


async def asked(
    tenants: MemoryTenants,
    method: str,
    path: str,
    access_key: str = "mine",
    body: bytes = b"",
    *,
    headers: dict[str, str] | None = None,
) -> HttpAnswer:
    request = AWSRequest(method=method, url=f"http://127.0.0.1:9000{path}", headers=headers or {}, data=body)
    S3SigV4Auth(Credentials(access_key, SECRET), "s3", "grand-est").add_auth(request)
    head = head_of(request)
    application = Application(tenants, Metrics())
    return await application.answer(
        HttpRequest(head=head, request_id="R", peer="p", is_secure=False, body=SmallBody(body))
    )


async def test_a_tenant_sees_nothing_of_another_one() -> None:
    tenants = tenants_of(access("mine"), access("theirs", THEIRS))
    for name in ("mine", "theirs"):
        assert (await asked(tenants, "PUT", "/same-name", name)).status == 200
        assert (await asked(tenants, "PUT", "/same-name/key", name, name.encode())).status == 200
    assert (await asked(tenants, "PUT", "/only-theirs", "theirs")).status == 200
    choice = random.Random(5)
    for _ in range(ATTEMPTS):
        method = choice.choice(["GET", "HEAD", "DELETE", "POST"])
        path = "/only-theirs" + choice.choice(["", "/", "/key", "/../same-name/key", "?acl", "?policy", "/key?acl"])
        assert (await asked(tenants, method, path)).status in {400, 403, 404, 405, 411, 501}
    assert b"only-theirs" not in (await asked(tenants, "GET", "/")).body
    assert list(tenants.stores[THEIRS].contents) == ["same-name", "only-theirs"]
    copied = await asked(tenants, "PUT", "/same-name/copy", headers={"x-amz-copy-source": "/only-theirs/key"})
    assert copied.status == 404


async def test_an_access_key_does_what_its_scope_says_and_nothing_else() -> None:
    tenants = tenants_of(
        access("mine"),
        access("reader", verbs=frozenset({Verb.READ, Verb.LIST}), buckets=frozenset({"b-one"})),
        access("gone", expires_ms=now_ms() - 1),
    )
    for bucket in ("b-one", "b-two"):
        await asked(tenants, "PUT", f"/{bucket}")
        await asked(tenants, "PUT", f"/{bucket}/k", body=b"x")
    assert (await asked(tenants, "GET", "/b-one/k", "reader")).status == 200
    for method, path in (("PUT", "/b-one/k"), ("DELETE", "/b-one/k"), ("DELETE", "/b-one"), ("PUT", "/b-three")):
        assert (await asked(tenants, method, path, "reader")).status == 403
    assert (await asked(tenants, "GET", "/b-two/k", "reader")).status == 403
    listed = await asked(tenants, "GET", "/", "reader")
    assert b"b-one" in listed.body
    assert b"b-two" not in listed.body
    assert (await asked(tenants, "GET", "/b-one/k", "gone")).status == 403


async def test_a_copy_cannot_leave_the_scope_of_its_key() -> None:
    tenants = tenants_of(access("mine"), access("one", buckets=frozenset({"b-one"})))
    for bucket in ("b-one", "b-two"):
        await asked(tenants, "PUT", f"/{bucket}")
        await asked(tenants, "PUT", f"/{bucket}/k", body=b"x")
    copied = await asked(tenants, "PUT", "/b-one/stolen", "one", headers={"x-amz-copy-source": "/b-two/k"})
    assert copied.status == 403


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("PUT", "/b-one?analytics", {}),
        ("PUT", "/b-one?website", {}),
        ("PUT", "/b-one?encryption", {}),
        ("GET", "/b-one/k?torrent", {}),
        ("PUT", "/b-one/k", {"x-amz-server-side-encryption": "AES256"}),
        ("PUT", "/b-one/k", {"x-amz-storage-class": "GLACIER"}),
        ("PUT", "/b-one/k", {"x-amz-acl": "public-read"}),
    ],
)
async def test_what_is_not_supported_is_never_a_false_success(method: str, path: str, headers: dict[str, str]) -> None:
    tenants = tenants_of(access("mine"))
    await asked(tenants, "PUT", "/b-one")
    assert (await asked(tenants, method, path, headers=headers)).status == 501
    assert list(tenants.stores[MINE].contents["b-one"].versions) == []


@pytest.mark.parametrize(
    "body",
    [
        b"<Delete><Object><Key>a</Key></Object>",
        b'<!DOCTYPE d [<!ENTITY a "aaaa">]><Delete><Object><Key>&a;</Key></Object></Delete>',
        b'<!DOCTYPE d SYSTEM "file:///etc/passwd"><Delete/>',
        b"<Delete></Delete>",
        b"<Other/>",
        b"\xff\xfe",
        b"<a>" * 1_000,
    ],
)
async def test_hostile_documents_are_malformed(body: bytes) -> None:
    tenants = tenants_of(access("mine"))
    await asked(tenants, "PUT", "/b-one")
    answer = await asked(tenants, "POST", "/b-one?delete", body=body)
    assert answer.status == 400
    assert b"MalformedXML" in answer.body


async def test_a_policy_takes_back_what_a_key_allows() -> None:
    tenants = tenants_of(access("mine"))
    await asked(tenants, "PUT", "/b-one")
    await asked(tenants, "PUT", "/b-one/secret/k", body=b"x")
    policy = (
        b'{"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*", "Action": "s3:Get*",'
        b' "Resource": "arn:aws:s3:::b-one/secret/*"}]}'
    )
    assert (await asked(tenants, "PUT", "/b-one?policy", body=policy)).status == 204
    assert (await asked(tenants, "GET", "/b-one/secret/k")).status == 403
    assert (await asked(tenants, "PUT", "/b-one/secret/k", body=b"y")).status == 200
    for action, method, path in (
        ("s3:PutObject", "POST", "/b-one/secret/k?uploads"),
        ("s3:PutObject", "PUT", "/b-one/secret/k"),
        ("s3:DeleteObject", "DELETE", "/b-one/secret/k"),
        ("s3:GetObject", "HEAD", "/b-one/secret/k"),
    ):
        denied = policy.replace(b"s3:Get*", action.encode())
        assert (await asked(tenants, "PUT", "/b-one?policy", body=denied)).status == 204
        assert (await asked(tenants, method, path)).status == 403
    names = b"<Delete><Object><Key>secret/k</Key></Object></Delete>"
    await asked(tenants, "PUT", "/b-one?policy", body=policy.replace(b"s3:Get*", b"s3:DeleteObject"))
    assert b"AccessDenied" in (await asked(tenants, "POST", "/b-one?delete", body=names)).body
    assert (await asked(tenants, "DELETE", "/b-one?policy")).status == 204
    assert (await asked(tenants, "GET", "/b-one/secret/k")).status == 200
