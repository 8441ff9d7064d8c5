"""A tenant's store in memory, by the rules of the ledger: a simulator for the operations of S3."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from node.client.upload import Source
from node.gateway.http_server import Send
from node.gateway.refusals import WriteFailure, WriteRefusedError
from node.gateway.store import Bucket, LegalHold, Listed, Named, NewVersion, ObjectDetails, ProvenFrame, Upload, Version
from storage.buckets import NULL_VERSION, Governance, Retention, RetentionMode, Versioning, VersionLock
from storage.identifiers import VersionId

READ_BYTES = 1024 * 1024


@dataclass(slots=True)
class Contents:
    """One bucket's names, each with its versions, newest first."""

    bucket: Bucket
    versions: dict[str, list[Version]] = field(default_factory=dict[str, list[Version]])
    uploads: dict[str, Upload] = field(default_factory=dict[str, Upload])
    parts: dict[tuple[str, int], Version] = field(default_factory=dict[tuple[str, int], Version])


class MemoryStore:
    """Implements Store."""

    def __init__(self) -> None:
        self.contents: dict[str, Contents] = {}
        self.is_strong = True

    async def fence(self) -> bool:
        return self.is_strong

    async def buckets(self) -> Sequence[Bucket]:
        return [self.contents[name].bucket for name in sorted(self.contents)]

    async def bucket(self, name: str) -> Bucket | None:
        found = self.contents.get(name)
        return None if found is None else found.bucket

    async def create_bucket(self, bucket: Bucket) -> None:
        if bucket.name in self.contents:
            raise WriteRefusedError(WriteFailure.BUCKET_EXISTS)
        self.contents[bucket.name] = Contents(bucket)

    async def change_bucket(self, bucket: Bucket) -> None:
        self._contents(bucket.name).bucket = bucket

    async def delete_bucket(self, name: str) -> None:
        contents = self._contents(name)
        if contents.versions:
            raise WriteRefusedError(WriteFailure.BUCKET_NOT_EMPTY)
        del self.contents[name]

    async def current(self, bucket: str, name: str) -> Version | None:
        versions = self._contents(bucket).versions.get(name)
        return versions[0] if versions else None

    async def object_version(self, bucket: str, name: str, object_version: VersionId) -> Version | None:
        versions = self._contents(bucket).versions.get(name, [])
        return next((found for found in versions if self._is_named(found, object_version)), None)

    async def put(self, bucket: str, new: NewVersion, source: Source) -> Version:
        held = await _read_all(source)
        return self._commit(bucket, new.name, new, held)

    async def put_marker(self, bucket: str, name: str) -> Version:
        details = ObjectDetails(plain_bytes=0, etag="", modified_ms=_now_ms())
        marker = NewVersion(name=name, details=lambda: details)
        return self._commit(bucket, name, marker, b"", is_marker=True)

    async def compose(self, bucket: str, new: NewVersion, parts: Sequence[Version]) -> Version:
        return self._commit(bucket, new.name, new, b"".join(_held(part) for part in parts))

    async def begin_upload(self, bucket: str, upload: Upload) -> str:
        upload_id = secrets.token_hex(16)
        self._contents(bucket).uploads[upload_id] = replace(upload, upload_id=upload_id)
        return upload_id

    async def upload(self, bucket: str, name: str, upload_id: str) -> Upload | None:
        found = self._contents(bucket).uploads.get(upload_id)
        return found if found is not None and found.name == name else None

    async def uploads(self, bucket: str) -> Sequence[Upload]:
        return sorted(self._contents(bucket).uploads.values(), key=lambda upload: (upload.name, upload.begun_ms))

    async def put_part(self, bucket: str, upload: Upload, number: int, new: NewVersion, source: Source) -> Version:
        held = await _read_all(source)
        part = _version(new.name, new.details(), held)
        self._contents(bucket).parts[upload.upload_id, number] = part
        return part

    async def parts(self, bucket: str, upload: Upload) -> Sequence[tuple[int, Version]]:
        parts = self._contents(bucket).parts.items()
        return sorted(
            ((number, part) for (upload_id, number), part in parts if upload_id == upload.upload_id),
            key=lambda pair: pair[0],
        )

    async def end_upload(self, bucket: str, upload: Upload) -> None:
        contents = self._contents(bucket)
        contents.uploads.pop(upload.upload_id, None)
        contents.parts = {place: part for place, part in contents.parts.items() if place[0] != upload.upload_id}

    async def remove(
        self, bucket: str, names: Sequence[Named], governance: Governance = Governance.OBEYED
    ) -> list[WriteFailure | None]:
        return [self._remove(bucket, named, governance) for named in names]

    async def set_retention(
        self, bucket: str, object_version: Version, retention: Retention | None, governance: Governance
    ) -> None:
        old = None if object_version.lock is None else object_version.lock.retention
        shortens = old is not None and (retention is None or retention.until_ms < old.until_ms)
        weakens = old is not None and retention is not None and old.mode is not retention.mode
        is_running = old is not None and old.until_ms > _now_ms()
        may_bypass = old is not None and old.mode is RetentionMode.GOVERNANCE and governance is Governance.BYPASSED
        if is_running and (shortens or weakens) and not may_bypass:
            raise WriteRefusedError(WriteFailure.RETAINED)
        hold = object_version.lock is not None and object_version.lock.legal_hold
        self._replace(
            bucket, object_version, replace(object_version, lock=VersionLock(retention=retention, legal_hold=hold))
        )

    async def set_hold(self, bucket: str, object_version: Version, hold: LegalHold) -> None:
        retention = None if object_version.lock is None else object_version.lock.retention
        self._replace(
            bucket,
            object_version,
            replace(object_version, lock=VersionLock(retention=retention, legal_hold=hold is LegalHold.ON)),
        )

    async def set_tags(self, bucket: str, object_version: Version, tags: tuple[tuple[str, str], ...]) -> None:
        self._replace(
            bucket, object_version, replace(object_version, details=replace(object_version.details, tags=tags))
        )

    async def list_current(self, bucket: str, prefix: str, start: str, names_max: int) -> Sequence[Listed]:
        versions = self._contents(bucket).versions
        names = sorted((name for name in versions if name.startswith(prefix)), key=str.encode)
        found = [versions[name][0] for name in names if name.encode() >= start.encode()]
        return [_listed(object_version) for object_version in found if not object_version.is_marker][:names_max]

    async def list_versions(
        self, bucket: str, prefix: str, start: str, versions_max: int, behind: VersionId | None
    ) -> Sequence[Listed]:
        versions = self._contents(bucket).versions
        names = sorted((name for name in versions if name.startswith(prefix)), key=str.encode)
        found = [
            object_version for name in names if name.encode() >= start.encode() for object_version in versions[name]
        ]
        if behind is not None:
            places = [
                place
                for place, object_version in enumerate(found)
                if object_version.name == start and self._is_named(object_version, behind)
            ]
            found = (
                found[places[0] + 1 :]
                if places
                else [object_version for object_version in found if object_version.name != start]
            )
        return [_listed(object_version) for object_version in found][:versions_max]

    async def read(self, object_version: Version, send: Send, first: int, byte_count: int) -> None:
        held = memoryview(_held(object_version))[first : first + byte_count]
        for start in range(0, len(held), READ_BYTES):
            await send(held[start : start + READ_BYTES])

    async def prove(self, object_version: Version, position: int) -> ProvenFrame | None:
        held = _held(object_version)
        return ProvenFrame(held, 1) if held and position == 0 else None

    def _contents(self, bucket: str) -> Contents:
        if bucket not in self.contents:
            raise WriteRefusedError(WriteFailure.BUCKET_MISSING)
        return self.contents[bucket]

    def _commit(self, bucket: str, name: str, new: NewVersion, held: bytes, *, is_marker: bool = False) -> Version:
        details = new.details()
        contents = self._contents(bucket)
        versions = contents.versions.get(name, [])
        current = versions[0] if versions and not versions[0].is_marker else None
        if new.condition is not None and new.condition != (b"" if current is None else current.version_id):
            raise WriteRefusedError(WriteFailure.CONDITION_FAILED)
        is_null = contents.bucket.versioning is not Versioning.ENABLED
        object_version = _version(name, details, held, is_null=is_null, is_marker=is_marker)
        lock = new.lock
        default = None if contents.bucket.lock is None else contents.bucket.lock.default
        if lock is None and default is not None and not is_marker:
            until_ms = _now_ms() + default.days * 86_400_000
            lock = VersionLock(retention=Retention(mode=default.mode, until_ms=until_ms), legal_hold=False)  # type: ignore[arg-type]
        object_version = replace(object_version, lock=lock)
        kept = [] if contents.bucket.versioning is Versioning.OFF else versions
        kept = [old for old in kept if not (is_null and old.is_null)]
        self._set(contents, name, [object_version, *kept])
        return object_version

    def _remove(self, bucket: str, named: Named, governance: Governance) -> WriteFailure | None:
        contents = self._contents(bucket)
        versions = contents.versions.get(named.name, [])
        wanted = NULL_VERSION if named.object_version is None else named.object_version
        for object_version in versions:
            if self._is_named(object_version, wanted):
                if _is_retained(object_version, governance):
                    return WriteFailure.RETAINED
                self._set(contents, named.name, [old for old in versions if old is not object_version])
        return None

    def _replace(self, bucket: str, old: Version, new: Version) -> None:
        contents = self._contents(bucket)
        versions = contents.versions.get(old.name, [])
        changed = [new if found.version_id == old.version_id else found for found in versions]
        self._set(contents, old.name, changed)

    def _set(self, contents: Contents, name: str, versions: list[Version]) -> None:
        contents.versions.pop(name, None)
        if versions:
            contents.versions[name] = [
                replace(object_version, is_latest=place == 0) for place, object_version in enumerate(versions)
            ]

    def _is_named(self, object_version: Version, named: VersionId) -> bool:
        return (
            object_version.is_null
            if named == NULL_VERSION
            else (not object_version.is_null and object_version.version_id == named)
        )


