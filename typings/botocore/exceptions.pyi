"""What the tests use of botocore's errors."""

from typing import Any

class ClientError(Exception):
    response: dict[str, Any]
