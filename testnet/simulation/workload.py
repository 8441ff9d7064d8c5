"""What tenants do: entries with records, overwritten and deleted, and grants, so that all of the ledger moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from consensus.genesis import ConsensusParameters, Genesis, genesis_hash
from consensus.identifiers import Height, Milliseconds, PublicKey
from node.submission import Submission
from storage.buckets import NewBucket
from storage.genesis import GenesisTenant, Grant, Seat, StorageGenesis, StorageParameters, encode_storage_genesis
from storage.identifiers import BucketTag, NameTag, TenantId, VersionId
from storage.records import record_address
from storage.transactions import (
    BucketEntries,
    CommitObjects,
    DeleteEntries,
    EntryCommit,
    EntryName,
    Envelope,
    GrantClient,
    sign_transaction,
)

if TYPE_CHECKING:
    from random import Random

    from consensus.signing import SignatureMaker
    from storage.transactions import Body

TENANT: Final = TenantId(b"tenant of worlds")
BUCKET: Final = BucketTag(b"bucket of worlds")
SETTINGS: Final = b"settings of worlds"
SETTINGS_VERSION: Final = VersionId(b"settings version")
NEW_BUCKET: Final = NewBucket(
    bucket_tag=BUCKET,
    version_id=SETTINGS_VERSION,
    record_address=record_address(TENANT, SETTINGS_VERSION, SETTINGS),
)
NAMES: Final = 8
"""So few names that most entries are overwritten, and their records erased."""
RECORD_BYTES: Final = (100, 400)
GRANTS: Final = 0.1
DELETIONS: Final = 0.1
"""Shares of the transactions; the rest commits entries."""
GENESIS_MS: Final = Milliseconds(1_700_000_000_000)


def make_genesis(keys: tuple[SignatureMaker, ...], owner: SignatureMaker, client: SignatureMaker) -> Genesis:
    """Return the genesis of a world: a seat for each key, and one tenant with one client."""
    seats = tuple(
        Seat(
            operator=f"operator {index}",
            site="nowhere",
            network_key=signing_key.public,
            certificate=b"certificate",
            host="127.0.0.1",
            libp2p_port=1,
            shard_port=2,
            api_port=3,
        )
        for index, signing_key in enumerate(keys)
    )
    grant = Grant(public_key=client.public, certificate=b"certificate")
    tenant = GenesisTenant(tenant=TENANT, public_key=owner.public, grants=(grant,))
    part = StorageGenesis(seats=seats, tenants=(tenant,), parameters=StorageParameters())
    return Genesis(
        chain_id="simulation",
        time_ms=GENESIS_MS,
        members=tuple(signing_key.public for signing_key in keys),
        parameters=ConsensusParameters(),
        application=encode_storage_genesis(part),
    )


@dataclass(slots=True, kw_only=True)
class Workload:
    """One transaction after the other."""

    rng: Random
    genesis: Genesis
    owner: SignatureMaker
    client: SignatureMaker
    sequence: int = 0

    def next_submission(self) -> Submission:
        """Return what a client posts next."""
        luck = self.rng.random()
        if luck < GRANTS:
            body = GrantClient(tenant=TENANT, public_key=PublicKey(self.rng.randbytes(32)), certificate=b"certificate")
            return Submission(transaction=self._signed(body, self.owner), records=())
        if luck < GRANTS + DELETIONS:
            name = EntryName(bucket_tag=BUCKET, name_tag=self._name(), version_id=None)
            return Submission(
                transaction=self._signed(DeleteEntries(tenant=TENANT, entries=(name,)), self.client), records=()
            )
        return self._commit()

    def _commit(self) -> Submission:
        entries: list[EntryCommit] = []
        records: list[bytes] = [SETTINGS]
        for _ in range(self.rng.randrange(1, 4)):
            version_id = VersionId(self.rng.randbytes(16))
            sealed = self.rng.randbytes(self.rng.randrange(*RECORD_BYTES))
            records.append(sealed)
            entries.append(
                EntryCommit(
                    name_tag=self._name(),
                    version_id=version_id,
                    record_address=record_address(TENANT, version_id, sealed),
                    extents=(),
                    condition=None,
                )
            )
        bucket = BucketEntries(bucket_tag=BUCKET, entries=tuple(entries))
        body = CommitObjects(tenant=TENANT, segments=(), buckets=(bucket,), receipts=(), new_buckets=(NEW_BUCKET,))
        return Submission(transaction=self._signed(body, self.client), records=tuple(records))

    def _signed(self, body: Body, signing_key: SignatureMaker) -> bytes:
        self.sequence += 1
        envelope = Envelope(
            transaction_version=1,
            sender=signing_key.public,
            sequence=self.sequence,
            valid_until_height=Height(900),
            body=body,
        )
        return sign_transaction(envelope, signing_key, genesis_hash(self.genesis))

    def _name(self) -> NameTag:
        return NameTag(bytes([self.rng.randrange(NAMES)]) * 16)
