"""One request on its way through the gateway: who asks, for what, and what every answer shares."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from node.gateway.errors import S3Code, S3Error
from node.gateway.http_server import HttpAnswer

if TYPE_CHECKING:
    from node.gateway.access_keys import AccessKey
    from node.gateway.bodies import BodyRules, ObjectBody
    from node.gateway.operations import Operation, Target
    from node.gateway.signatures import RequestHead
    from node.gateway.store import Bucket, Store

XML = ("Content-Type", "application/xml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request whose sender is known and may do what it asks."""

    head: RequestHead
    target: Target
    operation: Operation
    access_key: AccessKey
    store: Store
    body: ObjectBody
    rules: BodyRules
    request_id: str
    now_ms: int

    @property
    def owner(self) -> tuple[str, str]:
        """Return the tenant as S3 names owners: a handle and a name for people."""
        handle = self.access_key.tenant.hex()
        return handle, f"tenant-{handle[:8]}"

    async def bucket(self) -> Bucket:
        """Return the bucket that the request names.

        Raises:
            S3Error: NoSuchBucket.
        """
        return await self.bucket_named(self.target.bucket)

    async def bucket_named(self, name: str) -> Bucket:
        """Return a bucket.

        Raises:
            S3Error: NoSuchBucket.
        """
        found = await self.store.bucket(name)
        if found is None:
            raise S3Error(S3Code.NO_SUCH_BUCKET, fields={"BucketName": name})
        expected = self.head.header("x-amz-expected-bucket-owner")
        if expected is not None and expected != self.owner[0]:
            raise S3Error(S3Code.ACCESS_DENIED)
        return found


def xml_answer(body: bytes, *headers: tuple[str, str], status: int = HTTPStatus.OK) -> HttpAnswer:
    """Return an answer with a document."""
    return HttpAnswer(status=status, headers=(XML, *headers), body=body)


def empty_answer(*headers: tuple[str, str], status: int = HTTPStatus.OK) -> HttpAnswer:
    """Return an answer without a body."""
    return HttpAnswer(status=status, headers=headers)
