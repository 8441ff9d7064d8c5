"""Requests that mean harm, over real sockets: the right error of S3 or a closed connection, and nothing half-stored."""

from __future__ import annotations

import base64
import hashlib
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import quote

import boto3
import httpx
import pytest

from node.gateway import http_server
from node.gateway.signatures import REGION
from tests.node.gateway.memory_gateway import OURS, SECRET, MemoryGateway
from tests.node.gateway.raw_requests import Answer, RawRequest, answer_of, exchanged, received
from tests.node.gateway.request_corpus import DOCUMENTS, named

GIB = 1024**3
CONTENTS = b"0123456789" * 1000
EXPANDS = "".join(f'<!ENTITY e{level} "{f"&e{level - 1};" * 10}">' for level in range(1, 10))
BOMBS = {
    "billion laughs": '<!DOCTYPE ROOT [<!ENTITY e0 "ha">' + EXPANDS + "]><ROOT>&e9;</ROOT>",
    "a file of the machine": '<!DOCTYPE ROOT [<!ENTITY f SYSTEM "file:///etc/passwd">]><ROOT>&f;</ROOT>',
    "a page of the network": '<!DOCTYPE ROOT SYSTEM "http://127.0.0.1:1/x.dtd"><ROOT/>',
    "parameter entities": '<!DOCTYPE ROOT [<!ENTITY % p "x"> %p;]><ROOT/>',
    "an entity nobody defined": "<ROOT>&who;</ROOT>",
    "depth": "<ROOT>" + "<a>" * 5_000 + "</a>" * 5_000 + "</ROOT>",
    "many elements": "<ROOT>" + "<a/>" * 250_000 + "</ROOT>",
    "torn": "<ROOT><a>",
    "two roots": "<ROOT/><ROOT/>",
    "another root": "<Other/>",
    "no XML": "}{",
    "nothing": "",
    "NUL": "<ROOT>\0</ROOT>",
    "an encoding nobody has": '<?xml version="1.0" encoding="x-never"?><ROOT/>',
    "a coding that lies": '<?xml version="1.0" encoding="utf-16"?><ROOT/>',
}


def sent(gateway: MemoryGateway, request: RawRequest) -> Answer:
    return exchanged(gateway.address, request.signed(gateway.address))


@pytest.fixture
def bucket(gateway: MemoryGateway) -> Iterator[str]:
    assert sent(gateway, RawRequest(method="PUT", target="/hostile")).status == 200
    assert sent(gateway, RawRequest(method="PUT", target="/hostile/kept", body=b"kept")).status == 200
    yield "hostile"
    gateway.stores[OURS].contents.pop("hostile", None)


def stored(gateway: MemoryGateway) -> list[str]:
    return sorted(gateway.stores[OURS].contents["hostile"].versions)


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_document_that_means_harm_is_malformed(gateway: MemoryGateway, bucket: str, bomb: str) -> None:
    sent(gateway, RawRequest(method="POST", target="/hostile/kept?uploads"))
    upload_id = next(iter(gateway.stores[OURS].contents[bucket].uploads))
    for method, target, root in DOCUMENTS:
        body = BOMBS[bomb].replace("ROOT", root).encode()
        request = named(RawRequest(method=method, target=target, body=body), bucket, upload_id)
        answer = sent(gateway, request)
        if bomb == "nothing" and target in {"/BUCKET-made", "/BUCKET?acl", "/BUCKET/kept?acl"}:
            continue  # no document is allowed there
        assert 400 <= answer.status < 500, (target, answer)
        assert b"root:" not in answer.body, "the machine's users"
    assert stored(gateway) == ["kept"]


