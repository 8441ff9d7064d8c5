"""What a bucket is told to do, beside what the chain enforces: typed, and kept in its sealed settings record.

One field of the record per sub-resource, each a JSON object that `encode_setting` wrote; a field that this version does
not know is kept as it is.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

CORS: Final = "cors"
LIFECYCLE: Final = "lifecycle"
POLICY: Final = "policy"
TAGS: Final = "tags"
NOTIFICATIONS: Final = "notifications"
PUBLIC_BLOCK: Final = "public-block"
OWNERSHIP: Final = "ownership"

SettingT = TypeVar("SettingT", bound=msgspec.Struct)


class CorsRule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which pages of other origins a browser lets at the bucket."""

    origins: tuple[str, ...]
    methods: tuple[str, ...]
    headers: tuple[str, ...] = ()
    exposed: tuple[str, ...] = ()
    max_age_seconds: int | None = None
    rule_name: str | None = None


class Cors(msgspec.Struct, frozen=True, kw_only=True):
    """A bucket's CORS rules, the first that fits counts."""

    rules: tuple[CorsRule, ...]


class LifecycleFilter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which objects a rule is about: all conditions hold together."""

    prefix: str = ""
    tags: tuple[tuple[str, str], ...] = ()
    larger_than: int | None = None
    smaller_than: int | None = None
    shape: str = "filter"
    """How the rule was written: "prefix" of old, "filter", "and"."""


class LifecycleRule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """When objects, old versions and unfinished uploads end."""

    rule_name: str
    is_enabled: bool
    chosen: LifecycleFilter
    days: int | None = None
    date_ms: int | None = None
    removes_lone_markers: bool | None = None
    noncurrent_days: int | None = None
    noncurrent_kept: int | None = None
    abort_days: int | None = None


class Lifecycle(msgspec.Struct, frozen=True, kw_only=True):
    """A bucket's lifecycle rules."""

    rules: tuple[LifecycleRule, ...]


class Tags(msgspec.Struct, frozen=True, kw_only=True):
    """A bucket's tags."""

    tags: tuple[tuple[str, str], ...]


class PolicyText(msgspec.Struct, frozen=True, kw_only=True):
    """A bucket's policy, as it was put."""

    text: str


class PublicBlock(msgspec.Struct, frozen=True, kw_only=True):
    """S3's switches against public access; nothing here ever is public."""

    block_acls: bool = False
    ignore_acls: bool = False
    block_policy: bool = False
    restrict_buckets: bool = False


class Ownership(msgspec.Struct, frozen=True, kw_only=True):
    """Who owns what others upload."""

    rule: str


class NotificationRule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which events go to which webhook."""

    rule_name: str
    url: str
    events: tuple[str, ...]
    prefix: str = ""
    suffix: str = ""


class Notifications(msgspec.Struct, frozen=True, kw_only=True):
    """A bucket's notification rules."""

    rules: tuple[NotificationRule, ...]


def encode_setting(setting: msgspec.Struct) -> bytes:
    """Return a setting as the record keeps it."""
    return msgspec.json.encode(setting)


def read_setting(settings: dict[str, bytes], name: str, kind: type[SettingT]) -> SettingT | None:
    """Return a setting, None when the bucket has none."""
    encoded = settings.get(name)
    return None if encoded is None else msgspec.json.decode(encoded, type=kind)
