"""Sub-resources of buckets that are kept and told again: tags, CORS, lifecycle, policy, notifications, and stubs."""

from __future__ import annotations

import re
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from node.gateway import settings as kept
from node.gateway.call import empty_answer, xml_answer
from node.gateway.errors import S3Code, S3Error
from node.gateway.markup import Element, document, flag, leaf, node, parse
from node.gateway.metadata import BUCKET_TAGS_MAX, check_canned_acl, check_tags
from node.gateway.policies import parse_policy
from node.gateway.settings import (
    Cors,
    CorsRule,
    NotificationRule,
    Notifications,
    Ownership,
    PolicyText,
    PublicBlock,
    Tags,
    encode_setting,
    read_setting,
)

if TYPE_CHECKING:
    from node.gateway.call import Call
    from node.gateway.http_server import HttpAnswer

CORS_RULES_MAX: Final = 100
NOTIFICATION_RULES_MAX: Final = 100
CORS_METHODS: Final = frozenset({"GET", "PUT", "HEAD", "POST", "DELETE"})
OWNERSHIPS: Final = frozenset({"BucketOwnerEnforced", "BucketOwnerPreferred", "ObjectWriter"})
POLICY_BYTES_MAX: Final = 8 * 1024
"""The settings record has 16 KiB for everything."""
_WILD: Final = re.compile(r"\*")

SettingT = TypeVar("SettingT", bound=msgspec.Struct)


async def change_setting(call: Call, name: str, setting: msgspec.Struct | None) -> None:
    """Keep a setting, or forget it."""
    bucket = await call.bucket()
    changed = {known: encoded for known, encoded in bucket.settings.items() if known != name}
    if setting is not None:
        changed[name] = encode_setting(setting)
    if changed != bucket.settings:
        await call.store.change_bucket(replace(bucket, settings=changed))


async def _setting(call: Call, name: str, kind: type[SettingT], missing: S3Code) -> SettingT:
    bucket = await call.bucket()
    found = read_setting(bucket.settings, name, kind)
    if found is None:
        raise S3Error(missing)
    return found


async def get_tags(call: Call) -> HttpAnswer:
    """Answer GetBucketTagging."""
    found = await _setting(call, kept.TAGS, Tags, S3Code.NO_SUCH_TAG_SET)
    return xml_answer(document("Tagging", shown_tags(found.tags)))


async def put_tags(call: Call) -> HttpAnswer:
    """Answer PutBucketTagging."""
    tags = read_tags(await call.body.read_document(), BUCKET_TAGS_MAX)
    await change_setting(call, kept.TAGS, Tags(tags=tags))
    return empty_answer(status=HTTPStatus.NO_CONTENT)


async def delete_tags(call: Call) -> HttpAnswer:
    """Answer DeleteBucketTagging."""
    await change_setting(call, kept.TAGS, None)
    return empty_answer(status=HTTPStatus.NO_CONTENT)


def read_tags(body: bytes, tags_max: int) -> tuple[tuple[str, str], ...]:
    """Read a Tagging document.

    Raises:
        S3Error: MalformedXML, InvalidTag.
    """
    tag_set = parse(body, "Tagging").find("TagSet")
    if tag_set is None:
        raise S3Error(S3Code.MALFORMED_XML)
    return check_tags(tuple((tag.require("Key"), tag.require("Value")) for tag in tag_set.all("Tag")), tags_max)


def shown_tags(tags: tuple[tuple[str, str], ...]) -> str:
    """Return tags as a TagSet, in order of their names."""
    return node("TagSet", *(node("Tag", leaf("Key", name), leaf("Value", text)) for name, text in sorted(tags)))


async def get_cors(call: Call) -> HttpAnswer:
    """Answer GetBucketCors."""
    found = await _setting(call, kept.CORS, Cors, S3Code.NO_SUCH_CORS)
    rules = [
        node(
            "CORSRule",
            leaf("ID", rule.rule_name),
            *(leaf("AllowedHeader", text) for text in rule.headers),
            *(leaf("AllowedMethod", text) for text in rule.methods),
            *(leaf("AllowedOrigin", text) for text in rule.origins),
            *(leaf("ExposeHeader", text) for text in rule.exposed),
            leaf("MaxAgeSeconds", rule.max_age_seconds),
        )
        for rule in found.rules
    ]
    return xml_answer(document("CORSConfiguration", *rules))


