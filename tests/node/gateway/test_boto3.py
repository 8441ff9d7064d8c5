"""boto3 with its default settings against the application over a store in memory, plain and over TLS."""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from io import BytesIO
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import httpx
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from node.gateway.application import Application
from node.gateway.http_server import HttpServer
from node.gateway.metrics import Metrics
from tests.node.gateway.test_application import SECRET, access, tenants_of

if TYPE_CHECKING:
    from boto3 import Client  # made by the stubs of typings/

LARGE = 9 * 1024 * 1024
"""Above what boto3 sends in one request."""


def make_certificate(folder: Path) -> Path:
    """Write a certificate for 127.0.0.1 and its key into one file."""
    private_key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(private_key, hashes.SHA256())
    )
    path = folder / "certificate"
    private = private_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private)
    return path


@asynccontextmanager
async def serving(certificate: Path | None) -> AsyncGenerator[Client]:
    context = None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
    server = HttpServer(Application(tenants_of(access("mine")), Metrics()), tls=context)
    port = await server.listen("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve)
        yield boto3.client(
            "s3",
            endpoint_url=f"{'http' if certificate is None else 'https'}://127.0.0.1:{port}",
            aws_access_key_id="mine",
            aws_secret_access_key=SECRET,
            region_name="grand-est",
            verify=None if certificate is None else str(certificate),
        )
        nursery.cancel_scope.cancel()


def use_everything(client: Client) -> None:
    client.create_bucket(Bucket="b-one")
    client.put_object(Bucket="b-one", Key="small", Body=b"hello", Metadata={"a": "b"})
    assert client.get_object(Bucket="b-one", Key="small")["Body"].read() == b"hello"
    for algorithm in ("CRC32", "CRC32C", "SHA1", "SHA256"):
        stored = client.put_object(Bucket="b-one", Key=algorithm, Body=b"hello", ChecksumAlgorithm=algorithm)
        assert stored[f"Checksum{algorithm}"]
    contents = bytes(range(256)) * (LARGE // 256)
    client.upload_fileobj(BytesIO(contents), "b-one", "large")
    read = BytesIO()
    client.download_fileobj("b-one", "large", read)
    assert read.getvalue() == contents
    url = client.generate_presigned_url("get_object", Params={"Bucket": "b-one", "Key": "small"}, ExpiresIn=60)
    assert httpx.get(str(url), verify=False, trust_env=False).content == b"hello"  # noqa: S501 (its certificate is our own)
    form = client.generate_presigned_post("b-one", "from-a-form")
    fields, files = dict(form["fields"]), {"file": b"posted"}
    answer = httpx.post(form["url"], data=fields, files=files, verify=False, trust_env=False)  # noqa: S501 (as above)
    assert answer.status_code == 204
    assert client.get_object(Bucket="b-one", Key="from-a-form")["Body"].read() == b"posted"


@pytest.mark.parametrize("is_secure", [False, True])
async def test_boto3_works_unchanged(is_secure: bool, tmp_path: Path) -> None:  # noqa: FBT001 (a parameter of the test)
    async with serving(make_certificate(tmp_path) if is_secure else None) as client:
        await trio.to_thread.run_sync(use_everything, client)
