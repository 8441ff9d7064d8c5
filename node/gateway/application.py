"""From a request to its answer: who asks, for what, may they, do it, and say what came of it.

    answer(request)
      read_target, read_operation      what is asked; unknown sub-resources are refused before anything else
      read_authorization               who says so; anonymous requests are refused, but for browsers' preflights
      check_signature                  is it true
      TenantRates                      has the tenant asked too much
      AccessKey.admits, bucket policy  may they
      the operation                    one function each, in the modules of their concept
      errors                           S3Error and every expected error: one document, one place (errors.py)

Every answer carries x-amz-request-id and, when the ledger could not be asked as it should, x-grandest-consistency.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol

from consensus.errors import GrandestError
from node.gateway import (
    bucket_settings,
    buckets,
    lifecycle_documents,
    listings,
    multipart,
    object_reads,
    object_settings,
    object_writes,
    post_forms,
)
from node.gateway.bodies import BodyOf, ObjectBody, read_rules
from node.gateway.call import XML, Call
from node.gateway.cors import cors_headers, preflight
from node.gateway.errors import S3Code, S3Error, s3_error_of
from node.gateway.http_server import HttpAnswer
from node.gateway.markup import bare_document, leaf
from node.gateway.operations import Operation, read_operation, read_target
from node.gateway.permissions import check_policy
from node.gateway.signatures import check_signature, read_authorization

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from node.gateway.access_keys import AccessKey
    from node.gateway.http_server import HttpRequest
    from node.gateway.operations import Target
    from node.gateway.rates import TenantRates
    from node.gateway.signatures import Authorization, Seal
    from node.gateway.store import Store

LOGGER: Final = logging.getLogger(__name__)
ACCESS: Final = logging.getLogger("grandest.access")


class Tenants(Protocol):
    """Who may ask, and where their objects are."""

    def access_key(self, name: str) -> AccessKey | None:
        """Return an access key by its name."""
        ...

    def store(self, access_key: AccessKey) -> Store:
        """Return the store of an access key's tenant."""
        ...


class Meter(Protocol):
    """Counts what was answered."""

    def count(self, operation: str, tenant: str, status: int, seconds: float) -> None:
        """Take one answer."""
        ...