async def put_cors(call: Call) -> HttpAnswer:
    """Answer PutBucketCors."""
    root = parse(await call.body.read_document(), "CORSConfiguration")
    rules = tuple(_cors_rule(rule) for rule in root.all("CORSRule"))
    if not 1 <= len(rules) <= CORS_RULES_MAX:
        raise S3Error(S3Code.MALFORMED_XML)
    await change_setting(call, kept.CORS, Cors(rules=rules))
    return empty_answer()


def _cors_rule(rule: Element) -> CorsRule:
    origins, methods = (tuple(child.text for child in rule.all(name)) for name in ("AllowedOrigin", "AllowedMethod"))
    if not origins or not methods:
        raise S3Error(S3Code.MALFORMED_XML)
    if any(method not in CORS_METHODS for method in methods):
        raise S3Error(S3Code.INVALID_REQUEST, "Found unsupported HTTP method in CORS config.")
    if any(len(_WILD.findall(text)) > 1 for text in origins):
        raise S3Error(S3Code.INVALID_REQUEST, "AllowedOrigin can not have more than one wildcard.")
    return CorsRule(
        origins=origins,
        methods=methods,
        headers=tuple(child.text for child in rule.all("AllowedHeader")),
        exposed=tuple(child.text for child in rule.all("ExposeHeader")),
        max_age_seconds=rule.number_of("MaxAgeSeconds"),
        rule_name=rule.text_of("ID"),
    )


async def delete_cors(call: Call) -> HttpAnswer:
    """Answer DeleteBucketCors."""
    await change_setting(call, kept.CORS, None)
    return empty_answer(status=HTTPStatus.NO_CONTENT)


async def get_policy(call: Call) -> HttpAnswer:
    """Answer GetBucketPolicy."""
    found = await _setting(call, kept.POLICY, PolicyText, S3Code.NO_SUCH_BUCKET_POLICY)
    answer = empty_answer(("Content-Type", "application/json"))
    return replace(answer, body=found.text.encode())


async def put_policy(call: Call) -> HttpAnswer:
    """Answer PutBucketPolicy."""
    body = await call.body.read_document(POLICY_BYTES_MAX)
    parse_policy(body, call.target.bucket)
    await change_setting(call, kept.POLICY, PolicyText(text=body.decode()))
    return empty_answer(status=HTTPStatus.NO_CONTENT)


async def delete_policy(call: Call) -> HttpAnswer:
    """Answer DeleteBucketPolicy."""
    await change_setting(call, kept.POLICY, None)
    return empty_answer(status=HTTPStatus.NO_CONTENT)


async def get_policy_status(call: Call) -> HttpAnswer:
    """Answer GetBucketPolicyStatus: nothing is public."""
    await call.bucket()
    return xml_answer(document("PolicyStatus", flag("IsPublic", is_set=False)))


async def get_notification(call: Call) -> HttpAnswer:
    """Answer GetBucketNotificationConfiguration."""
    bucket = await call.bucket()
    found = read_setting(bucket.settings, kept.NOTIFICATIONS, Notifications)
    rules = [] if found is None else [_shown_notification(rule) for rule in found.rules]
    return xml_answer(document("NotificationConfiguration", *rules))


def _shown_notification(rule: NotificationRule) -> str:
    affixes = [("prefix", rule.prefix), ("suffix", rule.suffix)]
    shown = [node("FilterRule", leaf("Name", name), leaf("Value", text)) for name, text in affixes if text]
    return node(
        "TopicConfiguration",
        leaf("Id", rule.rule_name),
        leaf("Topic", rule.url),
        *(leaf("Event", event) for event in rule.events),
        node("Filter", node("S3Key", *shown)) if shown else "",
    )


