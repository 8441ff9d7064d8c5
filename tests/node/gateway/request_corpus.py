"""Requests of every operation: what the tests mutate, and what they try with keys that may not."""

from __future__ import annotations

import base64
import hmac
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import quote

from tests.node.gateway.memory_gateway import SECRET
from tests.node.gateway.raw_requests import RawRequest

SOME_XML = (
    b"<Delete><Object><Key>kept</Key></Object></Delete>",
    b"<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>",
    b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>",
    (
        b"<CORSConfiguration><CORSRule><AllowedOrigin>*</AllowedOrigin><AllowedMethod>GET</AllowedMethod>"
        b"</CORSRule></CORSConfiguration>"
    ),
    (
        b"<LifecycleConfiguration><Rule><ID>a</ID><Status>Enabled</Status><Filter><Prefix>x</Prefix></Filter>"
        b"<Expiration><Days>1</Days></Expiration></Rule></LifecycleConfiguration>"
    ),
    b"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>a</ETag></Part></CompleteMultipartUpload>",
    b"<Retention><Mode>GOVERNANCE</Mode><RetainUntilDate>2030-01-01T00:00:00Z</RetainUntilDate></Retention>",
    b"<LegalHold><Status>ON</Status></LegalHold>",
    b"<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>",
    b"<CreateBucketConfiguration><LocationConstraint>grand-est</LocationConstraint></CreateBucketConfiguration>",
    b"<NotificationConfiguration/>",
    b"<PublicAccessBlockConfiguration><BlockPublicAcls>true</BlockPublicAcls></PublicAccessBlockConfiguration>",
    b"<OwnershipControls><Rule><ObjectOwnership>BucketOwnerEnforced</ObjectOwnership></Rule></OwnershipControls>",
    (
        b'{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Principal":"*","Action":"s3:*",'
        b'"Resource":"arn:aws:s3:::BUCKET/never"}]}'
    ),
    b"some contents",
    b"",
)
DOCUMENTS = (
    ("POST", "/BUCKET?delete", "Delete"),
    ("PUT", "/BUCKET?tagging", "Tagging"),
    ("PUT", "/BUCKET?versioning", "VersioningConfiguration"),
    ("PUT", "/BUCKET?cors", "CORSConfiguration"),
    ("PUT", "/BUCKET?lifecycle", "LifecycleConfiguration"),
    ("PUT", "/BUCKET?object-lock", "ObjectLockConfiguration"),
    ("PUT", "/BUCKET?notification", "NotificationConfiguration"),
    ("PUT", "/BUCKET?publicAccessBlock", "PublicAccessBlockConfiguration"),
    ("PUT", "/BUCKET?ownershipControls", "OwnershipControls"),
    ("PUT", "/BUCKET?acl", "AccessControlPolicy"),
    ("PUT", "/BUCKET/kept?acl", "AccessControlPolicy"),
    ("PUT", "/BUCKET/kept?tagging", "Tagging"),
    ("PUT", "/BUCKET/kept?retention", "Retention"),
    ("PUT", "/BUCKET/kept?legal-hold", "LegalHold"),
    ("POST", "/BUCKET/kept?uploadId=UPLOAD", "CompleteMultipartUpload"),
    ("PUT", "/BUCKET-made", "CreateBucketConfiguration"),
)
"""Whoever takes a document: method, target, and the name of its root."""
PLAIN = (
    ("GET", "/"),
    ("PUT", "/BUCKET"),
    ("HEAD", "/BUCKET"),
    ("DELETE", "/BUCKET-made"),
    ("GET", "/BUCKET"),
    ("GET", "/BUCKET?list-type=2"),
    ("GET", "/BUCKET?versions"),
    ("GET", "/BUCKET?uploads"),
    ("GET", "/BUCKET?location"),
    ("GET", "/BUCKET?policy"),
    ("PUT", "/BUCKET?policy"),
    ("GET", "/BUCKET?policyStatus"),
    ("GET", "/BUCKET?encryption"),
    ("GET", "/BUCKET?cors"),
    ("GET", "/BUCKET?lifecycle"),
    ("DELETE", "/BUCKET?tagging"),
    ("GET", "/BUCKET/kept"),
    ("HEAD", "/BUCKET/kept"),
    ("PUT", "/BUCKET/kept"),
    ("PUT", "/BUCKET/made"),
    ("DELETE", "/BUCKET/made"),
    ("DELETE", "/BUCKET/kept"),
    ("GET", "/BUCKET/kept?tagging"),
    ("GET", "/BUCKET/kept?acl"),
    ("GET", "/BUCKET/kept?retention"),
    ("GET", "/BUCKET/kept?legal-hold"),
    ("GET", "/BUCKET/kept?attributes"),
    ("GET", "/BUCKET/kept?proof"),
    ("DELETE", "/BUCKET/kept?tagging"),
    ("POST", "/BUCKET/made?uploads"),
    ("GET", "/BUCKET/kept?uploadId=UPLOAD"),
    ("PUT", "/BUCKET/kept?partNumber=1&uploadId=UPLOAD"),
    ("DELETE", "/BUCKET/kept?uploadId=UPLOAD"),
    ("POST", "/BUCKET"),
    ("OPTIONS", "/BUCKET/kept"),
    ("PATCH", "/BUCKET/kept"),
)
QUERY_NAMES = (
    *("prefix", "delimiter", "marker", "start-after", "continuation-token", "max-keys", "encoding-type", "list-type"),
    *("key-marker", "version-id-marker", "upload-id-marker", "max-uploads", "part-number-marker", "max-parts"),
    *("versionId", "partNumber", "uploadId", "fetch-owner", "response-content-type", "response-expires", "x-id"),
    *("delete", "uploads", "versions", "acl", "torrent", "select", "X-Amz-Signature", "X-Amz-Expires", "X-Amz-Date"),
)
HEADER_NAMES = (
    *("Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "Content-MD5", "Content-Type"),
    *("Content-Encoding", "Expires", "Cache-Control", "x-amz-copy-source", "x-amz-copy-source-range", "x-amz-acl"),
    *("x-amz-copy-source-if-match", "x-amz-copy-source-if-modified-since", "x-amz-metadata-directive", "Origin"),
    *("x-amz-tagging", "x-amz-tagging-directive", "x-amz-storage-class", "x-amz-server-side-encryption", "Expect"),
    *("x-amz-object-lock-mode", "x-amz-object-lock-retain-until-date", "x-amz-object-lock-legal-hold", "x-amz-meta-a"),
    *("x-amz-checksum-crc32", "x-amz-checksum-algorithm", "x-amz-sdk-checksum-algorithm", "x-amz-checksum-type"),
    *("x-amz-checksum-mode", "x-amz-decoded-content-length", "x-amz-trailer", "x-amz-bypass-governance-retention"),
    *("x-amz-object-attributes", "x-amz-max-parts", "x-amz-part-number-marker", "x-amz-expected-bucket-owner"),
    *("x-amz-mp-object-size", "x-amz-website-redirect-location", "Access-Control-Request-Method", "x-amz-grant-read"),
    *("x-amz-bucket-object-lock-enabled", "x-amz-write-offset-bytes", "x-amz-security-token", "Content-Language"),
)
PATHS = ("/", "//", "/..", "/%2e%2e", "/%00", "/%ff", "%", "/" + "k" * 1024, "/\xe9", "+", "/a%2Fb", "/.")
STRANGE = (
    *(
        "",
        "0",
        "1",
        "-1",
        "2",
        "1000",
        "1001",
        "9" * 20,
        "9" * 5000,
        "1e3",
        "0x10",
        "null",
        "true",
        "*",
        '"',
        "a" * 300,
    ),
    *("bytes=0-", "bytes=5-1", "bytes=-", "bytes=0-1,3-4", f"bytes={'9' * 20}-", "CRC32", "SHA256", "COMPOSITE"),
    *("/BUCKET/kept", "BUCKET/kept?versionId=null", "BUCKET", "%00", "%ff%fe", "..", "/", "a=b&c=d", "a=b&a=c", "="),
    *("Thu, 01 Jan 1970 00:00:00 GMT", f"01 Jan {'9' * 20} 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 -2300"),
    *("2030-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", "0001-01-01T00:00:00+23:59", "Thu, 99 Foo 9999", "&"),
    *("GOVERNANCE", "COMPLIANCE", "ON", "url", "AAAAAA==", "not base64", "é", "\x7f", "100-continue", "X" * 32),
    *("%0d%0aX-Evil: 1", "%e2%80%a8", "ETag,Checksum"),
)


def corpus(bucket: str, upload_id: str) -> list[RawRequest]:
    """Return one well-formed request per operation."""
    made = [
        RawRequest(method=method, target=target, body=next(_documents(root), b"")) for method, target, root in DOCUMENTS
    ]
    made += [RawRequest(method=method, target=target) for method, target in PLAIN]
    return [named(request, bucket, upload_id) for request in made]


def form(bucket: str) -> RawRequest:
    """Return a form as a browser posts it; its own fields sign it, by version 2 of S3's signatures."""
    conditions = [{"bucket": bucket}, *(["starts-with", f"${name}", ""] for name in ("key", "x-amz-meta-a"))]
    told = {"expiration": "2100-01-01T00:00:00Z", "conditions": [*conditions, ["content-length-range", 0, 1000]]}
    policy = base64.b64encode(json.dumps(told).encode())
    fields = {
        "key": b"posted/${filename}",
        "x-amz-meta-a": b"b",
        "AWSAccessKeyId": b"OURS",
        "policy": policy,
        "signature": base64.b64encode(hmac.digest(SECRET.encode(), policy, "sha1")),
        'file"; filename="a.txt': b"contents",
    }
    parts = [
        b'--edge\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name.encode(), text)
        for name, text in fields.items()
    ]
    kind = (("Content-Type", "multipart/form-data; boundary=edge"),)
    return RawRequest(method="POST", target=f"/{bucket}", headers=kind, body=b"".join(parts) + b"--edge--\r\n")


def _documents(root: str) -> Iterator[bytes]:
    return (body for body in SOME_XML if body.startswith(f"<{root}".encode()))


def named(request: RawRequest, bucket: str, upload_id: str) -> RawRequest:
    """Put real names where the corpus has BUCKET and UPLOAD."""

    def real(text: str) -> str:
        return text.replace("BUCKET", bucket).replace("UPLOAD", upload_id)

    return replace(
        request,
        target=real(request.target),
        headers=tuple((name, real(text)) for name, text in request.headers),
        body=request.body.replace(b"BUCKET", bucket.encode()),
    )


def mutated(request: RawRequest, chance: random.Random) -> RawRequest:
    """Return a request with up to three things changed; it is signed afterwards, so that it gets far."""
    for _ in range(chance.randint(1, 3)):
        request = chance.choice((_other_query, _other_header, _other_body, _bent_body, _other_path))(request, chance)
    return request


def torn(sent: bytes, chance: random.Random) -> bytes:
    """Return the bytes of a request with some of them changed, lost or doubled."""
    torn_bytes = bytearray(sent)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(torn_bytes))
        match chance.randrange(4):
            case 0:
                torn_bytes[at] = chance.randrange(256)
            case 1:
                del torn_bytes[at : at + chance.randint(1, 20)]
            case 2:
                torn_bytes[at:at] = torn_bytes[at : at + chance.randint(1, 20)]
            case _:
                torn_bytes[at:at] = chance.choice((b"\r\n", b"\0", b"\r\n\r\n", b" ", b":", b"%", b"\xff"))
        if not torn_bytes:
            return b"\r\n"
    return bytes(torn_bytes)


def _other_query(request: RawRequest, chance: random.Random) -> RawRequest:
    name, text = chance.choice(QUERY_NAMES), chance.choice(STRANGE)
    told = text if "%" in text else quote(text, safe="-_.~")
    return replace(request, target=f"{request.target}{'&' if '?' in request.target else '?'}{name}={told}")


def _other_header(request: RawRequest, chance: random.Random) -> RawRequest:
    name = chance.choice(HEADER_NAMES)
    others = tuple(pair for pair in request.headers if pair[0] != name)
    return replace(request, headers=(*others, (name, chance.choice(STRANGE))))


def _other_body(request: RawRequest, chance: random.Random) -> RawRequest:
    return replace(request, body=chance.choice(SOME_XML))


def _bent_body(request: RawRequest, chance: random.Random) -> RawRequest:
    body = torn(request.body, chance) if request.body else chance.randbytes(chance.randrange(50))
    return replace(request, body=body)


def _other_path(request: RawRequest, chance: random.Random) -> RawRequest:
    path, mark, query = request.target.partition("?")
    more = chance.choice(PATHS)
    return replace(request, target=f"{path}{more}{mark}{query}")
