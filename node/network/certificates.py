"""Self-signed X.509 certificates from an Ed25519 key: the identity shown on the shard channel.

Fully determined by the key (subject and issuer CN = hex of the public key, serial from its hash, fixed dates, no
extensions), so that it can be made again from the key alone. Each key has its own subject name: two certificates with
one name confuse OpenSSL's choice of trust anchor. Trust comes from pinning the exact DER bytes, never dates or names.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import ssl
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from consensus.errors import RejectionError, RejectionReason
from consensus.identifiers import PublicKey
from storage.identifiers import CERTIFICATE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Collection

    from consensus.signing import SigningKey

NOT_BEFORE: Final = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
NOT_AFTER: Final = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)
"""RFC 5280, 4.1.2.5: no well-defined expiration. Keys end by a transaction, not by a date."""
CONTEXT_CERTIFICATES_MAX: Final = 65_536


def make_certificate(network_key: SigningKey) -> bytes:
    """Return the key's certificate, DER, about 300 bytes; equal keys give equal bytes."""
    secret = Ed25519PrivateKey.from_private_bytes(network_key.seed())
    name = _name_of(network_key.public)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(secret.public_key())
        .serial_number(int.from_bytes(hashlib.sha256(network_key.public).digest()[:16], "big") | 1)
        .not_valid_before(NOT_BEFORE)
        .not_valid_after(NOT_AFTER)
        .sign(secret, algorithm=None)
    )
    return certificate.public_bytes(serialization.Encoding.DER)


def key_of_certificate(certificate: bytes) -> PublicKey:
    """Return the Ed25519 public key of a certificate made by make_certificate().

    Raises:
        RejectionError: OVERSIZED or MALFORMED; BAD_SIGNATURE when it is not signed by its own key.
    """
    if len(certificate) > CERTIFICATE_BYTES_MAX:
        raise RejectionError(RejectionReason.OVERSIZED, f"certificate of {len(certificate)} bytes")
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        certified = parsed.public_key()
        subject, issuer = parsed.subject, parsed.issuer
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise RejectionError(RejectionReason.MALFORMED, f"certificate: {str(error)[:100]}") from error
    if not isinstance(certified, Ed25519PublicKey) or parsed.signature_algorithm_oid != SignatureAlgorithmOID.ED25519:
        raise RejectionError(RejectionReason.MALFORMED, "certificate of another kind of key")
    public_key = PublicKey(certified.public_bytes_raw())
    if not subject == issuer == _name_of(public_key):
        raise RejectionError(RejectionReason.MALFORMED, "certificate named otherwise than by its key")
    try:
        certified.verify(parsed.signature, parsed.tbs_certificate_bytes)
    except InvalidSignature as error:
        raise RejectionError(RejectionReason.BAD_SIGNATURE, "certificate not signed by its own key") from error
    return public_key


def server_context(network_key: SigningKey, accepted: Collection[bytes]) -> ssl.SSLContext:
    """Return the answering side's settings: TLS 1.3, a certificate required, only these (DER) accepted."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, network_key, accepted)
    context.num_tickets = 0  # sessions are never resumed: each connection shows its certificate
    return context


def client_context(network_key: SigningKey, expected: bytes) -> ssl.SSLContext:
    """Return the dialling side's settings: TLS 1.3, only the expected certificate (DER) accepted."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, network_key, (expected,))


def _context(protocol: int, network_key: SigningKey, accepted: Collection[bytes]) -> ssl.SSLContext:
    assert len(accepted) <= CONTEXT_CERTIFICATES_MAX, len(accepted)
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    if accepted:
        context.load_verify_locations(cadata=b"".join(accepted))
    _load_identity(context, network_key)
    return context


def _load_identity(context: ssl.SSLContext, network_key: SigningKey) -> None:
    """Hand OpenSSL the key through an anonymous file: the ssl module reads paths only, and secrets stay off disks."""
    secret = Ed25519PrivateKey.from_private_bytes(network_key.seed()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    certificate = ssl.DER_cert_to_PEM_cert(make_certificate(network_key)).encode()
    descriptor = os.memfd_create("tls-identity", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, secret + certificate)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _name_of(public_key: PublicKey) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, public_key.hex())])
