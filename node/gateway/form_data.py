"""A multipart/form-data body read once, from front to back: small fields, then one file of any length (RFC 7578).

S3 reads nothing behind the file, so neither does this reader: what follows it is ignored.
"""

from __future__ import annotations

import re
from email.message import Message
from typing import TYPE_CHECKING, Final

from node.gateway.errors import S3Code, S3Error

if TYPE_CHECKING:
    from node.gateway.http_server import BodyReader

FIELDS_BYTES_MAX: Final = 20 * 1024
"""Of everything before the file, as in S3."""
FIELDS_MAX: Final = 100
BOUNDARY_LENGTH_MAX: Final = 200
_NAME: Final = re.compile(r"[\x20-\x7e\x80-\xff]{1,200}\Z")


class FormReader:
    """Implements BodyReader over the file of a form."""

    def __init__(self, reader: BodyReader, content_type: str) -> None:
        """Read from a request's body.

        Raises:
            S3Error: MalformedPOSTRequest when it is no form.
        """
        header = Message()
        header["Content-Type"] = content_type
        boundary = header.get_param("boundary")
        if header.get_content_type() != "multipart/form-data" or not isinstance(boundary, str):
            raise S3Error(S3Code.MALFORMED_POST)
        if not 1 <= len(boundary) <= BOUNDARY_LENGTH_MAX:
            raise S3Error(S3Code.MALFORMED_POST)
        self._delimiter = b"\r\n--" + boundary.encode("latin-1", "replace")
        self._reader = reader
        self._buffer = bytearray(b"\r\n")
        """What was received and not given out; the first delimiter may lack its line end."""
        self._is_over = False
        self._given_bytes = 0
        self._bytes_min = 0
        self._bytes_max: int | None = None
        self.file_name = ""

    @property
    def content_length(self) -> int | None:
        """Return None: only the end of the form tells where its file ends."""
        return None

    def limit(self, bytes_min: int, bytes_max: int | None) -> None:
        """Bound the file's length, as a policy says."""
        self._bytes_min, self._bytes_max = bytes_min, bytes_max

    async def read_fields(self) -> dict[str, str]:
        """Return the fields before the file, names in lower case; the file is read by read_some().

        Raises:
            S3Error: Malformed, too long, or without a file.
        """
        fields: dict[str, str] = {}
        await self._until(self._delimiter)
        for _ in range(FIELDS_MAX):
            if (await self._exactly(2)) != b"\r\n":
                raise S3Error(S3Code.INVALID_ARGUMENT, "POST requires exactly one file upload per request.")
            name, file_name = _disposition(await self._until(b"\r\n\r\n"))
            if name == "file":
                self.file_name = file_name
                return fields
            text = await self._until(self._delimiter)
            try:
                fields.setdefault(name, text.decode())
            except UnicodeDecodeError as error:
                raise S3Error(S3Code.MALFORMED_POST) from error
        raise S3Error(S3Code.MAX_POST_PRE_DATA)

    async def read_some(self) -> memoryview | None:
        """Return the file's next bytes, None at its end."""
        while not self._is_over:
            end = self._buffer.find(self._delimiter)
            if end >= 0:
                self._is_over = True
                return self._given(end)
            safe = len(self._buffer) - len(self._delimiter)
            if safe > 0:
                return self._given(safe)
            await self._receive()
        if self._given_bytes < self._bytes_min:
            raise S3Error(S3Code.ENTITY_TOO_SMALL)
        return None

    def _given(self, byte_count: int) -> memoryview:
        piece = memoryview(bytes(self._buffer[:byte_count]))
        del self._buffer[:byte_count]
        self._given_bytes += byte_count
        if self._bytes_max is not None and self._given_bytes > self._bytes_max:
            raise S3Error(S3Code.ENTITY_TOO_LARGE)
        return piece

    async def _until(self, mark: bytes) -> bytes:
        while (end := self._buffer.find(mark)) < 0:
            if len(self._buffer) > FIELDS_BYTES_MAX:
                raise S3Error(S3Code.MAX_POST_PRE_DATA)
            await self._receive()
        found = bytes(self._buffer[:end])
        del self._buffer[: end + len(mark)]
        return found

    async def _exactly(self, byte_count: int) -> bytes:
        while len(self._buffer) < byte_count:
            await self._receive()
        found = bytes(self._buffer[:byte_count])
        del self._buffer[:byte_count]
        return found

    async def _receive(self) -> None:
        piece = await self._reader.read_some()
        if piece is None:
            raise S3Error(S3Code.MALFORMED_POST)
        self._buffer += piece


def _disposition(head: bytes) -> tuple[str, str]:
    """Return a part's name in lower case, and its file's name."""
    for line in head.split(b"\r\n"):
        name, _, text = line.partition(b":")
        if name.strip().lower() == b"content-disposition":
            header = Message()
            header["Content-Disposition"] = text.strip().decode("utf-8", "replace")
            field = header.get_param("name", header="content-disposition")
            file_name = header.get_param("filename", "", header="content-disposition")
            if isinstance(field, str) and _NAME.match(field):
                shown = file_name if isinstance(file_name, str) else ""
                return field.lower(), shown.replace("\\", "/").rpartition("/")[2]
    raise S3Error(S3Code.MALFORMED_POST)
