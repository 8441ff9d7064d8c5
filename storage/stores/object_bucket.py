"""An operator's own object store (S3 or what speaks like it), and the only importer of obstore.

What put() and create() have returned is durable as that cluster promises. Requests are tried again for RETRY_S; what
fails then raises StoreUnavailableError, and its outcome is unknown. Thread-safe; every method blocks, without the GIL.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import MemoryStore, S3Store

from storage.errors import StoreUnavailableError

if TYPE_CHECKING:
    from consensus.identifiers import Buffer

RETRY_S: Final = 20.0
REQUEST_S: Final = 30.0
LISTED_AT_ONCE: Final = 1_000
DELETED_AT_ONCE: Final = 1_000
"""What one S3 request deletes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketPlace:
    """Where a bucket is, and who asks; the secret is not shown."""

    endpoint: str
    """Base URL, such as https://ceph.example:7480."""
    bucket: str
    prefix: str
    region: str
    access_key_id: str
    secret_access_key: str

    def __repr__(self) -> str:
        """Show where, never the secret."""
        return f"BucketPlace({self.endpoint}/{self.bucket}/{self.prefix})"


@dataclass(frozen=True, slots=True)
class Listed:
    """An object of a listing."""

    path: str
    byte_count: int


class ObjectBucket:
    """Objects by their paths below a prefix."""

    def __init__(self, store: S3Store | MemoryStore) -> None:
        """Use open_bucket() or memory_bucket()."""
        self._store = store

    def get(self, path: str) -> bytes | None:
        """Return an object's bytes, None when there is none; raises StoreUnavailableError, as all methods do."""
        with _mapped():
            try:
                return bytes(obstore.get(self._store, path).bytes())
            except FileNotFoundError:
                return None

    def get_range(self, path: str, start: int, byte_count: int) -> bytes | None:
        """Return part of an object, fewer bytes where it is shorter; None when there is none."""
        with _mapped():
            try:
                return bytes(obstore.get_range(self._store, path, start=start, length=byte_count))
            except FileNotFoundError:
                return None

    def put(self, path: str, contents: Buffer) -> None:
        """Write an object, in place of what is there."""
        with _mapped():
            obstore.put(self._store, path, bytes(contents), use_multipart=False)

    def create(self, path: str, contents: bytes) -> bool:
        """Write an object unless there is one; say whether it was written."""
        with _mapped():
            try:
                obstore.put(self._store, path, contents, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
            return True

    def delete(self, paths: Sequence[str]) -> None:
        """Delete objects; absent ones are no error."""
        with _mapped():
            for start in range(0, len(paths), DELETED_AT_ONCE):
                try:
                    obstore.delete(self._store, list(paths[start : start + DELETED_AT_ONCE]))
                except FileNotFoundError:
                    for path in paths[start : start + DELETED_AT_ONCE]:
                        self._delete_one(path)

    def listing(self, prefix: str, after: str = "") -> Iterator[Listed]:
        """Yield the objects below a prefix, in order of their paths, behind a path."""
        with _mapped():
            pages = obstore.list(  # pyright: ignore[reportUnknownMemberType]  # it may also return Arrow's batches
                self._store, prefix, offset=after or None, chunk_size=LISTED_AT_ONCE
            )
            for page in pages:
                for found in page:
                    yield Listed(found["path"], found["size"])

    def _delete_one(self, path: str) -> None:
        try:
            obstore.delete(self._store, path)
        except FileNotFoundError:
            return


def open_bucket(place: BucketPlace) -> ObjectBucket:
    """Return a bucket of an S3 cluster; nothing is asked of it yet.

    Raises:
        StoreUnavailableError: The place makes no sense.
    """
    with _mapped():
        store = S3Store(
            place.bucket,
            prefix=place.prefix or None,
            endpoint=place.endpoint,
            region=place.region,
            access_key_id=place.access_key_id,
            secret_access_key=place.secret_access_key,
            virtual_hosted_style_request=False,
            client_options={
                "allow_http": place.endpoint.startswith("http://"),
                "timeout": timedelta(seconds=REQUEST_S),
            },
            retry_config={"max_retries": 8, "retry_timeout": timedelta(seconds=RETRY_S)},
        )
    return ObjectBucket(store)


def memory_bucket() -> ObjectBucket:
    """Return a bucket that the process forgets, with the same client: for tests."""
    return ObjectBucket(MemoryStore())


@contextmanager
def _mapped() -> Generator[None]:
    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        raise StoreUnavailableError(f"object store: {' '.join(str(error).split())[:400]}") from error
