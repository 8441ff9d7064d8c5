"""GET /v1/reads and /v1/reads/NAME: what members signed for what they read of this holder (rule S66)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import trio
from starlette.responses import Response

from node.api.answers import OCTETS, json_answer
from node.api.questions import MissingError, whole_number

if TYPE_CHECKING:
    from starlette.requests import Request

    from node.read_book import ReadBook

PAGE_BYTES_MAX: Final = 1024 * 1024
NAME_LENGTH_MAX: Final = 64


class ReadsFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of receipts."""

    name: str
    epoch: int
    bytes: int


class ReadsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/reads: the oldest first."""

    files: list[ReadsFile]


class ReadViews:
    """What a holder keeps, page by page."""

    def __init__(self, book: ReadBook) -> None:
        self._book = book

    async def reads(self, _request: Request) -> Response:
        """List the files."""
        found = await trio.to_thread.run_sync(self._book.files)
        files = [ReadsFile(name=kept.name, epoch=kept.epoch, bytes=kept.byte_count) for kept in found]
        return json_answer(ReadsAnswer(files=files))

    async def page(self, request: Request) -> Response:
        """Give up to PAGE_BYTES_MAX of a file from `from` on; empty at its end."""
        name = str(request.path_params["name"])[:NAME_LENGTH_MAX]
        offset = whole_number(request.query_params.get("from", "0"), "from")
        found = await trio.to_thread.run_sync(self._book.read, name, offset, PAGE_BYTES_MAX)
        if found is None:
            raise MissingError(f"no receipts are kept under the name {name}")
        return Response(found, media_type=OCTETS)
