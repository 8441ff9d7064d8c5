"""What the gateway needs of the place where one tenant's objects are kept; `chain_store.py` is the real one.

The operations of S3 (`*_operations.py`) speak to this Protocol alone, so that they are tried against a store in memory,
too. Names are plaintext here: below this line they are tags and sealed records.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

from storage.buckets import Governance, ObjectLock, Retention, Versioning, VersionLock
from storage.identifiers import VersionId

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from node.client.upload import Source
    from node.gateway.http_server import Send
    from node.gateway.refusals import WriteFailure

NULL: Final = "null"
"""How S3 writes the id of the version that has none."""
VERSION_DIGITS: Final = 32


class LegalHold(Enum):
    """Whether somebody holds a version for the law, as S3 writes it."""

    ON = "ON"
    OFF = "OFF"


class Place(Enum):
    """Where a version stands among those of its name."""

    LATEST = "latest"
    OLDER = "older"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartDetails:
    """One part of an object that was uploaded in parts."""

    number: int
    plain_bytes: int
    checksum: str = ""
    """Base64 of the object's algorithm; empty when the record has no room for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checksum:
    """An additional checksum as S3 writes it."""

    algorithm: str
    """Upper case, such as CRC64NVME."""
    text: str
    """Base64, with "-N" behind it when it is of N parts' checksums."""
    is_composite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectDetails:
    """What a tenant keeps of an object version beside its bytes."""

    plain_bytes: int
    etag: str
    """Without quotes."""
    modified_ms: int
    content_type: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    """Content-Encoding and the like, names in lower case."""
    user_metadata: tuple[tuple[str, str], ...] = ()
    checksum: Checksum | None = None
    parts: tuple[PartDetails, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    upload_id: str = ""
    """Of the upload in parts that made it, so that completing it again is answered alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of an object, or a marker that says it was deleted."""

    name: str
    version_id: VersionId
    is_null: bool
    is_marker: bool
    is_latest: bool
    details: ObjectDetails
    lock: VersionLock | None = None
    proof_headers: tuple[tuple[str, str], ...] = ()
    handle: object = None
    """What the store needs to read it."""

    @property
    def shown_id(self) -> str:
        """Return the version's id as S3 writes it."""
        return NULL if self.is_null else self.version_id.hex()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A bucket and what it is told to do."""

    name: str
    created_ms: int
    versioning: Versioning = Versioning.OFF
    lock: ObjectLock | None = None
    settings: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """By sub-resource: encoded records of `settings.py`."""
    handle: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewVersion:
    """What is to be put under a name."""

    name: str
    details: Callable[[], ObjectDetails]
    """Called once all bytes were read; raises S3Error when they were not what was announced."""
    condition: bytes | None = None
    """None: any. Empty: only if absent. 16 bytes: only if this version is the current one."""
    lock: VersionLock | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """One version to remove; None: the current one of a bucket without versioning."""

    name: str
    object_version: VersionId | None
    """NULL_VERSION for the null one."""


@dataclass(frozen=True, slots=True)
class ProvenFrame:
    """The proof of one frame (storage/frame_proofs.py), encoded, and how many the version has."""

    encoded: bytes
    frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """An upload in parts, under way."""

    name: str
    upload_id: str
    begun_ms: int
    details: ObjectDetails
    """Of the object to be: everything but what its bytes tell."""
    algorithm: str = ""
    """Of its checksum, upper case; empty for none."""
    composition: str = ""
    """FULL_OBJECT or COMPOSITE."""
    lock: VersionLock | None = None
    handle: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One name of a listing, from the index."""

    name: str
    version_id: VersionId
    is_null: bool
    is_marker: bool
    is_latest: bool
    plain_bytes: int
    etag: str
    modified_ms: int
    checksum_algorithm: str = ""
    is_composite: bool = False

    @property
    def shown_id(self) -> str:
        """Return the version's id as S3 writes it."""
        return NULL if self.is_null else self.version_id.hex()


class Store(Protocol):
    """One tenant's buckets and objects.

    Reads see every write that any gateway acknowledged before they began, unless `is_local()` says otherwise. Writes
    raise WriteRefusedError with the ledger's reason. Every call raises PeerUnreachableError when too few nodes answer.
    """

    async def fence(self) -> bool:
        """Wait until what follows sees everything acknowledged so far; False when too few nodes could be asked."""
        ...

    async def buckets(self) -> Sequence[Bucket]:
        """Return all buckets in order of name."""
        ...

    async def bucket(self, name: str) -> Bucket | None:
        """Return one bucket."""
        ...

    async def create_bucket(self, bucket: Bucket) -> None:
        """Make a bucket; refused with BUCKET_EXISTS when there is one."""
        ...

    async def change_bucket(self, bucket: Bucket) -> None:
        """Replace a bucket's settings; refused with CONFLICT when they changed since it was read."""
        ...

    async def delete_bucket(self, name: str) -> None:
        """Delete an empty bucket."""
        ...

    async def current(self, bucket: str, name: str) -> Version | None:
        """Return the current version or marker of a name."""
        ...

    async def object_version(self, bucket: str, name: str, object_version: VersionId) -> Version | None:
        """Return one version or marker of a name; NULL_VERSION names the null one."""
        ...

    async def put(self, bucket: str, new: NewVersion, source: Source) -> Version:
        """Store an object."""
        ...

    async def put_marker(self, bucket: str, name: str) -> Version:
        """Mark a name as deleted, in a bucket whose versioning is enabled or suspended."""
        ...

    async def compose(self, bucket: str, new: NewVersion, parts: Sequence[Version]) -> Version:
        """Store an object that consists of other objects' bytes, one after the other, without moving any.

        All parts were sealed under one object key: one object, or the parts of one upload.
        """
        ...

    async def begin_upload(self, bucket: str, upload: Upload) -> str:
        """Begin an upload in parts; returns its id. Any gateway may go on with it."""
        ...

    async def upload(self, bucket: str, name: str, upload_id: str) -> Upload | None:
        """Return an upload that was begun and neither completed nor aborted."""
        ...

    async def uploads(self, bucket: str) -> Sequence[Upload]:
        """Return a bucket's unfinished uploads, in order of name, then of time."""
        ...

    async def put_part(self, bucket: str, upload: Upload, number: int, new: NewVersion, source: Source) -> Version:
        """Store a part; it replaces one of the same number."""
        ...

    async def parts(self, bucket: str, upload: Upload) -> Sequence[tuple[int, Version]]:
        """Return an upload's parts in order of number."""
        ...

    async def end_upload(self, bucket: str, upload: Upload) -> None:
        """Forget an upload and its parts."""
        ...

    async def remove(
        self, bucket: str, names: Sequence[Named], governance: Governance = Governance.OBEYED
    ) -> list[WriteFailure | None]:
        """Remove versions for good; per name None or why not. An absent one is no failure."""
        ...

    async def set_retention(
        self, bucket: str, object_version: Version, retention: Retention | None, governance: Governance
    ) -> None:
        """Change until when a version stays as it is."""
        ...

    async def set_hold(self, bucket: str, object_version: Version, hold: LegalHold) -> None:
        """Set or lift a version's legal hold."""
        ...

    async def set_tags(self, bucket: str, object_version: Version, tags: tuple[tuple[str, str], ...]) -> None:
        """Replace a version's tags."""
        ...

    async def list_current(self, bucket: str, prefix: str, start: str, names_max: int) -> Sequence[Listed]:
        """Return current objects whose names have the prefix, from `start` (inclusive) on, in order of UTF-8 bytes."""
        ...

    async def list_versions(
        self, bucket: str, prefix: str, start: str, versions_max: int, behind: VersionId | None
    ) -> Sequence[Listed]:
        """Return versions and markers from the name `start` on, names in order, each name's newest first.

        `behind` leaves out the versions of that first name up to this one, itself included.
        """
        ...

    async def read(self, object_version: Version, send: Send, first: int, byte_count: int) -> None:
        """Give a range of a version's bytes."""
        ...

    async def prove(self, object_version: Version, position: int) -> ProvenFrame | None:
        """Return the proof of one frame of a version; None when it has no such frame."""
        ...
