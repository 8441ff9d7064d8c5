"""What the object commands do with an open client: files and trees in and out."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Final

import trio

from consensus.errors import GrandestError
from node.cli import ExitCode, UsageError
from node.cli.output import Json, Measure, Progress, bytes_text, error_text, note, one_line
from node.cli.whole_file import whole_file
from node.client.errors import ObjectMissingError
from node.client.sources import FileSource
from node.errors import ConfigurationError
from storage.transactions import ENTRIES_MAX

if TYPE_CHECKING:
    from node.client import Acknowledgement, Client, ObjectStatus
    from node.client.client import Listed, ProvenObject
    from node.client.download import Sink

    Show = Callable[[Json, str], None]

PUTS_AT_ONCE: Final = 256
"""Small files travel together in packs; this many wait for the same commit."""
GETS_AT_ONCE: Final = 16
STANDARD_STREAM: Final = "-"
FAILURES_SHOWN_MAX: Final = 10
INLINE_BYTES_MAX: Final = 256 * 1024
DELETED_AT_ONCE: Final = ENTRIES_MAX // 2


async def put_tree(client: Client, path: str, place: tuple[str, str], show: Show) -> int:
    """Store a file, standard input or every regular file of a directory."""
    bucket, name = place
    if _is_directory(path):
        return await _put_directory(client, Path(path), bucket, name, show)
    if not name or name.endswith("/"):
        if path == STANDARD_STREAM:
            raise UsageError("standard input needs a name: BUCKET/KEY")
        name += Path(path).name
    began = time.monotonic()
    with FileSource(_open_input(path)) as source:
        acknowledged = await client.put(bucket, name, source)
    seconds = time.monotonic() - began
    is_sealed = await _wait_sealed(client, [acknowledged])
    show(
        _put_json(f"{bucket}/{name}", acknowledged, is_sealed),
        _put_line(f"{bucket}/{name}", acknowledged, is_sealed, seconds),
    )
    return ExitCode.DONE


async def _put_directory(client: Client, directory: Path, bucket: str, prefix: str, show: Show) -> int:
    files = await trio.to_thread.run_sync(_regular_files, directory)
    total = sum(byte_count for _, byte_count in files)
    acknowledged: list[Acknowledgement] = []
    failed: list[str] = []
    began = time.monotonic()
    limit = trio.Semaphore(PUTS_AT_ONCE)
    with Progress(f"put {len(files)} files", total, Measure.BYTES) as progress:

        async def put_one(path: Path, byte_count: int) -> None:
            name = str(PurePosixPath(prefix) / path.relative_to(directory).as_posix()).lstrip("/")
            try:
                with FileSource(path.open("rb")) as source:
                    acknowledged.append(await client.put(bucket, name, source))
                progress.advance(byte_count)
            except (GrandestError, OSError) as error:
                failed.append(f"{path}: {error_text(error)}")
            finally:
                limit.release()

        async with trio.open_nursery() as nursery:
            for path, byte_count in files:
                await limit.acquire()
                nursery.start_soon(put_one, path, byte_count)
    seconds = time.monotonic() - began
    is_sealed = await _wait_sealed(client, acknowledged)
    receipts = min((each.receipts for each in acknowledged), default=0)
    state = "sealed" if is_sealed else "certified"
    show(
        {"objects": len(acknowledged), "bytes": total, "failed": failed, "receipts": receipts, "state": state},
        f"{len(acknowledged)} objects, {bytes_text(total)} in {seconds:.1f} s, at least {receipts} receipts, {state}",
    )
    for line in failed[:FAILURES_SHOWN_MAX]:
        note(one_line(f"failed: {line}"))
    return ExitCode.FAILED if failed else ExitCode.DONE


async def get_tree(client: Client, place: tuple[str, str], path: str, show: Show) -> int:
    """Read one object, or all under a prefix that ends in / or is a bucket."""
    bucket, name = place
    if not name or name.endswith("/"):
        return await _get_prefix(client, bucket, name, path, show)
    try:
        opened = await client.open(bucket, name)
    except ObjectMissingError:
        if _is_directory(path):
            return await _get_prefix(client, bucket, f"{name}/", path, show)
        raise
    began = time.monotonic()
    target = _target_of(path, name)
    with _output(target) as sink:
        await client.read(opened, sink)
    seconds = time.monotonic() - began
    byte_count = opened.record.object_record.plain_bytes
    if path != STANDARD_STREAM:
        rate = byte_count / max(seconds, 1e-6) / 1e6
        faults: dict[str, Json] = {str(seat): list(found) for seat, found in client.pool.faults().items()}
        show(
            {"path": str(target), "bytes": byte_count, "seconds": round(seconds, 3), "faults": faults},
            f"{bucket}/{name}: {bytes_text(byte_count)} in {seconds:.2f} s ({rate:.0f} MB/s)",
        )
    return ExitCode.DONE


async def _get_prefix(client: Client, bucket: str, prefix: str, path: str, show: Show) -> int:
    if path == STANDARD_STREAM:
        raise UsageError("several objects need a directory, not standard output")
    found = [listed async for listed in client.listing(bucket, prefix)]
    if not found:
        raise ObjectMissingError(f"no object under {bucket}/{prefix}")
    total = sum(listed.object_record.plain_bytes for listed in found)
    failed: list[str] = []
    limit = trio.Semaphore(GETS_AT_ONCE)
    began = time.monotonic()
    with Progress(f"get {len(found)} objects", total, Measure.BYTES) as progress:

        async def get_one(listed: Listed) -> None:
            try:
                target = _safe_target(Path(path), listed.path.removeprefix(f"{bucket}/{prefix}"))
                with _output(target) as sink:
                    await client.read(listed.opened, sink)
                progress.advance(listed.object_record.plain_bytes)
            except (GrandestError, OSError) as error:
                failed.append(f"{listed.path}: {error_text(error)}")
            finally:
                limit.release()

        async with trio.open_nursery() as nursery:
            for listed in found:
                await limit.acquire()
                nursery.start_soon(get_one, listed)
    seconds = time.monotonic() - began
    show(
        {"objects": len(found) - len(failed), "bytes": total, "failed": failed, "seconds": round(seconds, 3)},
        f"{len(found) - len(failed)} objects, {bytes_text(total)} in {seconds:.1f} s",
    )
    for line in failed[:FAILURES_SHOWN_MAX]:
        note(one_line(f"failed: {line}"))
    return ExitCode.FAILED if failed else ExitCode.DONE


async def remove_tree(client: Client, bucket: str, prefix: str) -> int:
    """Delete all objects under a prefix; returns how many."""
    names = [listed.path.removeprefix(f"{bucket}/") async for listed in client.listing(bucket, prefix)]
    for start in range(0, len(names), DELETED_AT_ONCE):
        await client.delete(bucket, names[start : start + DELETED_AT_ONCE])
    return len(names)


def status_json(status: ObjectStatus) -> Json:
    """Return an object's status as `stat --json` prints it."""
    return {
        "state": status.state,
        "k": status.k,
        "bytes": status.opened.record.object_record.plain_bytes,
        "segments": [
            {
                "id": segment.segment.segment_id.hex(),
                "k": segment.segment.k,
                "receipts": len(segment.segment.receipted),
                "columns": [{"seat": column.seat, "state": column.state} for column in segment.columns],
            }
            for segment in status.segments
        ],
        "columns_live": status.columns_live,
    }


