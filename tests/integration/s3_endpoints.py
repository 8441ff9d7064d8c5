"""Where S3 is spoken, and how each client is told."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import boto3
from botocore.config import Config

from node.gateway.signatures import REGION

S3Client: TypeAlias = Any
"""boto3 makes its clients at run time from a description of the service."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One gateway, by one scheme, for one access key."""

    url: str
    authority: Path
    """PEM file that vouches for the gateway's certificate."""
    access_key: str
    secret_key: str
    region: str = REGION

    @property
    def host(self) -> str:
        """Return host and port."""
        return self.url.partition("://")[2]

    @property
    def is_secure(self) -> bool:
        """Tell whether this is TLS."""
        return self.url.startswith("https:")

    def environment(self, home: Path) -> dict[str, str]:
        """Return the whole environment of a client program, with a home of its own: nothing of the machine's."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "TMPDIR": str(home),
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_REGION": self.region,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_CA_BUNDLE": str(self.authority),
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def trust(self) -> ssl.SSLContext:
        """Return what verifies the gateway's certificate."""
        return ssl.create_default_context(cafile=str(self.authority))

    def client(self, config: Config | None = None) -> S3Client:
        """Return a client of boto3; its settings are the default ones unless told."""
        return boto3.client("s3", config=config, **self._settings())

    def resource(self) -> S3Client:
        """Return boto3's resource."""
        return boto3.resource("s3", **self._settings())

    def _settings(self) -> dict[str, str]:
        return {
            "endpoint_url": self.url,
            "aws_access_key_id": self.access_key,
            "aws_secret_access_key": self.secret_key,
            "region_name": self.region,
            "verify": str(self.authority),
        }
