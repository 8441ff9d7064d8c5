"""What a tenant keeps in sealed records of its own: its keys for a client, its S3 access keys, its keys in escrow.

Addresses bind tenant and version id as those of objects do; each record has a version id of its own.

    keys for a client   sealed box to the client's Ed25519 key as an X25519 key: canonical MasterKeys
    access keys         committed sealing under the latest master key, domain ACCESS: canonical AccessKeys
    escrow              canonical EscrowShares: MasterKeys under the escrow key, domain ESCROW, and for each seat a
                        sealed box to its network key that holds its canonical EscrowShare
    a handed-over share sealed box to the announced key: canonical EscrowShare

The escrow key is 32 random bytes; each of its halves is split by Shamir's scheme over GF(2^128), so that any q shares
give it back and fewer tell nothing. The chain keeps what each share hashes to: a false share is noticed and named.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta

from consensus.encoding import Record, decode, encode
from consensus.identifiers import HASH, MEMBERS_MAX, TIME, Milliseconds, PublicKey
from storage.identifiers import SEAT, TENANT, SeatIndex, TenantId
from storage.records import RECORD_BYTES_MAX, check_record_bytes
from storage.sealing import SECRET_BYTES, SealingDomain, SealingSalt, SecretKey, seal_committed, unseal_committed
from storage.tags import BUCKET_NAME_BYTES_MAX, MasterKey

MASTER_KEYS_MAX: Final = 64
"""One for each revocation; with so many a tenant begins anew under another handle."""
ACCESS_KEYS_MAX: Final = 64
SCOPE_BUCKETS_MAX: Final = 64
HALF_BYTES: Final = 16
SEALED_SHARE_BYTES_MAX: Final = 160
_SHARE_DOMAIN: Final = b"grandest/1/escrow-share\0"

_SECRET = Meta(min_length=SECRET_BYTES, max_length=SECRET_BYTES)
_HALF = Meta(min_length=HALF_BYTES, max_length=HALF_BYTES)


class MasterKeys(Record):
    """All master keys of a tenant, the first one first; the last one seals."""

    tenant: Annotated[TenantId, TENANT]
    secrets: Annotated[tuple[Annotated[bytes, _SECRET], ...], Meta(min_length=1, max_length=MASTER_KEYS_MAX)]

    def __repr__(self) -> str:
        """Reveal nothing."""
        return f"MasterKeys({len(self.secrets)} redacted)"

    def keys(self) -> tuple[MasterKey, ...]:
        """Return them as keys."""
        return tuple(MasterKey(SecretKey(secret)) for secret in self.secrets)


class AccessVerb(StrEnum):
    """What an access key may do."""

    READ = "read"
    WRITE = "write"
    LIST = "list"
    DELETE = "delete"
    ADMINISTER = "administer"


class AccessKeyRecord(Record):
    """One S3 access key: its name, the secret that signs, and its scope. None: every bucket, every verb, for ever."""

    access_key: Annotated[str, Meta(min_length=1, max_length=128)]
    secret_key: Annotated[str, Meta(min_length=1, max_length=128)]
    buckets: (
        Annotated[
            tuple[Annotated[str, Meta(min_length=1, max_length=BUCKET_NAME_BYTES_MAX)], ...],
            Meta(max_length=SCOPE_BUCKETS_MAX),
        ]
        | None
    )
    verbs: Annotated[tuple[AccessVerb, ...], Meta(max_length=len(AccessVerb))] | None
    expires_ms: Annotated[Milliseconds, TIME] | None

    def __repr__(self) -> str:
        """Reveal the name alone."""
        return f"AccessKeyRecord({self.access_key}, redacted)"


class AccessKeys(Record):
    """The S3 access keys of a tenant, at every gateway that it has granted."""

    tenant: Annotated[TenantId, TENANT]
    access_keys: Annotated[tuple[AccessKeyRecord, ...], Meta(max_length=ACCESS_KEYS_MAX)]


class EscrowShare(Record):
    """One share of an escrow key: a point of the polynomial of each half."""

    tenant: Annotated[TenantId, TENANT]
    index: Annotated[int, Meta(ge=1, le=MEMBERS_MAX)]
    first: Annotated[bytes, _HALF]
    second: Annotated[bytes, _HALF]

    def __repr__(self) -> str:
        """Reveal nothing."""
        return f"EscrowShare({self.index}, redacted)"


class SealedShare(Record):
    """A seat's share, sealed to the network key that it had then."""

    seat: Annotated[SeatIndex, SEAT]
    network_key: Annotated[PublicKey, HASH]
    sealed: Annotated[bytes, Meta(max_length=SEALED_SHARE_BYTES_MAX)]


class EscrowShares(Record):
    """The keys in escrow and the shares that open them."""

    sealed_keys: Annotated[bytes, Meta(max_length=RECORD_BYTES_MAX)]
    shares: Annotated[tuple[SealedShare, ...], Meta(min_length=1, max_length=MEMBERS_MAX)]


def seal_access(access: AccessKeys, master_key: MasterKey, salt: SealingSalt) -> bytes:
    """Return the record of access keys; the salt is 32 fresh random bytes.

    Raises:
        RejectionError: OVERSIZED.
    """
    sealed = seal_committed(master_key, SealingDomain.ACCESS, encode(access), salt)
    check_record_bytes(len(sealed))
    return sealed


def unseal_access(sealed: bytes, master_key: MasterKey) -> AccessKeys:
    """Open the record of access keys.

    Raises:
        UnsealError: Another master key, or changed bytes.
        RejectionError: Not access keys within their limits.
    """
    plain = unseal_committed(master_key, SealingDomain.ACCESS, sealed)
    return decode(plain, AccessKeys, bytes_max=RECORD_BYTES_MAX)


def seal_escrowed(keys: MasterKeys, escrow_key: SecretKey, salt: SealingSalt) -> bytes:
    """Return a tenant's keys sealed under its escrow key."""
    return seal_committed(escrow_key, SealingDomain.ESCROW, encode(keys), salt)


def unseal_escrowed(sealed: bytes, escrow_key: SecretKey) -> MasterKeys:
    """Open keys in escrow; raises UnsealError when the escrow key is another."""
    return decode(unseal_committed(escrow_key, SealingDomain.ESCROW, sealed), MasterKeys, bytes_max=RECORD_BYTES_MAX)


def share_commitment(share: EscrowShare) -> bytes:
    """Return what the chain keeps of a share: 32 bytes that hide its 256 random ones."""
    return hashlib.sha256(_SHARE_DOMAIN + encode(share)).digest()
