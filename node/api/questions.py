"""How a question to the API is read: its body, its parts in hex, its numbers, each within its bounds."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from consensus.errors import GrandestError, RejectionError, RejectionReason
from node.api.answers import EntriesQuestion, SegmentsQuestion, error_answer, refusal_answer
from node.api.bucket_answers import BucketsQuestion, VersionsQuestion
from node.submission import SUBMISSION_BYTES_MAX
from storage.identifiers import BucketTag, NameTag, TenantId

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.responses import Response

FIND_BYTES_MAX: Final = 128 * 1024
"""FOUND_MAX versions of 110 characters, names of 70, or ids of 67, several times over."""
HEAD_BYTES_MAX: Final = 16 * 1024
"""Path, query and headers of a request, without the few bytes between them."""
WAIT_S_MAX: Final = 30.0
HANDLE_BYTES: Final = 16
HASH_BYTES: Final = 32

QuestionT = TypeVar("QuestionT", EntriesQuestion, SegmentsQuestion, VersionsQuestion, BucketsQuestion)


class MissingError(GrandestError):
    """Nothing is known by that name: 404."""


class PrunedError(GrandestError):
    """It was here, and is kept by others: 410."""


def answering(view: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """Turn the expected errors of a view into answers."""

    async def answer(request: Request) -> Response:
        try:
            _check_head(request)
            return await view(request)
        except MissingError as error:
            return error_answer("not_found", str(error), "check the name, or ask again later", 404)
        except PrunedError as error:
            return error_answer("pruned", str(error), "ask a node that keeps the whole history", 410)
        except GrandestError as error:
            return refusal_answer(error)
        except ClientDisconnect:
            return error_answer("disconnected", "the client left", "", 400)

    return answer


def _check_head(request: Request) -> None:
    """Refuse a long head; the server's own bound holds only for one that comes in pieces."""
    fields = sum(len(name) + len(value) for name, value in request.headers.raw)
    head_bytes = len(request.url.path) + len(request.url.query) + fields
    if head_bytes > HEAD_BYTES_MAX:
        detail = f"a head of {head_bytes} bytes, {HEAD_BYTES_MAX} allowed"
        raise RejectionError(RejectionReason.OVERSIZED, detail)


async def read_body(request: Request, bytes_max: int = SUBMISSION_BYTES_MAX) -> bytes:
    """Read a body within its bound, whatever length it announces."""
    body = bytearray()
    async with aclosing(request.stream()) as pieces:
        async for piece in pieces:
            body += piece
            if len(body) > bytes_max:
                raise RejectionError(RejectionReason.OVERSIZED, f"this body has at most {bytes_max} bytes")
    return bytes(body)


def read_question(body: bytes, kind: type[QuestionT]) -> QuestionT:
    """Read the JSON of a body or raise RejectionError(MALFORMED)."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise RejectionError(RejectionReason.MALFORMED, f"the body: {error}") from error


def entry_name(request: Request) -> tuple[TenantId, BucketTag, NameTag]:
    """Return the tenant, bucket and name of a path."""
    names = request.path_params
    return (
        TenantId(read_hex(names["tenant"], HANDLE_BYTES, "tenant")),
        BucketTag(read_hex(names["bucket"], HANDLE_BYTES, "bucket")),
        NameTag(read_hex(names["name"], HANDLE_BYTES, "name")),
    )


def listing_place(text: str) -> tuple[BucketTag, NameTag]:
    """Read BUCKET.NAME."""
    bucket, _, name = text.partition(".")
    return BucketTag(read_hex(bucket, HANDLE_BYTES, "after")), NameTag(read_hex(name, HANDLE_BYTES, "after"))


def read_hex(text: str, byte_count: int, what: str) -> bytes:
    """Read so many bytes in hex or raise RejectionError(MALFORMED)."""
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != byte_count or not value or len(text) != 2 * byte_count:
        raise RejectionError(RejectionReason.MALFORMED, f"{what}: {2 * byte_count} hex digits are needed")
    return value


def whole_number(text: str, what: str) -> int:
    """Read a whole number or raise RejectionError(MALFORMED)."""
    if not text.isascii() or not text.isdigit() or len(text) > len(str(2**53)):
        raise RejectionError(RejectionReason.MALFORMED, f"{what}: a whole number is needed")
    return int(text)


def wait_seconds(text: str) -> float:
    """Read how long to wait, at most WAIT_S_MAX, or raise RejectionError(MALFORMED)."""
    try:
        seconds = float(text)
    except ValueError as error:
        raise RejectionError(RejectionReason.MALFORMED, "wait_s: a number of seconds is needed") from error
    if not seconds >= 0:  # also what is no number
        raise RejectionError(RejectionReason.MALFORMED, "wait_s: a number of seconds is needed, 0 or more")
    return min(seconds, WAIT_S_MAX)