def test_a_document_of_a_gibibyte_is_refused_long_before_its_end(gateway: MemoryGateway, bucket: str) -> None:
    body_hash = ("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
    request = RawRequest(method="POST", target=f"/{bucket}?delete", headers=(body_hash, ("Content-Length", str(GIB))))
    with socket.create_connection(gateway.address, timeout=20) as connection:
        connection.sendall(request.signed(gateway.address))
        sent_bytes = 0
        try:
            while sent_bytes < GIB:
                sent_bytes += connection.send(b"<Delete>" * 8192)
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert sent_bytes < 64 * 1024**2


@pytest.mark.parametrize(
    ("path", "codes"),
    [
        ("/hostile/..", {""}),
        ("/hostile/../../etc/passwd", {""}),
        ("/hostile/%2e%2e/%2e%2e/etc/passwd", {""}),
        ("/hostile//", {""}),
        ("/hostile//a//", {""}),
        ("/hostile/%00", {"InvalidURI", "InvalidArgument"}),
        ("/hostile/a%00b", {"InvalidURI", "InvalidArgument"}),
        ("/hostile/%ff%fe", {"InvalidURI", "InvalidArgument"}),
        ("/hostile/%c0%af", {"InvalidURI", "InvalidArgument"}),
        ("/hostile/%ed%a0%80", {"InvalidURI", "InvalidArgument"}),
        ("/hostile/%", {"", "InvalidURI"}),
        ("/hostile/" + "k" * 1024, {""}),
        ("/hostile/" + "k" * 1025, {"KeyTooLongError"}),
        ("/hostile/" + "%C3%A9" * 512, {""}),
        ("/hostile/" + "%C3%A9" * 513, {"KeyTooLongError"}),
        ("/../hostile/a", {"InvalidBucketName", "NoSuchBucket"}),
        ("/hostile%2fa", {"InvalidBucketName", "NoSuchBucket"}),
        ("//hostile/a", {"InvalidBucketName", "NoSuchBucket", "MethodNotAllowed"}),
    ],
)
def test_a_path_names_one_key_or_none(gateway: MemoryGateway, bucket: str, path: str, codes: set[str]) -> None:
    put = sent(gateway, RawRequest(method="PUT", target=path, body=b"contents"))
    assert put.code in codes, put
    assert (put.status == 200) == (put.code == "")
    if put.status == 200:
        assert sent(gateway, RawRequest(method="GET", target=path)).body == b"contents"
        (name,) = set(stored(gateway)) - {"kept"}
        listed = sent(gateway, RawRequest(method="GET", target=f"/{bucket}?list-type=2&encoding-type=url"))
        assert listed.status == 200
        assert b"<KeyCount>2</KeyCount>" in listed.body, name
    else:
        assert stored(gateway) == ["kept"]


@pytest.mark.parametrize("announced", [len(CONTENTS) + 1, len(CONTENTS) * 1000])
def test_a_body_shorter_than_announced_stores_nothing(gateway: MemoryGateway, bucket: str, announced: int) -> None:
    length = ("Content-Length", str(announced))
    unsigned = ("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
    request = RawRequest(method="PUT", target="/hostile/short", headers=(length, unsigned), body=CONTENTS)
    answer = sent(gateway, request)
    assert answer.status == 0 or answer.code in {"IncompleteBody", "RequestTimeout"}, answer
    assert stored(gateway) == ["kept"]


def test_a_disconnect_in_the_middle_of_a_body_stores_nothing(gateway: MemoryGateway, bucket: str) -> None:
    request = RawRequest(method="PUT", target="/hostile/gone", body=CONTENTS).signed(gateway.address)
    for cut in range(len(request) - len(CONTENTS), len(request), 2500):
        with socket.create_connection(gateway.address, timeout=20) as connection:
            connection.sendall(request[:cut])
            # Closed with a reset: nothing that is still under way arrives.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert sent(gateway, RawRequest(method="GET", target=f"/{bucket}/kept")).body == b"kept"
    assert stored(gateway) == ["kept"]


def test_who_hangs_up_in_the_middle_of_an_answer_harms_nobody(gateway: MemoryGateway, bucket: str) -> None:
    large = bytes(4 * 1024**2)
    assert sent(gateway, RawRequest(method="PUT", target="/hostile/large", body=large)).status == 200
    for _ in range(5):
        with socket.create_connection(gateway.address, timeout=20) as connection:
            connection.sendall(RawRequest(method="GET", target=f"/{bucket}/large").signed(gateway.address))
            assert connection.recv(1000)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert sent(gateway, RawRequest(method="GET", target="/hostile/large")).body == large


@pytest.mark.parametrize("what", ["head", "body"])
def test_a_client_that_stalls_is_sent_away(
    gateway: MemoryGateway, bucket: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HEAD_SECONDS", "RECEIVE_SECONDS"):
        monkeypatch.setattr(http_server, name, 0.3)
    request = RawRequest(method="PUT", target=f"/{bucket}/slow", body=CONTENTS).signed(gateway.address)
    begun = request[:60] if what == "head" else request[:-100]
    with socket.create_connection(gateway.address, timeout=20) as connection:
        connection.sendall(begun)
        answer = answer_of(received(connection))
    assert answer.status == 0 or answer.code == "RequestTimeout", answer
    assert stored(gateway) == ["kept"]


def test_a_head_in_drops_is_cut_off(gateway: MemoryGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each drop comes in time; all of them together do not."""
    monkeypatch.setattr(http_server, "HEAD_SECONDS", 0.5)
    with socket.create_connection(gateway.address, timeout=0.05) as connection:
        drops = 0
        while drops < 1000:
            try:
                connection.sendall(b"GET / HTTP/1.1\r\n" if drops == 0 else b"a: b\r\n")
                if not connection.recv(1000):
                    break
            except TimeoutError:
                drops += 1
            except (BrokenPipeError, ConnectionResetError):
                break
        assert drops < 100


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"PUT /hostile/a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
        (b"PUT /hostile/a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello", 400),
        (b"PUT /hostile/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\nhello", 501),
        (b"PUT /hostile/a HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\nhello", 400),
        (b"PUT /hostile/a HTTP/1.1\r\nHost: a\r\nContent-Length: 5x\r\n\r\nhello", 400),
        (b"PUT /hostile/a HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 400 + b"\r\n\r\nhello", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nbad name: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nx: " + b"y" * 100_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"y" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nx: \0\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"\r\n\r\n\r\n\r\n", 0),
    ],
)
def test_a_message_of_two_meanings_is_refused(gateway: MemoryGateway, bucket: str, head: bytes, status: int) -> None:
    answer = exchanged(gateway.address, head)
    assert answer.status in {status, 400, 0}, answer
    assert stored(gateway) == ["kept"]


def chunked(gateway: MemoryGateway, change: tuple[bytes, bytes] = (b"", b"")) -> Answer:
    """PUT an object in signed chunks, some of its bytes changed on the way."""
    plain = CONTENTS[:20]
    headers = (
        ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
        ("x-amz-decoded-content-length", str(len(plain))),
        ("x-amz-trailer", "x-amz-checksum-sha256"),
        ("Content-Encoding", "aws-chunked"),
        ("Transfer-Encoding", "chunked"),
    )
    digest = base64.b64encode(hashlib.sha256(plain).digest())
    coded = (
        b"a\r\n" + plain[:10] + b"\r\na\r\n" + plain[10:] + b"\r\n0\r\nx-amz-checksum-sha256:" + digest + b"\r\n\r\n"
    )
    coded = coded.replace(*change) if change[0] else coded
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(coded), coded)
    head = replace(RawRequest(method="PUT", target="/hostile/chunked"), headers=headers).signed(gateway.address)
    return exchanged(gateway.address, head + body)


@pytest.mark.parametrize(
    ("change", "codes"),
    [
        ((b"a\r\n0", b"b\r\n0"), {"InvalidRequest", "IncompleteBody", "InvalidArgument", "MalformedTrailerError"}),
        ((b"a\r\n0", b"ffffffffff\r\n0"), {"InvalidRequest", "IncompleteBody", "EntityTooLarge"}),
        ((b"a\r\n0", b"fffffffffffffffffffffff\r\n0"), {"InvalidRequest", "IncompleteBody"}),
        ((b"a\r\n0", b"-a\r\n0"), {"InvalidRequest", "IncompleteBody"}),
        ((b"a\r\n0", b"a;" + b"x" * 5000 + b"\r\n0"), {"InvalidRequest", "IncompleteBody"}),
        ((b"sha256:", b"sha256:A"), {"BadDigest", "InvalidRequest", "MalformedTrailerError"}),
        ((b"x-amz-checksum-sha256", b"x-amz-checksum-sha1"), {"BadDigest", "MalformedTrailerError", "InvalidRequest"}),
        ((b"123", b"321"), {"BadDigest"}),
        ((b"0\r\nx-amz", b"x-amz"), {"IncompleteBody", "InvalidRequest"}),
        ((b"\r\n\r\n", b"\r\n\r\nand more"), {"IncompleteBody", "InvalidRequest", "MalformedTrailerError"}),
    ],
)
def test_a_bent_chunk_stores_nothing(
    gateway: MemoryGateway, bucket: str, change: tuple[bytes, bytes], codes: set[str]
) -> None:
    answer = chunked(gateway, change)
    assert answer.code in codes, answer
    assert answer.status == 400
    assert stored(gateway) == ["kept"]


def test_chunks_that_are_right_are_stored_without_their_coding(gateway: MemoryGateway, bucket: str) -> None:
    assert chunked(gateway).status == 200
    assert sent(gateway, RawRequest(method="GET", target=f"/{bucket}/chunked")).body == CONTENTS[:20]


def test_a_line_end_in_what_was_stored_splits_no_answer(gateway: MemoryGateway, bucket: str) -> None:
    document = b"""<CORSConfiguration><CORSRule><AllowedOrigin>*</AllowedOrigin><AllowedMethod>GET</AllowedMethod>
        <ExposeHeader>a&#13;&#10;x-evil: 1</ExposeHeader></CORSRule></CORSConfiguration>"""
    sent(gateway, RawRequest(method="PUT", target=f"/{bucket}?cors", body=document))
    seen = sent(gateway, RawRequest(method="GET", target=f"/{bucket}/kept", headers=(("Origin", "https://a"),)))
    assert (seen.status, seen.body) == (200, b"kept")
    assert "\r\nx-evil" not in seen.head.lower()
    assert "\n\n" not in seen.head


def test_a_line_end_in_the_field_of_a_form_splits_no_answer(gateway: MemoryGateway, bucket: str) -> None:
    s3 = boto3.client(
        "s3",
        endpoint_url=gateway.url,
        aws_access_key_id="OURS",
        aws_secret_access_key=SECRET,
        region_name=REGION,
    )
    evil = {"x-amz-meta-a": "b\r\nx-evil: 1", "Content-Type": "text/plain\r\nx-evil: 2", "success_action_status": "200"}
    post = s3.generate_presigned_post(bucket, "posted\r\nx-evil: 3", evil, [{name: evil[name]} for name in evil])
    posted = httpx.post(post["url"], data=post["fields"], files={"file": ("a", b"contents")})
    assert posted.status_code == 200, posted.text
    assert "x-evil" not in posted.headers
    for name in stored(gateway):
        seen = sent(gateway, RawRequest(method="GET", target=f"/{bucket}/{quote(name)}"))
        assert seen.status == 200
        assert "\r\nx-evil" not in seen.head
