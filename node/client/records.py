"""Records fetched from the holders in bulk, each checked against the address that the chain shows, and opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import trio

from node.client.gathering import Gathering
from node.client.links import RECORDS_PER_READ_MAX
from storage.errors import ShardMissingError
from storage.records import OpenedRecord, record_address, unseal_record
from storage.sealing import SealingDomain, is_sealed_under
from storage.tags import BucketKey, BucketKeys, MasterKey, TenantTagKey, bucket_key, bucket_tag_key, tenant_tag_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from node.client.chain import EntryView
    from node.client.holders import HolderPool
    from node.client.links import HolderLink
    from storage.identifiers import BucketTag, RecordAddress, SeatIndex, TenantId, VersionId

HEDGE_SECONDS: Final = 0.25
SECONDS_PER_RECORD: Final = 0.002
PATIENT_SECONDS: Final = 2.0
READS_IN_FLIGHT: Final = 4


class RecordName(Protocol):
    """What has a record: a version, a bucket."""

    @property
    def version_id(self) -> VersionId:
        """Return the version that its address binds."""
        ...

    @property
    def record_address(self) -> RecordAddress:
        """Return its address on chain."""
        ...


@dataclass(frozen=True, slots=True)
class NamedRecord:
    """A record that stands beside another one of the same version."""

    version_id: VersionId
    record_address: RecordAddress


class Keyring:
    """The keys that hang from a tenant's master keys; derived once a bucket."""

    def __init__(self, master_keys: Sequence[MasterKey]) -> None:
        """Seal under the last one, open under any; the tenant's tag key follows from the first."""
        assert master_keys, "a tenant has a master key"
        self._master_keys = tuple(master_keys)
        self.tag_key: TenantTagKey = tenant_tag_key(master_keys[0])
        self._buckets: dict[BucketTag, tuple[BucketKeys, ...]] = {}

    def __repr__(self) -> str:
        """Show nothing."""
        return "Keyring(redacted)"

    def renew(self, master_keys: Sequence[MasterKey]) -> None:
        """Take over the master keys of now: the same and later ones; what is sealed from now on is under the last."""
        assert master_keys, "a tenant has a master key"
        self._master_keys = tuple(master_keys)
        self._buckets.clear()

    def bucket(self, tag: BucketTag) -> BucketKeys:
        """Return the keys under which a bucket's records are sealed now, by its tag alone."""
        return self._all(tag)[-1]

    def is_latest(self, tag: BucketTag, sealed: bytes) -> bool:
        """Say whether a sealed record of a bucket opens under the latest master key."""
        return _is_under(self._all(tag)[-1].bucket_key, sealed)

    def opening(self, tag: BucketTag, sealed: bytes) -> BucketKeys:
        """Return the keys under which a sealed record of a bucket opens; the latest when none of them fits."""
        keys = self._all(tag)
        if len(keys) == 1:
            return keys[0]
        fitting = (found for found in reversed(keys) if _is_under(found.bucket_key, sealed))
        return next(fitting, keys[-1])

    def _all(self, tag: BucketTag) -> tuple[BucketKeys, ...]:
        if tag not in self._buckets:
            tag_key = bucket_tag_key(self.tag_key, tag)
            self._buckets[tag] = tuple(
                BucketKeys(tag=tag, bucket_key=bucket_key(master_key, tag), tag_key=tag_key)
                for master_key in self._master_keys
            )
        return self._buckets[tag]


def _is_under(parent: BucketKey, sealed: bytes) -> bool:
    domains = (SealingDomain.RECORD, SealingDomain.SETTINGS, SealingDomain.TAGS)
    return any(is_sealed_under(parent, domain, sealed) for domain in domains)