OPERATIONS: Final[Mapping[Operation, Callable[[Call], Awaitable[HttpAnswer]]]] = {
    Operation.LIST_BUCKETS: buckets.list_buckets,
    Operation.CREATE_BUCKET: buckets.create_bucket,
    Operation.HEAD_BUCKET: buckets.head_bucket,
    Operation.DELETE_BUCKET: buckets.delete_bucket,
    Operation.GET_LOCATION: buckets.get_location,
    Operation.GET_VERSIONING: buckets.get_versioning,
    Operation.PUT_VERSIONING: buckets.put_versioning,
    Operation.GET_LOCK: buckets.get_lock,
    Operation.PUT_LOCK: buckets.put_lock,
    Operation.LIST_OBJECTS: listings.list_objects,
    Operation.LIST_OBJECTS_V2: listings.list_objects_v2,
    Operation.LIST_VERSIONS: listings.list_versions,
    Operation.DELETE_OBJECTS: object_writes.delete_objects,
    Operation.GET_BUCKET_ACL: bucket_settings.get_acl,
    Operation.PUT_BUCKET_ACL: bucket_settings.put_acl,
    Operation.GET_OBJECT_ACL: bucket_settings.get_acl,
    Operation.PUT_OBJECT_ACL: bucket_settings.put_acl,
    Operation.GET_CORS: bucket_settings.get_cors,
    Operation.PUT_CORS: bucket_settings.put_cors,
    Operation.DELETE_CORS: bucket_settings.delete_cors,
    Operation.GET_LIFECYCLE: lifecycle_documents.get_lifecycle,
    Operation.PUT_LIFECYCLE: lifecycle_documents.put_lifecycle,
    Operation.DELETE_LIFECYCLE: lifecycle_documents.delete_lifecycle,
    Operation.GET_POLICY: bucket_settings.get_policy,
    Operation.PUT_POLICY: bucket_settings.put_policy,
    Operation.DELETE_POLICY: bucket_settings.delete_policy,
    Operation.GET_POLICY_STATUS: bucket_settings.get_policy_status,
    Operation.GET_BUCKET_TAGS: bucket_settings.get_tags,
    Operation.PUT_BUCKET_TAGS: bucket_settings.put_tags,
    Operation.DELETE_BUCKET_TAGS: bucket_settings.delete_tags,
    Operation.GET_NOTIFICATION: bucket_settings.get_notification,
    Operation.PUT_NOTIFICATION: bucket_settings.put_notification,
    Operation.GET_PUBLIC_BLOCK: bucket_settings.get_public_block,
    Operation.PUT_PUBLIC_BLOCK: bucket_settings.put_public_block,
    Operation.DELETE_PUBLIC_BLOCK: bucket_settings.delete_public_block,
    Operation.GET_OWNERSHIP: bucket_settings.get_ownership,
    Operation.PUT_OWNERSHIP: bucket_settings.put_ownership,
    Operation.DELETE_OWNERSHIP: bucket_settings.delete_ownership,
    Operation.GET_ENCRYPTION: bucket_settings.get_encryption,
    Operation.GET_WEBSITE: bucket_settings.get_website,
    Operation.GET_REPLICATION: bucket_settings.get_replication,
    Operation.GET_LOGGING: bucket_settings.get_logging,
    Operation.GET_REQUEST_PAYMENT: bucket_settings.get_request_payment,
    Operation.GET_ACCELERATE: bucket_settings.get_accelerate,
    Operation.LIST_UPLOADS: multipart.list_uploads,
    Operation.GET_OBJECT: object_reads.get_object,
    Operation.HEAD_OBJECT: object_reads.get_object,
    Operation.GET_ATTRIBUTES: object_reads.get_attributes,
    Operation.GET_PROOF: object_reads.get_proof,
    Operation.PUT_OBJECT: object_writes.put_object,
    Operation.COPY_OBJECT: object_writes.copy_object,
    Operation.DELETE_OBJECT: object_writes.delete_object,
    Operation.GET_OBJECT_TAGS: object_settings.get_tags,
    Operation.PUT_OBJECT_TAGS: object_settings.put_tags,
    Operation.DELETE_OBJECT_TAGS: object_settings.delete_tags,
    Operation.GET_RETENTION: object_settings.get_retention,
    Operation.PUT_RETENTION: object_settings.put_retention,
    Operation.GET_HOLD: object_settings.get_hold,
    Operation.PUT_HOLD: object_settings.put_hold,
    Operation.CREATE_UPLOAD: multipart.create_upload,
    Operation.UPLOAD_PART: multipart.upload_part,
    Operation.UPLOAD_PART_COPY: multipart.upload_part_copy,
    Operation.COMPLETE_UPLOAD: multipart.complete_upload,
    Operation.ABORT_UPLOAD: multipart.abort_upload,
    Operation.LIST_PARTS: multipart.list_parts,
}
FENCELESS: Final = frozenset({Operation.PUT_OBJECT, Operation.UPLOAD_PART, Operation.PREFLIGHT})
"""What the ledger judges: it needs no view of our own that is up to date, but of the bucket's being there."""