async def put_notification(call: Call) -> HttpAnswer:
    """Answer PutBucketNotificationConfiguration: topics are webhooks, named by their URL."""
    root = parse(await call.body.read_document(), "NotificationConfiguration")
    if any(child.name != "TopicConfiguration" for child in root.children):
        raise S3Error(S3Code.NOT_IMPLEMENTED, "notifications go to topics: webhooks named by their URL")
    rules = tuple(_notification(position, rule) for position, rule in enumerate(root.all("TopicConfiguration")))
    if len(rules) > NOTIFICATION_RULES_MAX:
        raise S3Error(S3Code.MALFORMED_XML)
    await change_setting(call, kept.NOTIFICATIONS, Notifications(rules=rules) if rules else None)
    return empty_answer()


def _notification(position: int, rule: Element) -> NotificationRule:
    url, events = rule.require("Topic").strip(), tuple(event.text.strip() for event in rule.all("Event"))
    if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname:
        raise S3Error(S3Code.INVALID_ARGUMENT, "a topic is the URL of a webhook, http or https")
    if not events or any(not event.startswith(("s3:ObjectCreated:", "s3:ObjectRemoved:")) for event in events):
        raise S3Error(S3Code.INVALID_ARGUMENT, "The event is not supported for notifications")
    affixes = {"prefix": "", "suffix": ""}
    chosen = rule.find("Filter")
    s3_key = None if chosen is None else chosen.find("S3Key")
    for one in () if s3_key is None else s3_key.all("FilterRule"):
        name = one.require("Name").lower()
        if name not in affixes:
            raise S3Error(S3Code.INVALID_ARGUMENT, "filter rule name must be either prefix or suffix")
        affixes[name] = one.require("Value")
    name = rule.text_of("Id") or f"rule-{position + 1}"
    return NotificationRule(rule_name=name, url=url, events=events, prefix=affixes["prefix"], suffix=affixes["suffix"])


async def get_public_block(call: Call) -> HttpAnswer:
    """Answer GetPublicAccessBlock."""
    found = await _setting(call, kept.PUBLIC_BLOCK, PublicBlock, S3Code.NO_SUCH_PUBLIC_BLOCK)
    return xml_answer(
        document(
            "PublicAccessBlockConfiguration",
            flag("BlockPublicAcls", found.block_acls),
            flag("IgnorePublicAcls", found.ignore_acls),
            flag("BlockPublicPolicy", found.block_policy),
            flag("RestrictPublicBuckets", found.restrict_buckets),
        )
    )


async def put_public_block(call: Call) -> HttpAnswer:
    """Answer PutPublicAccessBlock; nothing here is ever public, whatever it says."""
    root = parse(await call.body.read_document(), "PublicAccessBlockConfiguration")
    names = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
    acls, ignored, policy, buckets = ((root.text_of(name) or "").strip().lower() == "true" for name in names)
    setting = PublicBlock(block_acls=acls, ignore_acls=ignored, block_policy=policy, restrict_buckets=buckets)
    await change_setting(call, kept.PUBLIC_BLOCK, setting)
    return empty_answer()


async def delete_public_block(call: Call) -> HttpAnswer:
    """Answer DeletePublicAccessBlock."""
    await change_setting(call, kept.PUBLIC_BLOCK, None)
    return empty_answer(status=HTTPStatus.NO_CONTENT)


async def get_ownership(call: Call) -> HttpAnswer:
    """Answer GetBucketOwnershipControls."""
    found = await _setting(call, kept.OWNERSHIP, Ownership, S3Code.NO_SUCH_OWNERSHIP)
    return xml_answer(document("OwnershipControls", node("Rule", leaf("ObjectOwnership", found.rule))))


async def put_ownership(call: Call) -> HttpAnswer:
    """Answer PutBucketOwnershipControls; a bucket has one owner, whatever it says."""
    rule = parse(await call.body.read_document(), "OwnershipControls").find("Rule")
    wanted = None if rule is None else rule.require("ObjectOwnership")
    if wanted not in OWNERSHIPS:
        raise S3Error(S3Code.MALFORMED_XML)
    await change_setting(call, kept.OWNERSHIP, Ownership(rule=wanted))
    return empty_answer()