class SealedRecords:
    """Fetches sealed records of one tenant."""

    def __init__(self, pool: HolderPool, tenant: TenantId) -> None:
        self._pool = pool
        self._tenant = tenant
        self._turn = 0
        self._gathering = Gathering(
            self._fetch_in_order, together_max=RECORDS_PER_READ_MAX, in_flight_max=READS_IN_FLIGHT
        )

    async def run(self) -> None:
        """Ask for what sealed() needs until cancelled."""
        await self._gathering.run()

    async def sealed(self, named: RecordName) -> bytes:
        """Return one sealed record; raises ShardMissingError when no live holder has it."""
        sealed = await self._gathering.ask(NamedRecord(named.version_id, named.record_address))
        if sealed is None:
            raise ShardMissingError(f"no live holder has record {named.record_address.hex()[:16]}{self._nobody()}")
        return sealed

    async def fetch(self, named: Sequence[RecordName]) -> dict[RecordAddress, bytes]:
        """Return the sealed records, by address, each asked of one live holder after another.

        Holders take turns at being first, prompt ones before others; one that takes longer than HEDGE_SECONDS is left
        for the others, and asked with more patience in a second round.
        """
        found: dict[RecordAddress, bytes] = {}
        for seconds in (HEDGE_SECONDS + len(named) * SECONDS_PER_RECORD, PATIENT_SECONDS):
            for seat in self._seats_in_turn():
                missing = [one for one in named if one.record_address not in found]
                if not missing:
                    return found
                with trio.move_on_after(seconds) as scope:
                    await self._fetch_from(seat, missing, found)
                if scope.cancelled_caught:
                    self._pool.note_slow(seat)
        return found

    def _nobody(self) -> str:
        """Return why no holder answers, when none does: a key that was revoked, say."""
        if self._pool.live():
            return ""
        why = "; ".join(f"seat {seat}: {reason}" for seat, reason in self._pool.down_reasons().items())
        return f": none answers ({why})"

    async def _fetch_in_order(self, named: Sequence[NamedRecord]) -> tuple[bytes | None, ...]:
        found = await self.fetch(named)
        return tuple(found.get(one.record_address) for one in named)

    def _seats_in_turn(self) -> list[SeatIndex]:
        live = self._pool.live()
        self._turn += 1
        first = self._turn % max(1, len(live))
        return sorted(live[first:] + live[:first], key=lambda seat: not self._pool.is_prompt(seat))

    async def _fetch_from(
        self, seat: SeatIndex, named: Sequence[RecordName], found: dict[RecordAddress, bytes]
    ) -> None:
        async def ask(_seat: SeatIndex, link: HolderLink, _progressed: Callable[[], None]) -> None:
            for start in range(0, len(named), RECORDS_PER_READ_MAX):
                part = named[start : start + RECORDS_PER_READ_MAX]
                answers = await link.read_records([one.record_address for one in part])
                for one, sealed in zip(part, answers, strict=True):
                    if sealed is not None and self._is_right(one, sealed):
                        found[one.record_address] = sealed

        await self._pool.ask_one(seat, ask)

    def _is_right(self, one: RecordName, sealed: bytes) -> bool:
        return record_address(self._tenant, one.version_id, sealed) == one.record_address


class RecordReader:
    """Reads the records of one tenant."""

    def __init__(self, records: SealedRecords, keyring: Keyring) -> None:
        self._records = records
        self._keyring = keyring

    async def open(self, entry: EntryView) -> OpenedRecord:
        """Return one entry's record.

        Raises:
            ShardMissingError: No live holder has it.
            UnsealError: It is not what this tenant sealed under this name.
        """
        return self.unseal(entry, await self.sealed(entry))

    async def sealed(self, named: RecordName) -> bytes:
        """Return one sealed record; raises ShardMissingError when no live holder has it."""
        return await self._records.sealed(named)

    async def fetch(self, named: Sequence[RecordName]) -> dict[RecordAddress, bytes]:
        """Return the sealed records, by address, that live holders have."""
        return await self._records.fetch(named)

    def unseal(self, entry: EntryView, sealed: bytes) -> OpenedRecord:
        """Open a sealed record of an entry."""
        return unseal_record(sealed, self._keyring.opening(entry.bucket_tag, sealed), entry.name_tag)