def status_lines(status: ObjectStatus) -> list[str]:
    """Return an object's status for people."""
    record = status.opened.record.object_record
    live = f"{status.columns_live} of {status.columns} columns verified now"
    lines = [f"{record.name}: {bytes_text(record.plain_bytes)}, {status.state}, {live}"]
    for segment in status.segments:
        columns = " ".join(f"{column.seat}:{column.state}" for column in segment.columns)
        lines.append(f"  segment {segment.segment.segment_id.hex()[:16]} k={segment.segment.k} {columns}")
    return lines


def proven_json(proven: ProvenObject) -> Json:
    """Return what `verify --json` prints."""
    return {
        "verified": True,
        "height": proven.height,
        "signers": proven.signers,
        "columns_live": proven.status.columns_live,
        "object": status_json(proven.status),
    }


def proven_lines(proven: ProvenObject) -> list[str]:
    """Return a verification for people."""
    lines = status_lines(proven.status)
    return [*lines, f"verified: under the state root of header {proven.height}, signed by {proven.signers} members"]


async def _wait_sealed(client: Client, acknowledged: Sequence[Acknowledgement]) -> bool:
    absent = [segment_id for each in acknowledged if each.state != "sealed" for segment_id in each.segment_ids]
    return not absent or await client.wait_sealed(absent)


def _put_json(path: str, acknowledged: Acknowledgement, is_sealed: bool) -> Json:  # noqa: FBT001 (a result to print)
    return {
        "path": path,
        "version": acknowledged.version_id.hex(),
        "transaction": acknowledged.transaction_id.hex(),
        "height": acknowledged.height,
        "receipts": acknowledged.receipts,
        "state": "sealed" if is_sealed else acknowledged.state,
    }


def _put_line(path: str, acknowledged: Acknowledgement, is_sealed: bool, seconds: float) -> str:  # noqa: FBT001 (as above)
    state = "sealed" if is_sealed else acknowledged.state
    return (
        f"{path}: committed at height {acknowledged.height} in {seconds:.2f} s,"
        f" {acknowledged.receipts} of {acknowledged.columns} receipts, {state}"
    )


def _open_input(path: str) -> BinaryIO:
    if path != STANDARD_STREAM:
        return Path(path).open("rb")
    if sys.stdin is None:
        raise UsageError("standard input is closed: there is nothing to store")
    return sys.stdin.buffer


def _is_directory(path: str) -> bool:
    return path != STANDARD_STREAM and Path(path).is_dir()


def _regular_files(directory: Path) -> list[tuple[Path, int]]:
    """Return regular files below a directory, symbolic links left out, in order."""
    found: list[tuple[Path, int]] = []
    for folder, _, names in os.walk(directory):
        for name in names:
            path = Path(folder) / name
            if path.is_file() and not path.is_symlink():
                found.append((path, path.stat().st_size))
    return sorted(found)


def _target_of(path: str, name: str) -> Path | None:
    if path == STANDARD_STREAM:
        return None
    target = Path(path)
    return _safe_target(target, name.rpartition("/")[2]) if target.is_dir() else target


def _safe_target(directory: Path, name: str) -> Path:
    """Return where an object's name lies under a directory; names come from whoever wrote the bucket."""
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or PurePosixPath(name).is_absolute():
        raise ConfigurationError(f"object name {name!r} leads outside of {directory}; get it to a file of your choice")
    return directory.joinpath(*parts)


@contextmanager
def _output(target: Path | None) -> Generator[Sink]:
    """Give what takes an object's pieces: a file that is in its place when it is whole, or standard output."""
    with nullcontext(sys.stdout.buffer) if target is None else whole_file(target) as file:

        async def write(piece: memoryview) -> None:
            if len(piece) <= INLINE_BYTES_MAX:
                file.write(piece)
            else:
                await trio.to_thread.run_sync(file.write, piece)

        yield write
        file.flush()
