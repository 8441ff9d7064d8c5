"""S3 access keys: whose they are, and what they may do.

An access key names one tenant and has a secret that signs requests. Its scope narrows it to buckets, to reading or
writing, and to a time; whatever the scope does not name is refused.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from enum import Enum
from typing import Final

from storage.identifiers import TenantId

SECRET_BYTES_MAX: Final = 128
"""Secrets of S3 have 40 characters."""


class AccessSecret:
    """The secret of an access key; never printed."""

    __slots__ = ("_secret",)
    __hash__ = None  # type: ignore[assignment]  # a secret is no dictionary key

    def __init__(self, secret: bytes) -> None:
        """Take 1 to SECRET_BYTES_MAX bytes."""
        assert 1 <= len(secret) <= SECRET_BYTES_MAX, "checked where secrets are read"
        self._secret = bytes(secret)

    def __repr__(self) -> str:
        """Reveal nothing."""
        return "AccessSecret(redacted)"

    def __eq__(self, other: object) -> bool:
        """Compare without telling by time where they differ."""
        return isinstance(other, AccessSecret) and hmac.compare_digest(self._secret, other._secret)

    def reveal(self) -> bytes:
        """Return the bytes, for the derivation of a signing key."""
        return self._secret


class Verb(Enum):
    """What an operation does to what it names."""

    READ = "read"
    WRITE = "write"
    LIST = "list"
    DELETE = "delete"
    ADMINISTER = "administer"
    """Buckets made, configured and deleted; retention bypassed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessKey:
    """One access key as the gateway knows it."""

    access_key: str
    secret: AccessSecret
    tenant: TenantId
    verbs: frozenset[Verb] = frozenset(Verb)
    buckets: frozenset[str] | None = None
    """None: every bucket of the tenant."""
    expires_ms: int | None = None
    """Milliseconds since 1970; None: never."""

    def admits(self, verb: Verb, bucket: str | None, now_ms: int) -> bool:
        """Tell whether a request of this key may do this; a bucket of None is the list of all."""
        if self.expires_ms is not None and now_ms >= self.expires_ms:
            return False
        if verb not in self.verbs:
            return False
        return self.buckets is None or (bucket is not None and bucket in self.buckets)
