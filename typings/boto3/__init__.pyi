"""What the tests use of boto3."""

from collections.abc import Callable
from typing import Any

from botocore.config import Config

class Client:
    """Its methods are made from the description of the service."""

    def __getattr__(self, name: str) -> Callable[..., dict[str, Any]]: ...

def client(
    service_name: str,
    *,
    endpoint_url: str,
    aws_access_key_id: str,
    aws_secret_access_key: str,
    region_name: str,
    config: Config | None = None,
    verify: str | bool | None = None,
) -> Client: ...

def resource(
    service_name: str,
    *,
    endpoint_url: str,
    aws_access_key_id: str,
    aws_secret_access_key: str,
    region_name: str,
    verify: str | bool | None = None,
) -> Any: ...