async def delete_ownership(call: Call) -> HttpAnswer:
    """Answer DeleteBucketOwnershipControls."""
    await change_setting(call, kept.OWNERSHIP, None)
    return empty_answer(status=HTTPStatus.NO_CONTENT)


async def get_acl(call: Call) -> HttpAnswer:
    """Answer GetBucketAcl and GetObjectAcl: the owner may do everything, nobody else anything."""
    await call.bucket()
    if call.target.name:
        from node.gateway.object_reads import find_object, read_version_id  # noqa: PLC0415 (a circle otherwise)

        await find_object(call, await call.bucket(), call.target.name, read_version_id(call))
    grantee = (
        '<Grantee xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="CanonicalUser">'
        f"{leaf('ID', call.owner[0])}{leaf('DisplayName', call.owner[1])}</Grantee>"
    )
    owner = node("Owner", leaf("ID", call.owner[0]), leaf("DisplayName", call.owner[1]))
    grant = node("Grant", grantee, leaf("Permission", "FULL_CONTROL"))
    return xml_answer(document("AccessControlPolicy", owner, node("AccessControlList", grant)))


async def put_acl(call: Call) -> HttpAnswer:
    """Answer PutBucketAcl and PutObjectAcl: what gives nobody anything is accepted, everything else refused."""
    await call.bucket()
    if call.target.name:
        from node.gateway.object_reads import find_object, read_version_id  # noqa: PLC0415 (a circle otherwise)

        await find_object(call, await call.bucket(), call.target.name, read_version_id(call))
    if any(name.startswith("x-amz-grant-") for name, _ in call.head.headers):
        raise S3Error(S3Code.NOT_IMPLEMENTED, "grants to others are not implemented: give them an access key")
    canned = call.head.header("x-amz-acl")
    if canned is not None:
        check_canned_acl(canned)
    body = await call.body.read_document()
    if body:
        _check_acl(call, parse(body, "AccessControlPolicy"))
    elif canned is None:
        raise S3Error(S3Code.MISSING_SECURITY_HEADER, "Your request was missing a required header: x-amz-acl")
    return empty_answer()


def _check_acl(call: Call, root: Element) -> None:
    owner, grants = root.find("Owner"), root.find("AccessControlList")
    if owner is None or grants is None:
        raise S3Error(S3Code.MALFORMED_ACL)
    if owner.text_of("ID") != call.owner[0]:
        raise S3Error(S3Code.ACCESS_DENIED)
    for grant in grants.all("Grant"):
        grantee = grant.find("Grantee")
        if grantee is None:
            raise S3Error(S3Code.MALFORMED_ACL)
        if grantee.text_of("ID") != call.owner[0]:
            raise S3Error(S3Code.NOT_IMPLEMENTED, "grants to others are not implemented: give them an access key")


async def get_encryption(call: Call) -> HttpAnswer:
    """Answer GetBucketEncryption: there is none of S3's; objects are sealed with the tenant's own keys."""
    await call.bucket()
    raise S3Error(S3Code.NO_SUCH_SSE)


async def get_website(call: Call) -> HttpAnswer:
    """Answer GetBucketWebsite."""
    await call.bucket()
    raise S3Error(S3Code.NO_SUCH_WEBSITE)


async def get_replication(call: Call) -> HttpAnswer:
    """Answer GetBucketReplication: nine operators hold every object, without a rule."""
    await call.bucket()
    raise S3Error(S3Code.NO_SUCH_REPLICATION)


async def get_logging(call: Call) -> HttpAnswer:
    """Answer GetBucketLogging."""
    await call.bucket()
    return xml_answer(document("BucketLoggingStatus"))


async def get_request_payment(call: Call) -> HttpAnswer:
    """Answer GetBucketRequestPayment."""
    await call.bucket()
    return xml_answer(document("RequestPaymentConfiguration", leaf("Payer", "BucketOwner")))


async def get_accelerate(call: Call) -> HttpAnswer:
    """Answer GetBucketAccelerateConfiguration."""
    await call.bucket()
    return xml_answer(document("AccelerateConfiguration"))
