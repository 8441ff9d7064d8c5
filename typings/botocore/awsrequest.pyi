"""What the tests use of botocore's requests."""

from collections.abc import ItemsView

class HTTPHeaders:
    def items(self) -> ItemsView[str, str]: ...

class AWSRequest:
    method: str
    url: str
    headers: HTTPHeaders
    def __init__(
        self, method: str, url: str, headers: dict[str, str] | None = None, data: bytes | None = None
    ) -> None: ...
