"""What the object commands do with an open client: files and trees in and out."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

import trio

from consensus.errors import GrandestError
from node.cli import ExitCode, UsageError
from node.cli.output import (
    Json,
    Measure,
    Progress,
    bytes_text,
    counted,
    error_text,
    note,
    one_line,
    rate_text,
)
from node.cli.whole_file import whole_file
from node.client.errors import ObjectMissingError
from node.client.sources import FileSource, PipeSource, is_pipe
from node.errors import ConfigurationError
from storage.transactions import ENTRIES_MAX

if TYPE_CHECKING:
    from node.client import Acknowledgement, Client, ObjectStatus
    from node.client.download import Sink
    from node.client.results import Listed, ProvenObject

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
    with _open_source(path) as source:
        began = time.monotonic()
        acknowledged = await client.put(bucket, name, source)
    seconds = time.monotonic() - began
    state = await _state_now(client, [acknowledged])
    show(
        _put_json(f"{bucket}/{name}", acknowledged, state),
        _put_line(f"{bucket}/{name}", acknowledged, state, seconds),
    )
    return ExitCode.DONE


async def _put_directory(client: Client, directory: Path, bucket: str, prefix: str, show: Show) -> int:
    tree = await trio.to_thread.run_sync(_tree_of, directory)
    files = tree.files
    acknowledged: list[Acknowledgement] = []

    async def put_one(path: Path) -> None:
        name = f"{prefix}{'' if prefix.endswith('/') or not prefix else '/'}{path.relative_to(directory).as_posix()}"
        with FileSource(path.open("rb")) as source:
            acknowledged.append(await client.put(bucket, name, source))

    began = time.monotonic()
    works = [_Work(str(path), byte_count, partial(put_one, path)) for path, byte_count in files]
    failed = [*tree.unread, *await _do_all(works, PUTS_AT_ONCE, f"put {counted(len(files), 'file')}")]
    seconds = time.monotonic() - began
    byte_count = sum(work.byte_count for work in works)
    receipts, state = None, None
    said = f"{counted(len(acknowledged), 'object')}, {bytes_text(byte_count)} in {seconds:.1f} s"
    if acknowledged:
        receipts = min(each.receipts for each in acknowledged)
        state = await _state_now(client, acknowledged)
        said += f", at least {receipts} receipts, {state}"
    elif not files:
        said = f"nothing stored: {directory} holds no regular file"
    if tree.left_out:
        said += f"; left out what is no regular file: {tree.left_out}"
    show(
        {
            "objects": len(acknowledged),
            "bytes": byte_count,
            "failed": failed,
            "left_out": tree.left_out,
            "receipts": receipts,
            "state": state,
        },
        said,
    )
    return _exit_code(failed)


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
        faults: dict[str, Json] = {str(seat): list(found) for seat, found in client.pool.faults().items()}
        show(
            {"path": str(target), "bytes": byte_count, "seconds": round(seconds, 3), "faults": faults},
            f"{bucket}/{name}: {bytes_text(byte_count)} in {seconds:.2f} s ({rate_text(byte_count, seconds)})",
        )
    return ExitCode.DONE


async def _get_prefix(client: Client, bucket: str, prefix: str, path: str, show: Show) -> int:
    if path == STANDARD_STREAM:
        raise UsageError("several objects need a directory, not standard output")
    found = [listed async for listed in client.listing(bucket, prefix)]
    if not found:
        raise ObjectMissingError(f"no object under {bucket}/{prefix}")

    async def get_one(listed: Listed) -> None:
        name = listed.object_record.name.removeprefix(prefix)
        if listed.object_record.plain_bytes == 0 and (not name or name.endswith("/")):
            _folder_of(Path(path), name).mkdir(parents=True, exist_ok=True)
            return
        target = _safe_target(Path(path), name)
        with _output(target) as sink:
            await client.read(listed.opened, sink)

    began = time.monotonic()
    works = [_Work(listed.path, listed.object_record.plain_bytes, partial(get_one, listed)) for listed in found]
    failed = await _do_all(works, GETS_AT_ONCE, f"get {counted(len(found), 'object')}")
    seconds = time.monotonic() - began
    byte_count = sum(work.byte_count for work in works)
    got = len(found) - len(failed)
    show(
        {"objects": got, "bytes": byte_count, "failed": failed, "seconds": round(seconds, 3)},
        f"{counted(got, 'object')}, {bytes_text(byte_count)} in {seconds:.1f} s",
    )
    return _exit_code(failed)


@dataclass(frozen=True, slots=True)
class _Work:
    """One of many objects on their way."""

    name: str
    byte_count: int
    run: Callable[[], Awaitable[None]]


async def _do_all(works: Sequence[_Work], at_once: int, label: str) -> list[str]:
    """Do all, so many at once; returns what failed and why, a line each."""
    failed: list[str] = []
    if not works:
        return failed
    limit = trio.Semaphore(at_once)
    with Progress(label, sum(work.byte_count for work in works), Measure.BYTES) as progress:

        async def do_one(work: _Work) -> None:
            try:
                await work.run()
                progress.advance(work.byte_count)
            except (GrandestError, OSError) as error:
                failed.append(f"{work.name}: {error_text(error)}")
            finally:
                limit.release()

        async with trio.open_nursery() as nursery:
            for work in works:
                await limit.acquire()
                nursery.start_soon(do_one, work)
    return failed


def _exit_code(failed: Sequence[str]) -> ExitCode:
    """Say what failed."""
    for line in failed[:FAILURES_SHOWN_MAX]:
        note(one_line(f"failed: {line}"))
    return ExitCode.FAILED if failed else ExitCode.DONE


async def remove_tree(client: Client, bucket: str, prefix: str) -> int:
    """Delete all objects under a prefix; returns how many."""
    names = [listed.object_record.name async for listed in client.listing(bucket, prefix)]
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


async def _state_now(client: Client, acknowledged: Sequence[Acknowledgement]) -> str:
    """Return how safe all of it is, after a short wait for the columns of absent holders."""
    absent = [segment_id for each in acknowledged if each.state != "sealed" for segment_id in each.segment_ids]
    return "sealed" if not absent or await client.wait_sealed(absent) else "certified"


def _put_json(path: str, acknowledged: Acknowledgement, state: str) -> Json:
    return {
        "path": path,
        "version": acknowledged.version_id.hex(),
        "transaction": acknowledged.transaction_id.hex(),
        "height": acknowledged.height,
        "receipts": acknowledged.receipts,
        "state": state,
    }


def _put_line(path: str, acknowledged: Acknowledgement, state: str, seconds: float) -> str:
    return (
        f"{path}: committed at height {acknowledged.height} in {seconds:.2f} s,"
        f" {acknowledged.receipts} of {acknowledged.columns} receipts, {state}"
    )


@contextmanager
def _open_source(path: str) -> Generator[FileSource | PipeSource]:
    """Open what is to be stored; a named pipe at once, since reading it waits for its writer and can be ended."""
    if path == STANDARD_STREAM:
        if sys.stdin is None:
            raise UsageError("standard input is closed: there is nothing to store")
        with sys.stdin.buffer as file:
            yield PipeSource(file.fileno()) if is_pipe(file.fileno()) else FileSource(file)
    elif Path(path).is_fifo():
        note(one_line(f"{path} is a pipe: storing what comes until its writer ends"))
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as pipe:
            yield PipeSource(pipe.fileno())
    else:
        with FileSource(Path(path).open("rb")) as source:
            yield source


def _is_directory(path: str) -> bool:
    return path != STANDARD_STREAM and Path(path).is_dir()


@dataclass(frozen=True, slots=True)
class _Tree:
    """What lies below a directory."""

    files: list[tuple[Path, int]]
    """Regular files and their bytes, in order."""
    left_out: int
    """Symbolic links, pipes, sockets and devices."""
    unread: list[str]
    """What could not be looked at and why, a line each."""


def _tree_of(directory: Path) -> _Tree:
    files: list[tuple[Path, int]] = []
    left_out, unread = 0, list[str]()
    for folder, folders, names in os.walk(directory, onerror=lambda error: unread.append(error_text(error))):
        left_out += sum(Path(folder, name).is_symlink() for name in folders)
        for name in names:
            path = Path(folder) / name
            try:
                status = path.lstat()
            except OSError as error:  # gone meanwhile
                unread.append(error_text(error))
                continue
            if stat.S_ISREG(status.st_mode):
                files.append((path, status.st_size))
            else:
                left_out += 1
    return _Tree(sorted(files), left_out, unread)


def _target_of(path: str, name: str) -> Path | None:
    if path == STANDARD_STREAM:
        return None
    target = Path(path)
    return _safe_target(target, name.rpartition("/")[2]) if target.is_dir() else target


def _safe_target(directory: Path, name: str) -> Path:
    """Return where an object's name lies under a directory; names come from whoever wrote the bucket.

    A name that is no path of its own, as `a//b` and `./a` are none, would take the place of another's file.
    """
    path = PurePosixPath(name)
    if str(path) != name or name == "." or "\0" in name or ".." in path.parts or path.is_absolute():
        raise ConfigurationError(f"object name {name!r} is no path below {directory}; get it to a file of your choice")
    return directory / path


def _folder_of(directory: Path, name: str) -> Path:
    """Return what an empty object stands for whose name ends in /, as S3's tools keep an empty folder."""
    return _safe_target(directory, name.removesuffix("/")) if name else directory


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