class Application:
    """Implements Handler: S3."""

    def __init__(
        self,
        tenants: Tenants,
        meter: Meter,
        rates: TenantRates,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._tenants = tenants
        self._meter = meter
        self._rates = rates
        self._now_ms = now_ms

    async def answer(self, request: HttpRequest) -> HttpAnswer:
        """Return the answer to one request."""
        began = time.perf_counter()
        served = _Served()
        try:
            answer = await self._serve(request, served)
        except GrandestError as error:
            answer = self.refusal(request, error)
        except Exception:  # one request that meets a bug of ours must not end the requests of all tenants
            LOGGER.exception("request %s met a bug", request.request_id)
            answer = self.refusal(request, S3Error(S3Code.INTERNAL_ERROR))
        extra = [("x-amz-request-id", request.request_id), ("Server", "grandest"), *served.headers]
        answer = HttpAnswer(
            status=answer.status,
            headers=(*answer.headers, *extra),
            body=answer.body,
            write=answer.write,
            content_length=answer.content_length,
        )
        self._note(request, served, answer, time.perf_counter() - began)
        return answer

    def refusal(self, request: HttpRequest, error: GrandestError) -> HttpAnswer:
        """Return the answer that stands for an error."""
        refused = s3_error_of(error)
        status = refused.code.status
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR and refused.code is not S3Code.NOT_IMPLEMENTED:
            LOGGER.warning("request %s: %s", request.request_id, error)
        body = b""
        if status != HTTPStatus.NOT_MODIFIED and request.head.method != "HEAD":
            body = bare_document(
                "Error",
                leaf("Code", refused.code.code),
                leaf("Message", refused.detail),
                *(leaf(name, text) for name, text in refused.fields.items()),
                leaf("Resource", request.head.raw_path),
                leaf("RequestId", request.request_id),
                leaf("HostId", "grandest"),
            )
        return HttpAnswer(status=status, headers=(XML, *refused.headers), body=body)

    async def _serve(self, request: HttpRequest, served: _Served) -> HttpAnswer:
        head = request.head
        target = read_target(head.raw_path)
        operation = served.operation = read_operation(head, target)
        if operation is Operation.POST_OBJECT:
            return await post_forms.post_object(request, target, self._tenants, self._rates, self._now_ms())
        if operation is Operation.PREFLIGHT:
            return preflight(head)
        now_ms = self._now_ms()
        authorization = read_authorization(head, datetime.fromtimestamp(now_ms / 1000, UTC))
        if authorization is None:
            raise S3Error(S3Code.ACCESS_DENIED)
        access_key, seal = self._sender(request, authorization)
        served.tenant = access_key.tenant.hex()
        self._rates.take(access_key.tenant)
        if (
            not access_key.admits(operation.verb, target.bucket or None, now_ms)
            and operation is not Operation.LIST_BUCKETS
        ):
            raise S3Error(S3Code.ACCESS_DENIED)
        call = self._call(request, target, operation, _Sender(authorization, access_key, seal), now_ms)
        return await self._carry_out(call, served)

    def _call(self, request: HttpRequest, target: Target, operation: Operation, sender: _Sender, now_ms: int) -> Call:
        rules = read_rules(
            request.head,
            sender.authorization,
            request.body.content_length,
            # A completion's checksum is that of the object, not of the list of parts.
            about=BodyOf.OBJECT if operation is not Operation.COMPLETE_UPLOAD else BodyOf.NOTHING_TOLD,
        )
        return Call(
            head=request.head,
            target=target,
            operation=operation,
            access_key=sender.access_key,
            store=self._tenants.store(sender.access_key),
            body=ObjectBody(request.body, rules, sender.seal),
            rules=rules,
            request_id=request.request_id,
            now_ms=now_ms,
        )

    async def _carry_out(self, call: Call, served: _Served) -> HttpAnswer:
        operation, target = call.operation, call.target
        if operation not in FENCELESS and not await call.store.fence():
            served.headers.append(("x-grandest-consistency", "local"))
        carry_out = OPERATIONS.get(operation)
        if carry_out is None:
            raise S3Error(S3Code.NOT_IMPLEMENTED, f"{operation.shown} is not implemented")
        if target.bucket and operation is not Operation.CREATE_BUCKET:
            await _check_policy(call, served)
        return await carry_out(call)

    def _sender(self, request: HttpRequest, authorization: Authorization) -> tuple[AccessKey, Seal]:
        access_key = self._tenants.access_key(authorization.access_key)
        if access_key is None:
            raise S3Error(S3Code.INVALID_ACCESS_KEY, fields={"AWSAccessKeyId": authorization.access_key[:64]})
        return access_key, check_signature(authorization, request.head, access_key.secret)

    def _note(self, request: HttpRequest, served: _Served, answer: HttpAnswer, seconds: float) -> None:
        operation = "Unknown" if served.operation is None else served.operation.shown
        self._meter.count(operation, served.tenant, answer.status, seconds)
        ACCESS.info(
            "%s %s %s tenant=%s status=%d bytes=%d ms=%.1f",
            request.request_id,
            request.peer,
            operation,
            served.tenant[:8] or "-",
            answer.status,
            len(answer.body) if answer.content_length is None else answer.content_length,
            seconds * 1000,
        )


@dataclass(frozen=True, slots=True)
class _Sender:
    """Who sent a request, checked."""

    authorization: Authorization
    access_key: AccessKey
    seal: Seal


class _Served:
    """What is learnt of a request on its way."""

    __slots__ = ("headers", "operation", "tenant")

    def __init__(self) -> None:
        self.operation: Operation | None = None
        self.tenant = ""
        self.headers: list[tuple[str, str]] = []


async def _check_policy(call: Call, served: _Served) -> None:
    """Judge the bucket's policy, whose tenant may always change it; and tell browsers what CORS lets them see."""
    bucket = await call.store.bucket(call.target.bucket)
    if bucket is None:
        return
    served.headers += cors_headers(call.head, bucket)
    if call.operation not in {Operation.PUT_POLICY, Operation.GET_POLICY, Operation.DELETE_POLICY}:
        check_policy(bucket, call.operation, call.target.name)