def _is_retained(object_version: Version, governance: Governance) -> bool:
    lock = object_version.lock
    if lock is None:
        return False
    if lock.legal_hold:
        return True
    retention = lock.retention
    if retention is None or retention.until_ms <= _now_ms():
        return False
    return not (governance is Governance.BYPASSED and retention.mode is RetentionMode.GOVERNANCE)


def _version(
    name: str, details: ObjectDetails, held: bytes, *, is_null: bool = True, is_marker: bool = False
) -> Version:
    return Version(
        name=name,
        version_id=VersionId(secrets.token_bytes(16)),
        is_null=is_null,
        is_marker=is_marker,
        is_latest=True,
        details=details,
        handle=held,
    )


def _listed(object_version: Version) -> Listed:
    checksum = object_version.details.checksum
    return Listed(
        name=object_version.name,
        version_id=object_version.version_id,
        is_null=object_version.is_null,
        is_marker=object_version.is_marker,
        is_latest=object_version.is_latest,
        plain_bytes=object_version.details.plain_bytes,
        etag=object_version.details.etag,
        modified_ms=object_version.details.modified_ms,
        checksum_algorithm="" if checksum is None else checksum.algorithm,
        is_composite=checksum is not None and checksum.is_composite,
    )


def _held(object_version: Version) -> bytes:
    assert isinstance(object_version.handle, bytes), "of this store"
    return object_version.handle


async def _read_all(source: Source) -> bytes:
    pieces: list[bytes] = []
    while piece := bytes(await source.read(READ_BYTES)):
        pieces.append(piece)
        if len(piece) < READ_BYTES:
            break
    return b"".join(pieces)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
