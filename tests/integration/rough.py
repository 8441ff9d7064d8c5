"""What the tests that hurt nodes share: a client's load, whole reads of one holder, signatures on every disk."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import trio

from consensus.blocks import DecidedBlock
from consensus.certificates import CommitCertificate, bitmap_members
from consensus.encoding import decode
from consensus.genesis import genesis_hash
from consensus.messages import MESSAGE_BYTES_MAX
from node.client import bytes_source, open_client, read_client_home
from node.clock import now_ms
from node.entry_file import EntryReader
from node.network.shard_channel import MemberReads
from node.signer import ENTRY_BYTES_MAX, HEAD, MAGIC, SignedStep, SignerEntry, _Line
from storage.errors import ShardCorruptError, ShardMissingError
from storage.identifiers import SeatIndex, SegmentId
from storage.merkle import check_range
from storage.placement import seat_column
from storage.segments import SegmentShape
from testnet.cluster import Cluster, process_of
from testnet.processes import end_process, kill_process, wait_until_ended

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from node.client import Client
    from node.client.links import HolderLink

BUCKET = "trouble"
STOP_SECONDS_MAX = 15.0


def contents_of(name: str, byte_count: int) -> bytes:
    """Return an object's bytes, the same whenever they are asked for."""
    return hashlib.shake_256(name.encode()).digest(byte_count)


@asynccontextmanager
async def client_of(cluster: Cluster) -> AsyncGenerator[Client]:
    """Give the demo tenant's client."""
    async with open_client(read_client_home(cluster.home / "client")) as client:
        yield client


async def put(client: Client, name: str, byte_count: int) -> int:
    """Store an object and return its receipts."""
    source = bytes_source(contents_of(name, byte_count))
    return (await client.put(BUCKET, name, source)).receipts


async def write_for_ever(client: Client, prefix: str, written: dict[str, int]) -> None:
    """Store one small object after the other and note each that was acknowledged."""
    while True:
        name, byte_count = f"{prefix}-{len(written)}", 10_000
        await put(client, name, byte_count)
        written[name] = byte_count


async def check_all(client: Client, written: dict[str, int]) -> None:
    """Read every object and compare it byte by byte."""
    for name, byte_count in written.items():
        assert await client.get(BUCKET, name) == contents_of(name, byte_count), name


async def wait_for_columns(client: Client, names: Sequence[str], seconds: float = 90.0) -> None:
    """Wait until all nine columns of every object are stored, verified from outside."""
    with trio.fail_after(seconds):
        for name in names:
            while (await client.stat(await client.open(BUCKET, name))).columns_live < 9:
                with trio.move_on_after(0.5):  # nothing tells a client of a rebuilt column
                    await trio.sleep_forever()


async def segments_of(client: Client, names: Sequence[str]) -> list[SegmentId]:
    """Return the segments of some objects."""
    found: dict[SegmentId, None] = {}
    for name in names:
        opened = await client.open(BUCKET, name)
        found.update(dict.fromkeys(reference.segment_id for reference in opened.entry.references))
    return list(found)


async def damaged_leaves(client: Client, link: HolderLink, seat: SeatIndex, segments: Sequence[SegmentId]) -> int:
    """Read every leaf of a seat's columns one by one: it is what the chain says, or it is refused. Count refusals."""
    refused = 0
    for segment_id in segments:
        segment = await client.segment(segment_id)
        column = seat_column(segment_id, seat, [SeatIndex(index) for index in range(9)])
        assert column is not None
        shape = SegmentShape(segment.segment_bytes, segment.k, 9)
        for leaf in range(shape.leaves):
            try:
                answer = await link.read_leaves(segment_id, column, leaf, 1)
            except (ShardCorruptError, ShardMissingError):
                refused += 1
                continue
            check_range(segment.roots[column], answer.leaves, leaf, shape.shard_bytes, answer.proof)
    return refused


def reads_of(cluster: Cluster) -> MemberReads:
    """Return what a member's own key needs beside it to read another's columns."""
    return MemberReads(genesis_hash(cluster.genesis), now_ms)


def stop_seat(cluster: Cluster, seat: SeatIndex) -> None:
    """End a node in order."""
    running = process_of(cluster, seat)
    assert running is not None
    end_process(running, signal.SIGTERM)
    if not wait_until_ended(running, STOP_SECONDS_MAX):
        kill_process(running)
        raise AssertionError(f"seat {seat} does not stop")


def anonymous_bytes(cluster: Cluster, seat: SeatIndex) -> int:
    """Return the memory that a node has touched and no file backs."""
    running = process_of(cluster, seat)
    assert running is not None
    status = Path(f"/proc/{running.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.split("\n") if line.startswith("RssAnon"))


def flip_bits(folder: Path, every_bytes: int) -> int:
    """Flip one bit of every so many bytes in each file of rows, in place; return how many."""
    flipped = 0
    for path in sorted((*folder.glob("*.ldb"), *folder.glob("*.log"))):
        with path.open("r+b") as file:
            for offset in range(every_bytes // 2, path.stat().st_size, every_bytes):
                file.seek(offset)
                (byte,) = file.read(1)
                file.seek(offset)
                file.write(bytes([byte ^ 1]))
                flipped += 1
    return flipped


def signed_entries(record: Path) -> Iterator[SignerEntry]:
    """Yield what a stopped node's signer record holds, a torn end left out."""
    encoded = record.read_bytes()
    assert encoded.startswith(MAGIC)
    reader, offset = EntryReader(encoded, HEAD, ENTRY_BYTES_MAX), len(MAGIC)
    while (found := reader.read(offset)) is not None:
        entry = decode(found.payload, _Line, bytes_max=ENTRY_BYTES_MAX).entry
        if isinstance(entry, SignerEntry):
            yield entry
        offset = found.end


class Signatures:
    """Every signature found anywhere, by who made it for which step; a second one for a step is an equivocation."""

    def __init__(self) -> None:
        """Know none."""
        self._found: dict[tuple[int, int, int, int], bytes] = {}

    def __len__(self) -> int:
        """Return how many steps were signed."""
        return len(self._found)

    def add(self, member: int, height: int, round_: int, step: int, signature: bytes) -> None:
        """Note a signature; one step has one."""
        assert self._found.setdefault((member, height, round_, step), signature) == signature, (member, height, round_)

    def add_record(self, member: int, record: Path) -> None:
        """Note what a signer record holds."""
        for entry in signed_entries(record):
            self.add(member, entry.height, entry.round, entry.step, entry.signature)

    def add_chain(self, cluster: Cluster, seat: SeatIndex) -> int:
        """Note every precommit and prevote in a node's blocks, none of which may hold evidence; return its height."""
        height = 0
        with httpx.Client(base_url=cluster.api_address(seat), timeout=30, trust_env=False) as http:
            while answer := http.get(f"/v1/raw/blocks?from={height + 1}&count=64").raise_for_status().content:
                while answer:
                    byte_count = int.from_bytes(answer[:4], "big")
                    decided = decode(answer[4 : 4 + byte_count], DecidedBlock, bytes_max=MESSAGE_BYTES_MAX)
                    answer = answer[4 + byte_count :]
                    height = decided.block.header.height
                    assert decided.block.evidence == ()
                    self._add_certificate(decided.commit)
        return height

    def _add_certificate(self, commit: CommitCertificate) -> None:
        for member, signature in zip(bitmap_members(commit.members), commit.signatures, strict=True):
            self.add(member, commit.height, commit.round, SignedStep.PRECOMMIT, signature)
